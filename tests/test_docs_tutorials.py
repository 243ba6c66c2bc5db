"""The Python blocks of the tutorials run, and what they say of the outcome is so."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from pages import DOCS, run_blocks


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_regression():
    names = run_blocks(DOCS / "regression.md")
    assert 1 < names["prior_sd"] < 3
    assert names["noise"].mean() == pytest.approx(1.0, abs=0.25)  # what the data were made with
    assert names["far"] > 3 * names["near"]
    assert names["scores"]["rmse"] < 0.7 * float(names["rmse_line"])
    assert 0.75 < names["scores"]["coverage"] <= 1
    assert "tree depth" in str(names["report"])


def test_classification():
    names = run_blocks(DOCS / "classification.md")
    assert names["accuracy"] > 0.85
    between, far = names["share"]
    assert far > 2 * between
    assert names["scores"]["lppd"] > float(names["lppd_alone"])


def test_hierarchical():
    names = run_blocks(DOCS / "hierarchical.md")
    scales = names["scales"]
    assert scales.shape == (4,)
    assert scales[:2].min() > 1.3 * scales[2:].max()
    assert names["widest"] > 1.5
    assert names["rmse"]["learned"] < 1.1 * names["rmse"]["fixed"]
    assert "rest_scale" in names["post"].params()


def test_embedding():
    names = run_blocks(DOCS / "embedding.md")
    assert names["rhat"].max() < 1.1
    assert names["functions"].shape == (80, 40, 1)
    assert names["error"] < 0.3
    assert len(names["distances"]) == 4
    assert names["loss"] < 0.05


def test_chains():
    names = run_blocks(DOCS / "chains.md")
    assert names["nested"].max() < 1.1
    assert names["seen"].min() > 1.5
    covariance = torch.cov(names["draws"].positions.reshape(-1, 2).T)
    torch.testing.assert_close(covariance, names["covariance"], rtol=0.35, atol=0.2)
    assert "superchains agree" in str(names["report"])
    assert names["growth"].by_chain.shape == (16,)
    assert names["growth"].by_chain[-1] > np.median(names["growth"].by_draw[:, -1])
