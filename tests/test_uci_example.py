"""examples/uci_regression.py with the smallest budgets: scores by hand, what is there isn't done again, resuming."""

from __future__ import annotations

import csv
import importlib.util
import signal
import subprocess
import sys
import time

import numpy as np
import torch
from example_runs import ENVIRONMENT, EXAMPLES, command_of, run_example

EXAMPLE = ("uci_regression.py", "--data", "yacht", "--splits", 1)


def run(*arguments):
    result = run_example(*EXAMPLE, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_table_a_picture_and_no_run_twice(tmp_path):
    first = run("--quick", "--methods", "ensemble", "mclmc", "nuts", "--out", tmp_path)
    found = rows(tmp_path)
    assert {row["noise"] for row in found} == {"heteroscedastic"}
    assert [row["method"] for row in found] == ["ensemble", "mclmc", "nuts"]
    assert all(0 < float(row["rmse"]) < 15 for row in found)  # the target's standard deviation is 15
    for row in found:
        assert f"{float(row['rmse']):.4f}" in first
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    again = run("--quick", "--methods", "ensemble", "mclmc", "nuts", "--out", tmp_path)
    assert again.count("already") == 3
    assert rows(tmp_path) == found
    run("--quick", "--methods", "mclmc", "--noise", "constant", "--out", tmp_path)
    assert rows(tmp_path)[3]["noise"] == "constant"


def test_a_run_that_is_stopped_goes_on(tmp_path):
    options = ["--members", "2", "--warmup", "5", "--draws", "60", "--methods", "mclmc", "--out", str(tmp_path)]
    process = subprocess.Popen(command_of(*EXAMPLE, *options), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "yacht-0-mclmc-2-heteroscedastic"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert not (tmp_path / "results.csv").exists()
    assert "going on with" in run(*options)
    assert len(rows(tmp_path)) == 1
    assert not folder.exists()


def test_scores_are_those_of_the_mixture():
    """By hand, from the outputs of each draw."""
    spec = importlib.util.spec_from_file_location("uci_regression", EXAMPLES / "uci_regression.py")
    example = importlib.util.module_from_spec(spec)
    sys.modules["uci_regression"] = example
    spec.loader.exec_module(example)
    import hnbayes

    split = example.load("yacht", 0)
    assert len(split.X) == 277
    assert len(split.X_test) == 31
    assert abs(float(split.y.std(correction=0)) - 1) < 1e-5
    members = hnbayes.deep_ensemble(
        example.network(6, 2), split.X, split.y, likelihood=example.HeteroscedasticGaussian(), members=3,
        training=example.QUICK, seed=0,
    )  # fmt: skip
    outputs = members.outputs(split.X_test)[:, 0]
    mean, scale = outputs[..., 0], 1e-3 + torch.nn.functional.softplus(outputs[..., 1])
    y = split.y_test[:, 0]
    center, variance = mean.mean(0), mean.var(0, correction=0) + scale.square().mean(0)
    moments = -torch.distributions.Normal(center, variance.sqrt()).log_prob(y).mean()
    density = torch.distributions.Normal(mean, scale).log_prob(y)
    mixture = -(torch.logsumexp(density, 0) - np.log(3)).mean()
    found = example.scores(members, split)
    np.testing.assert_allclose(found["rmse"], split.unit * float((center - y).square().mean().sqrt()), rtol=1e-5)
    np.testing.assert_allclose(found["nll_moments"], float(moments) + np.log(split.unit), rtol=1e-4)
    np.testing.assert_allclose(found["nll_mixture"], float(mixture) + np.log(split.unit), rtol=1e-4)
