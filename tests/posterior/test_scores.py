"""Scores and summaries against closed forms, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats as st
import sklearn.metrics
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal, Poisson, StudentT

from hnbayes.posterior import scores, summaries

M, B = 400, 5


def mixture(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(M, B)) * [0.1, 1, 2, 0.5, 3], 0.2 + rng.random((M, B))


def test_quantiles_of_a_mixture_solve_its_distribution_function():
    loc, scale = mixture()
    levels = (0.05, 0.5, 0.99)
    normal = Independent(Normal(torch.tensor(loc)[..., None], torch.tensor(scale)[..., None]), 1)
    received = summaries.quantiles(normal, levels, 0)
    assert received.shape == (3, B, 1)
    for i, level in enumerate(levels):
        for n in range(B):
            exact = scipy.optimize.brentq(lambda x, n=n: st.norm.cdf(x, loc[:, n], scale[:, n]).mean() - level, -30, 30)  # noqa: B023
            assert abs(received[i, n, 0] - exact) < 1e-8


def test_quantiles_from_draws_where_torch_has_no_distribution_function():
    loc, scale = mixture()
    received = summaries.quantiles(StudentT(5.0, torch.tensor(loc), torch.tensor(scale)), (0.05, 0.5), 0)
    for i, level in enumerate((0.05, 0.5)):
        for n in range(B):
            below = st.t.cdf(received[i, n], 5.0, loc[:, n], scale[:, n]).mean()
            assert abs(below - level) < 4 * np.sqrt(level * (1 - level) / summaries.ENOUGH_SAMPLES)
    counts = summaries.quantiles(Poisson(torch.full((M, 2), 3.0)), (0.5,), 0)
    np.testing.assert_array_equal(counts, np.full((1, 2), st.poisson.median(3.0)))


def test_variance_is_noise_and_weights():
    loc, scale = mixture()
    found = summaries.moments(Normal(torch.tensor(loc), torch.tensor(scale)))
    np.testing.assert_allclose(found["mean"], loc.mean(0))
    np.testing.assert_allclose(found["sd_noise"] ** 2, np.square(scale).mean(0))
    np.testing.assert_allclose(found["sd_weights"] ** 2, loc.var(0))
    second = (np.square(scale) + np.square(loc)).mean(0)
    np.testing.assert_allclose(found["sd"] ** 2, second - loc.mean(0) ** 2)


def test_class_summaries():
    logits = torch.randn(M, B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = summaries.classes(Categorical(logits=logits))
    p = torch.softmax(logits, -1).numpy()
    np.testing.assert_allclose(found["probability"], p.mean(0))
    np.testing.assert_allclose(found["sd"] ** 2, p.mean(0) * (1 - p.mean(0)))
    np.testing.assert_allclose(found["sd_weights"] ** 2, p.var(0))
    np.testing.assert_allclose(found["entropy"], st.entropy(p.mean(0), axis=-1))
    expected = st.entropy(p.mean(0), axis=-1) - st.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(found["mutual_information"], expected)
    np.testing.assert_array_equal(found["label"], p.mean(0).argmax(-1))
    binary = summaries.classes(Bernoulli(logits=logits[..., 0]))
    q = 1 / (1 + np.exp(-logits[..., 0].numpy()))
    np.testing.assert_allclose(binary["probability"], q.mean(0))
    two = np.stack([q, 1 - q], -1)
    np.testing.assert_allclose(binary["entropy"], st.entropy(two.mean(0), axis=-1))
    np.testing.assert_array_equal(binary["label"], (q.mean(0) > 0.5).astype(int))


def test_crps_of_normal_draws_is_the_closed_form():
    rng = np.random.default_rng(0)
    truth, sd = np.array([0.0, 1.3, -4.0]), np.array([1.0, 0.5, 2.0])
    n = 40_000
    z = truth / sd
    exact = sd * (z * (2 * st.norm.cdf(z) - 1) + 2 * st.norm.pdf(z) - 1 / np.sqrt(np.pi))  # Gneiting and Raftery, eq. 5
    received = scores.crps(sd * rng.normal(size=(n, 3)), truth)
    np.testing.assert_allclose(received, exact, atol=4 * 2 / np.sqrt(n))
    assert not np.allclose(scores.crps(1.3 * sd * rng.normal(size=(n, 3)), truth), exact, atol=4 * 2 / np.sqrt(n))


def test_crps_of_few_draws_is_unbiased():
    x = np.array([[0.0], [1.0], [4.0]])
    y = np.array([2.0])
    pairs = np.abs(x[:, None] - x[None]).sum() / 6
    np.testing.assert_allclose(scores.crps(x, y), np.abs(x - y).mean() - 0.5 * pairs)


def test_lppd_is_the_log_of_the_mean_density():
    log_likelihood = np.random.default_rng(0).normal(size=(M, B)) * 3 - 800  # densities that underflow
    expected = [np.log(np.exp(column + 800).mean()) - 800 for column in log_likelihood.T]
    np.testing.assert_allclose(scores.lppd(torch.tensor(log_likelihood)), expected)


def test_brier_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    p, truth = rng.dirichlet(np.ones(2), 200), rng.integers(0, 2, 200)
    np.testing.assert_allclose(scores.brier(p, truth), 2 * sklearn.metrics.brier_score_loss(truth, p[:, 1]))


def test_calibration_error_is_its_definition():
    rng = np.random.default_rng(0)
    p, truth = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500)
    confidence, right = p.max(1), p.argmax(1) == truth
    expected = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean())
    np.testing.assert_allclose(scores.calibration_error(p, truth), expected)
    drawn = np.array([rng.choice(4, p=row) for row in np.repeat(p, 20, 0)])
    assert scores.calibration_error(np.repeat(p, 20, 0), drawn) < 0.02  # labels drawn from p are calibrated


@pytest.mark.parametrize("task", ["probability of 1", "of each class"])
def test_probabilities_of_both_kinds(task):
    p, truth = np.array([0.2, 0.9]), np.array([0, 1])
    given = p if task == "probability of 1" else np.stack([1 - p, p], -1)
    np.testing.assert_allclose(scores.as_categories(given, truth), [[0.8, 0.2], [0.1, 0.9]])
