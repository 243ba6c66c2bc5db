"""The continual-learning example with the smallest budget: table, files, idx files and errors."""

from __future__ import annotations

import csv
import gzip
import importlib
import struct
import subprocess

import numpy as np
import pytest
from example_runs import EXAMPLES, run_example


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_example("continual_learning.py", "--quick", "--workers", "1", *arguments)


def test_the_table_and_its_files(tmp_path):
    result = run("--scenarios", "Task-IL", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "table.csv").open() as file:
        accuracy = {row["method"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    assert len(accuracy) == 10
    for method in ("EWC", "online EWC", "SI", "sequential Bayes"):
        assert accuracy[f"{method}, chosen"] > accuracy["none"] + 0.05
        assert accuracy["joint"] > accuracy[f"{method}, chosen"] - 0.005
    assert accuracy["sequential Bayes, chosen"] > accuracy["EWC, chosen"] - 0.005
    assert accuracy["joint"] > 0.97
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 50
    for label in accuracy:
        assert label in result.stdout


def write_idx(path, array, pack=False):
    content = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if pack else content)


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("split_tasks")


def test_idx_files(tmp_path, tasks):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(30, 4, 5), dtype=np.uint8), rng.integers(10, size=30, dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images[:20])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:20], pack=True)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images[20:], pack=True)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[20:])
    inputs, digits = tasks.mnist(tmp_path)
    np.testing.assert_allclose(inputs, images.reshape(30, 20) / 255)
    assert (digits == labels).all()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x09abc")
    with pytest.raises(ValueError, match="must hold 9 numbers"):
        tasks.mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"hello")
    with pytest.raises(ValueError, match="must be an idx file"):
        tasks.mnist(tmp_path)


def test_parts_are_apart(tasks):
    inputs, digits = tasks.sklearn_digits()
    found = tasks.split(inputs, digits, seed=0)
    for t, task in enumerate(found):
        labels = [part[1] for part in (task.train, task.validation, task.test)]
        assert {int(label) for part in labels for label in part} == {2 * t, 2 * t + 1}
        assert sum(map(len, labels)) == int((digits // 2 == t).sum())
    rows = [tuple(row.tolist()) for task in found for part in (task.train, task.test) for row in part[0]]
    assert len(set(rows)) > 0.99 * len(rows)


def test_bad_arguments(tmp_path):
    result = run("--mnist", tmp_path, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "there are no files train-images-idx3-ubyte" in result.stderr
    assert not (tmp_path / "out").exists()
    result = run("--scenarios", "Any-IL")
    assert result.returncode == 2
    assert "--scenarios must be of Task-IL" in result.stderr
