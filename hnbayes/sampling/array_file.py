"""A file of plain arrays and one JSON record, with a checksum: nothing in it can be code.

Layout: 8 bytes that name the format; the length of the header, 8 bytes; the header as JSON, padded; the arrays one
after another, in C order; SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hnbayes._files import written_in_one_step
from hnbayes.kernels.arrays import Host

MAGIC = b"hnbayes\x01"
DIGEST = 32
ALIGNMENT = 64
DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "float16", "float32", "float64"},
)


class DamagedFileError(ValueError):
    """A file isn't what was written: cut short, changed, or of another kind."""


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Host], record: Mapping[str, Any]) -> None:
    """Write a file that is there whole, on the disk, or not at all.

    Args:
        path: of the file.
        arrays: name -> array of truth values or numbers.
        record: what JSON takes.
    """
    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if wrong := [name for name, array in ordered.items() if str(array.dtype) not in DTYPES]:
        raise ValueError(f"arrays must be of truth values or numbers; {wrong[0]} is of {ordered[wrong[0]].dtype}.")
    entries = [[name, str(array.dtype), list(array.shape)] for name, array in ordered.items()]
    header = json.dumps({"arrays": entries, "record": record}, allow_nan=False).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % ALIGNMENT)
    digest = hashlib.sha256()
    with written_in_one_step(path) as file:
        contents = (values.reshape(-1).view(np.uint8).data for values in ordered.values())
        parts: list[Any] = [MAGIC, len(header).to_bytes(8, "little"), header, *contents]
        for part in parts:
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Host], dict[str, Any]]:
    """The arrays and the record of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFileError: if it isn't as it was written.
    """
    with open(path, "rb") as file:
        content = file.read()
    if content[: len(MAGIC)] != MAGIC:
        raise DamagedFileError(f"{path} must be a file of hnbayes' format 1; it begins otherwise.")
    body = memoryview(content)[:-DIGEST]
    if hashlib.sha256(body).digest() != content[-DIGEST:]:
        raise DamagedFileError(f"{path} is damaged: its checksum isn't that of its content.")
    try:
        return _parsed(body)
    except (KeyError, TypeError, ValueError) as error:
        # Its checksum is right, so somebody has made it so.
        raise DamagedFileError(f"{path} must hold the arrays that its header names: {error}") from error


def _parsed(body: memoryview) -> tuple[dict[str, Host], dict[str, Any]]:
    at = len(MAGIC) + 8
    size = int.from_bytes(body[len(MAGIC) : at], "little")
    header = json.loads(bytes(body[at : at + size]))
    at += size
    arrays: dict[str, Host] = {}
    for name, dtype, shape in header["arrays"]:
        if dtype not in DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"{name} is of dtype {dtype} and shape {shape}.")
        count = math.prod(shape)
        stop = at + count * np.dtype(dtype).itemsize
        if stop > len(body):
            raise ValueError(f"{name} goes beyond the file's end.")
        # A copy, so that it can be written to and lets go of the rest.
        arrays[str(name)] = np.frombuffer(body[at:stop], dtype).reshape(shape).copy()
        at = stop
    return arrays, dict(header["record"])
