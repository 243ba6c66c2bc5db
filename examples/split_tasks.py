"""Digits as five tasks of two classes each: scikit-learn's 8 x 8 digits, or MNIST from its idx files."""

from __future__ import annotations

import gzip
import pathlib
import struct
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

TASKS = 5
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Two classes of digits, 2t and 2t + 1.

    Attributes:
        train: inputs (N, D) and digits (N,).
        validation: the same, to choose strengths by.
        test: the same.
    """

    train: Part
    validation: Part
    test: Part


def sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (1797, 64) from 0 to 1, and digits."""
    digits = load_digits()
    return digits.data / 16, digits.target


def mnist(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, 784) from 0 to 1, and digits, from the idx files of a folder, packed or not.

    Raises:
        ValueError: if files are missing or aren't idx files.
    """
    parts = []
    for kind in ("images-idx3", "labels-idx1"):
        arrays = []
        for prefix in ("train", "t10k"):
            found = [p for p in sorted(folder.glob(f"{prefix}-{kind}-ubyte*")) if p.suffix in ("", ".gz")]
            if found:
                arrays.append(read_idx(found[0]))
        if not arrays:
            raise ValueError(f"there are no files train-{kind}-ubyte or t10k-{kind}-ubyte (or .gz) in {folder}")
        parts.append(np.concatenate(arrays))
    images, labels = parts
    if len(images) != len(labels):
        raise ValueError(f"{folder} must hold as many images as labels; it has {len(images)} and {len(labels)}")
    return images.reshape(len(images), -1) / 255, labels.astype(np.int64)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The array of unsigned bytes that an idx file holds.

    Raises:
        ValueError: if it is no such file, or is cut off.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 8 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an idx file of unsigned bytes")
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} must hold {np.prod(shape)} numbers, as its header says; it has {values.size}")
    return values.reshape(shape)


def split(inputs: np.ndarray, digits: np.ndarray, seed: int, limit: int | None = None) -> list[Task]:
    """Each task's samples in random order: three fifths to learn, one fifth to choose by, one fifth to test.

    Args:
        inputs: (N, D).
        digits: (N,), from 0 to 9.
        seed: of the order.
        limit: samples of a task at most.
    """
    order = np.random.default_rng(seed).permutation(len(digits))
    tasks = []
    for t in range(TASKS):
        rows = order[digits[order] // 2 == t][:limit]
        X, y = torch.tensor(inputs[rows], dtype=torch.float32), torch.tensor(digits[rows])
        cuts = len(rows) * 3 // 5, len(rows) * 4 // 5
        parts = [(X[a:b], y[a:b]) for a, b in ((0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], len(rows)))]
        tasks.append(Task(*parts))
    return tasks
