"""The Python blocks of docs/howto.md run, and what they sample agrees with closed forms."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import scipy.stats
import torch
from pages import DOCS, run_blocks

import hnbayes

LIMIT = 4.0


@pytest.fixture(scope="module")
def names():
    return run_blocks(DOCS / "howto.md")


def z_of_mean(samples, expected):
    """How many Monte Carlo standard errors the mean of draws (C, S) is away."""
    return float(abs(np.asarray(samples).mean() - expected) / az.mcse(np.asarray(samples)))


def test_network_likelihood_and_prior_make_the_conjugate_posterior(names):
    shape, scale = 2.0 + len(names["y"]), 1.0 + float(names["y"].sum())
    mean, second = shape / scale, shape * (shape + 1) / scale**2
    for post in (names["post"], names["short"]):
        rate = post.params()["eta"].exp()[..., 0].numpy()
        assert z_of_mean(rate, mean) < LIMIT
        assert z_of_mean(rate**2, second) < LIMIT
        # Without one of the twelve data, or the prior, it is another posterior.
        assert z_of_mean(rate, (shape - 1) / scale) > LIMIT
        assert z_of_mean(rate, (shape - 2) / (scale - 1)) > LIMIT


def test_likelihood_is_that_of_torch_and_checks_data(names):
    output, y = torch.randn(5, 7, 1), torch.rand(7, 1)
    likelihood = names["WaitingTimes"]()
    expected = names["waiting_times"](output).log_prob(y)[..., 0]
    torch.testing.assert_close(likelihood.log_prob(output, y, 1), expected)
    torch.testing.assert_close(likelihood.distribution(output, 1).log_prob(y), expected)
    with pytest.raises(ValueError, match="at least 0"):
        likelihood.check(output[0], -y)


def test_amounts_are_those_of_scipy(names):
    output, y, k = (
        torch.randn(5, 7, 1, dtype=torch.float64),
        torch.rand(7, 1) + 0.1,
        torch.rand(5, dtype=torch.float64) + 1,
    )
    likelihood = names["Amounts"]()
    found = likelihood.log_prob(output, y, 1, k=k)
    k = k.numpy()[:, None, None]
    expected = scipy.stats.gamma(k, scale=output.exp().numpy() / k).logpdf(y.numpy())[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="greater than 0"):
        likelihood.check(output[0], 0 * y)


def test_what_amounts_learn_is_found(names):
    X = torch.linspace(-1, 1, 200)[:, None]
    torch.manual_seed(0)
    y = torch.distributions.Gamma(4.0, 4.0 / (1 + X).exp()).sample()
    post = hnbayes.sample(
        torch.nn.Linear(1, 1), X, y, likelihood=names["Amounts"](), prior=2.0, chains=2, warmup=150, draws=150,
        map_steps=200, seed=0, progress=False,
    )  # fmt: skip
    for name, truth in {"k": 4.0, "weight": 1.0, "bias": 1.0}.items():
        draws = post.params()[name]
        assert abs(draws.mean() - truth) < 4 * draws.std()
        assert draws.std() < 0.6
    assert post.predict(X[:3])["mean"].shape == (3,)


def test_the_prior_by_name_is_the_one_given_as_a_function(names):
    bound = names["by_name"].bind({"eta": torch.zeros(1, dtype=torch.float64)})
    q = torch.linspace(-3, 2, 7, dtype=torch.float64)[:, None]
    difference = bound.log_prob({"eta": q}) - torch.stack([names["log_gamma"](point) for point in q])
    torch.testing.assert_close(difference, torch.zeros(7, dtype=torch.float64))  # Gamma(2) = 1: no constant


@pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")
def test_prior_has_the_correlation(names):
    flat = torch.cat([names["drawn"]["weight"].flatten(1), names["drawn"]["bias"]], 1)
    torch.testing.assert_close(torch.cov(flat.T), torch.full((3, 3), 0.6).fill_diagonal_(1.0), atol=0.08, rtol=0)
    net = torch.nn.Linear(2, 1)
    bound = names["Equicorrelated"](0.6).bind(dict(net.named_parameters()))
    weights = {"weight": torch.randn(4, 1, 2), "bias": torch.randn(4, 1)}
    for name, w in bound.weights(bound.values_of(weights)).items():
        torch.testing.assert_close(w, weights[name])
    post = hnbayes.sample(
        net, torch.randn(5, 2), torch.randn(5, 1), prior=names["Equicorrelated"](0.6), chains=2, warmup=20, draws=5,
        max_tree_depth=4, seed=0, progress=False,
    )  # fmt: skip
    assert post.weights()["weight"].shape == (2, 5, 1, 2)


def moments_fit(draws, target):
    """Whether means and second moments of two directions and their product are those of the target."""
    q = draws.positions.numpy()
    mean, covariance = target.mean.numpy(), target.covariance_matrix.numpy()
    scores = [z_of_mean(q[..., i], mean[i]) for i in range(2)]
    centred = q - mean
    scores += [
        z_of_mean(centred[..., i] * centred[..., j], covariance[i, j]) for i, j in ((0, 0), (0, 1), (1, 1))
    ]  # fmt: skip
    return max(scores) < LIMIT


def test_kernel_has_the_moments_of_its_target(names):
    assert moments_fit(names["draws"], names["target"])
    assert 0.45 < names["draws"].stats["acceptance_rate"].mean() < 0.7  # what its step size was adapted to


def test_heavy_walk_has_the_moments_of_its_target(names):
    assert moments_fit(names["heavy"], names["target"])
    assert 0.2 < names["heavy"].stats["acceptance_rate"].mean() < 0.4


def test_heavy_walk_that_takes_too_many_is_found_out(names, monkeypatch):
    rule = names["log_acceptance"]
    monkeypatch.setitem(names["HeavyWalk"].advance.__globals__, "log_acceptance", lambda e, new: rule(e, new) / 2)
    start = torch.zeros(8, 2, dtype=torch.float64)
    draws = hnbayes.sample_potential(
        lambda q: -names["target"].log_prob(q), start, kernel=names["HeavyWalk"](), warmup=300, draws=2000, seed=0,
        progress=False,
    )  # fmt: skip
    assert not moments_fit(draws, names["target"])


def test_kernel_without_its_rule_is_found_out(names, monkeypatch):
    """The same proposals, all accepted; with the rule these steps are as good as others."""
    advance = names["Langevin"].advance
    options = {"warmup": 50, "draws": 1500, "step_size": 0.9, "adapt_step_size": False, "metric": "unit", "seed": 0}

    def sample():
        start = torch.zeros(8, 2, dtype=torch.float64)
        return hnbayes.sample_potential(
            lambda q: -names["target"].log_prob(q), start, kernel=names["Langevin"](), progress=False, **options
        )

    assert moments_fit(sample(), names["target"])
    monkeypatch.setitem(advance.__globals__, "log_uniform", lambda state, rows: np.full(len(rows), -np.inf))
    assert not moments_fit(sample(), names["target"])


def test_arviz_recipes(names):
    assert list(names["table"].index) == ["eta[0]"]
    assert names["better_by"] > 0
    # Of the exact predictive densities p(y_n | others), which conjugacy gives.
    y = names["y"][:, 0]
    shape, rate = 2.0 + len(y) - 1, 1.0 + y.sum() - y
    exact = (np.log(shape) + shape * rate.log() - (shape + 1) * (rate + y).log()).sum()
    assert float(names["elpd"].elpd_loo) == pytest.approx(float(exact), abs=0.1)
