"""The hypernetwork example, with the smallest budgets."""

from __future__ import annotations

import csv
import subprocess

import pytest
from example_runs import run_example


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_example("hypernet_continual.py", *arguments)


def test_it_remembers_and_writes_its_files(tmp_path):
    pytest.importorskip("sklearn")
    result = run("--quick", "--steps", 60, "--draws", 50, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "summary.csv").open() as file:
        table = {row["quantity"]: float(row["value"]) for row in csv.DictReader(file)}
    assert table["hypernetwork regularised: mean of all tasks"] > 0.95
    assert table["hypernetwork regularised: forgetting"] < 0.02
    assert table["no regularisation: forgetting"] > table["hypernetwork regularised: forgetting"] + 0.01
    returning = table["returning task 4|5: posterior of the embedding"]
    assert returning > table["returning task 4|5: embeddings from the prior"]
    assert table["returning task 4|5: nearest learned task"] == 3
    for name in ("accuracy.png", "embedding.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_bad_options_are_explained():
    result = run("--steps", "3")
    assert result.returncode == 2
    assert "at least 10 steps" in result.stderr
