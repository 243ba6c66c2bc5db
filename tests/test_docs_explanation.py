"""The Python blocks of docs/explanation.md run, and show what the page says."""

from __future__ import annotations

import pytest
import torch
from pages import DOCS, run_blocks


@pytest.fixture(scope="module")
def names():
    return run_blocks(DOCS / "explanation.md")


def test_potential_is_likelihood_and_prior(names):
    torch.testing.assert_close(names["U"](names["w"]), names["by_hand"].detach())


def test_rhat_of_weights_and_of_functions(names):
    functions = names["functions"]
    torch.testing.assert_close(functions[0], functions[1])
    assert names["of_weights"].max() > 1.5
    assert names["of_functions"].max() < 1.01


def test_ewc_is_exact_for_a_linear_network(names):
    torch.testing.assert_close(names["belief"].precision, names["exact"])


def test_si_finds_the_curvature(names):
    torch.testing.assert_close(names["found"], names["curvature"].flatten(), rtol=0.05, atol=0)
