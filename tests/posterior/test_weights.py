"""Weighted chains: a weight of 3/4 beside 1/4 is a chain that is there three times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hnbayes
from hnbayes.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Poisson
from hnbayes.posterior import Model, Posterior
from hnbayes.sampling import Draws

WEIGHTS = (0.25, 0.75)
X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))


def draws_of(positions):
    chains, count, dimension = positions.shape
    return Draws(positions, {"lp": torch.zeros(chains, count)}, torch.ones(chains), torch.ones(chains, dimension), None)


def pair(likelihood, outputs):
    """A posterior of two chains, and one where the second is there three times."""
    net = torch.nn.Linear(2, outputs)
    model = Model(net, likelihood, 1.0, X)
    positions = torch.randn(2, 8, model.spec.size, generator=torch.Generator().manual_seed(1))
    draws = dataclasses.replace(draws_of(positions), spec=model.spec)
    tripled = dataclasses.replace(draws_of(positions[[0, 1, 1, 1]]), spec=model.spec)
    y = {3: torch.arange(30) % 3, 1: X[:, :1].sin(), 2: X[:, :1].sin()}[outputs]
    if isinstance(likelihood, Poisson):
        y = (torch.arange(30) % 4)[:, None]
    X_, y = model.data(X, y)
    return Posterior(model, draws, X_, y), Posterior(model, tripled, X_, y)


CASES = [(Gaussian("learned"), 1), (HeteroscedasticGaussian(), 2), (Categorical(), 3), (Poisson(), 1)]


@pytest.mark.parametrize(("likelihood", "outputs"), CASES, ids=lambda v: type(v).__name__)
def test_predictions_and_scores_are_those_of_a_chain_that_is_there_three_times(likelihood, outputs):
    two, four = pair(likelihood, outputs)
    weighted, expected, alike = two.predict(X, weights=WEIGHTS), four.predict(X), two.predict(X)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    for name in expected:
        if name == "quantile" and isinstance(likelihood, Poisson):  # from draws
            assert abs(weighted[name] - expected[name]).max() <= 0.1 * max(1.0, float(expected[name].max()))
            continue
        np.testing.assert_allclose(weighted[name], expected[name], **tolerance)
    first = "probability" if outputs == 3 else "mean"
    assert abs(alike[first] - expected[first]).max() > 1e-3
    found, wanted = two.score(X, two.y, weights=WEIGHTS), four.score(X, two.y)
    for name, value in wanted.items():
        from_draws = name == "crps" or (isinstance(likelihood, Poisson) and name in ("interval_width", "coverage"))
        assert found[name] == pytest.approx(value, rel=0.05 if from_draws else 1e-4), name


def test_no_weight_is_as_if_the_chain_were_not_there():
    two, _ = pair(HeteroscedasticGaussian(), 2)
    alone = Posterior(
        two.model, dataclasses.replace(draws_of(two.draws.positions[:1]), spec=two.model.spec), two.X, two.y
    )
    np.testing.assert_allclose(two.predict(X, weights=[1.0, 0.0])["sd"], alone.predict(X)["sd"], rtol=1e-5)
    assert two.score(X, two.y, weights=[1.0, 0.0])["lppd"] == pytest.approx(alone.score(X, two.y)["lppd"])


def test_draws_are_in_proportion():
    from hnbayes.posterior.summaries import draw

    distribution = torch.distributions.Normal(torch.tensor([[0.0], [100.0], [200.0]]), 1.0)
    samples = draw(distribution, 0, 999, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))
    assert samples.shape == (999, 1)
    shares = torch.histc(samples, 3, -50, 250) / 999
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.2, 0.3]), atol=2e-3, rtol=0)


def test_stacking_of_a_posterior_leaves_out_a_chain_that_is_lost():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 1, generator=generator)
    y = 2 * inputs + 0.1 * torch.randn(40, 1, generator=generator)
    post = hnbayes.sample(
        torch.nn.Linear(1, 1),
        inputs,
        y,
        likelihood=Gaussian(0.1),
        chains=2,
        warmup=100,
        draws=200,
        seed=0,
        progress=False,
    )
    lost = post.draws.positions.clone()
    lost[1] += 3.0
    post = Posterior(post.model, dataclasses.replace(post.draws, positions=lost), post.X, post.y)
    with pytest.warns(UserWarning, match="Pareto k"):  # the data are far from what the lost chain thinks
        weights = post.stacking_weights()
    assert weights[0] > 0.99
    assert post.score(inputs, y, weights=weights)["rmse"] < 0.2 < post.score(inputs, y)["rmse"]


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.7], [-0.5, 1.5], [[0.5, 0.5]]])
def test_refusals(weights):
    two, _ = pair(Gaussian(1.0), 1)
    with pytest.raises(ValueError, match="weights must be"):
        two.predict(X, weights=weights)
