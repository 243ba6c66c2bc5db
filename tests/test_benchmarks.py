"""The comparison of samplers runs, counts what it says, and its page's commands exist."""

from __future__ import annotations

import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

ROOT = pathlib.Path(__file__).parent.parent
BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_nuts  # noqa: E402
from nuts.problems import PROBLEMS, Network  # noqa: E402
from nuts.worker import SAMPLERS  # noqa: E402


def probability(problem, q):
    """-U up to a constant in float64, by NumPy and SciPy."""
    from scipy import special, stats

    q = q.astype(np.float64)
    if isinstance(problem, Network):
        activation = np.tanh if problem.activation == "tanh" else lambda x: x * (x > 0)
        x, at = problem.inputs.astype(np.float64), 0
        for layer, (before, after) in enumerate(zip(problem.sizes[:-1], problem.sizes[1:], strict=True)):
            weight, at = q[at : at + before * after].reshape(after, before), at + before * after
            bias, at = q[at : at + after], at + after
            x = np.einsum("ni,oi->no", activation(x) if layer else x, weight) + bias
        log_prior = stats.norm.logpdf(q).sum()
        if problem.classify:
            return log_prior + special.log_softmax(x, 1)[np.arange(len(x)), problem.targets].sum()
        return log_prior + stats.norm.logpdf(problem.targets, x, 0.5**0.5).sum()
    if isinstance(problem, PROBLEMS["schools"]):
        mu, tau, eta = q[0], np.exp(q[1]), q[2:]
        prior = stats.norm.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(tau, scale=5) + q[1]
        likelihood = stats.norm.logpdf([28, 8, -3, 7, -1, 1, 18, 12], mu + tau * eta, [15, 10, 16, 11, 9, 11, 10, 18])
        return prior + stats.norm.logpdf(eta).sum() + likelihood.sum()
    if isinstance(problem, PROBLEMS["gaussian"]):
        return stats.norm.logpdf(q, 0, 10 ** np.linspace(-2, 0, 100)).sum()
    funnels = [stats.norm.logpdf(q[1:], 0, np.exp(sign * q[0] / 2)).sum() for sign in (1, -1)]
    return stats.norm.logpdf(q[0], 0, 1.5) + special.logsumexp(funnels)


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_what_their_names_say(name):
    problem = PROBLEMS[name]()
    U, probes = problem.torch_potential(), problem.probes()
    energies = np.array([float(U(torch.from_numpy(q))) for q in probes])
    expected = np.array([-probability(problem, q) for q in probes])
    differences = expected[1:] - expected[0]
    np.testing.assert_allclose(energies[1:] - energies[0], differences, atol=1e-4 * np.abs(differences).max())


def test_another_density_is_no_result():
    reports = [{"energies": [0.0, 1.0, 5.0]}, {"energies": [7.0, 8.0, 12.0]}]
    bench_nuts.check_same_density(reports)
    with pytest.raises(SystemExit, match="densities differ"):
        bench_nuts.check_same_density([*reports, {"energies": [7.0, 8.0, 12.1]}])


def test_run_counts_gradients_and_what_lockstep_would_take(tmp_path):
    written = tmp_path / "out.json"
    options = ["--problem", "funnels", "--chains", "3", "--warmup", "20", "--draws", "20"]
    command = [sys.executable, BENCHMARKS / "bench_nuts.py", *options, "--json", written]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((report,),) = json.loads(written.read_text())
    extra = report["extra"]
    assert "hnbayes" in shown
    assert len(report["ess"]) == 10
    assert 0 < report["draw_gradients"] < report["gradients"]
    assert 0 < report["preparing_s"] < report["wall_s"]
    # All rows work until a chain ends; lockstep takes no fewer than ours, nor more than if one chain had all gradients.
    assert extra["useful_rows_until_a_chain_ends"] == 1
    assert report["gradients"] <= extra["rows"] <= extra["rows_in_lockstep"]
    assert extra["rows_in_lockstep"] <= 3 * report["gradients"]


def test_commands_of_the_page_exist():
    page = (ROOT / "docs" / "performance.md").read_text()
    commands = re.findall(r"^python (tests/benchmarks/\S+)(.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    for script, rest in commands:
        parser = importlib.import_module(pathlib.Path(script).stem).make_parser()
        parser.parse_args(shlex.split(rest, comments=True))  # exits at what it doesn't know


def test_every_peer_has_a_sampler():
    assert set(SAMPLERS) == {*bench_nuts.PEERS, bench_nuts.OURS}
    for module, function in SAMPLERS.values():
        assert f"def {function}(job: Job) -> Outcome" in (BENCHMARKS / "nuts" / f"{module}.py").read_text()
