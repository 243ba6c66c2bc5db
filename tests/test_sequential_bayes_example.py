"""The sequential-Bayes example, with the smallest budgets: table, picture and what it says of them."""

from __future__ import annotations

import csv
import re
import subprocess

from example_runs import run_example


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_example("sequential_bayes.py", "--quick", *arguments)


def test_priors_from_task_1_remember_it(tmp_path):
    result = run("--out", tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "table.csv").open() as file:
        table = {row.pop("posterior"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}
    alone, together = table["task 2 alone"], table["both tasks together"]
    for name in ("EWC", "SI", "draws", "draws, in Pyro"):
        row = table[f"prior from {name}"]
        assert row["rmse_1"] < 0.6 * alone["rmse_1"]
        assert row["lpd_1"] > alone["lpd_1"] + 0.1
        assert row["rmse_2"] < 1.25 * together["rmse_2"]
    # Laplace's Gaussian has the variances given the other weights: at these, it comes close to both tasks together.
    assert abs(table["prior from EWC"]["lpd_1"] - together["lpd_1"]) < 0.15
    apart = float(re.findall(r"mean curves at most (\S+) of a posterior sd apart", result.stdout)[0])
    assert apart < 0.4  # two means of 240 draws each, by other random numbers; different posteriors are 1 or more apart
    assert (tmp_path / "sequential_bayes.png").read_bytes().startswith(b"\x89PNG")


def test_bad_seed():
    result = run("--seed", "-1")
    assert result.returncode == 2
    assert "--seed must be at least 0" in result.stderr
