"""Stacking against closed forms and a search of the whole simplex; each with a case that fails."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from hnbayes.diagnostics import best_mixture, stacking_weights


def on_a_grid(log_density, steps=100):
    """The best of all weights that are whole multiples of 1 / steps."""
    density = np.exp(log_density)
    inside = (c for c in itertools.product(range(steps + 1), repeat=len(density) - 1) if sum(c) <= steps)
    grid = np.array([[*c, steps - sum(c)] for c in inside]) / steps
    with np.errstate(divide="ignore"):
        return grid[np.log(grid @ density).sum(1).argmax()]


@pytest.mark.parametrize("seed", range(4))
def test_best_mixture_is_that_of_a_grid(seed):
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(80) < 0.3, rng.normal(-2, 1, 80), rng.normal(1, 1, 80))
    log_density = np.stack([norm.logpdf(y, m, s) for m, s in ((-2, 1), (1, 1), (0, 3))])
    density, found, best = np.exp(log_density), best_mixture(log_density), on_a_grid(log_density)
    assert np.log(found @ density).mean() > np.log(best @ density).mean() - 1e-4  # for the prior
    np.testing.assert_allclose(found, best, atol=0.03)  # the third is flat


def test_components_that_explain_different_data_share_by_their_numbers():
    log_density = np.full((3, 10), -200.0)
    log_density[0, :6] = log_density[1, 6:9] = log_density[2, 9] = 0.0
    np.testing.assert_allclose(best_mixture(log_density), [0.6, 0.3, 0.1], atol=1e-3)


def test_equal_components_share_alike():
    np.testing.assert_allclose(best_mixture(np.tile(np.random.default_rng(0).normal(size=20), (4, 1))), 0.25, atol=1e-3)


def test_many_components_fulfil_the_conditions_of_a_maximum():
    """At a maximum on the simplex the mean ratio of a component to the mixture is 1, or at most 1 where it has none."""
    rng = np.random.default_rng(1)
    log_density = 0.5 * rng.normal(size=(20, 300)) + 0.3 * rng.normal(size=(20, 1))
    w = best_mixture(log_density)
    density = np.exp(log_density)
    ratio = (density / (w @ density)).mean(1)
    assert (ratio < 1.002).all()
    np.testing.assert_allclose(ratio[w > 0.01], 1.0, atol=2e-3)
    uniform = (density / density.mean(0)).mean(1)
    assert uniform.max() > 1.05  # equal weights don't


N, PRECISION = 30, 2.0


def posterior_and_left_out(y, centre):
    """Of a mean with a prior N(centre, 1 / PRECISION) and data of variance 1: moments, and log p(y_n | the others)."""
    total = PRECISION + len(y)
    mean = (PRECISION * centre + y.sum()) / total
    without = (PRECISION * centre + y.sum() - y) / (total - 1)
    return mean, total**-0.5, norm.logpdf(y, without, np.sqrt(1 + 1 / (total - 1)))


def test_weights_of_chains_are_those_of_exact_leave_one_out_densities():
    """Chains that are posteriors under other priors; neither mean is that of the data, so the best is a mixture."""
    rng = np.random.default_rng(3)
    y = rng.normal(0, 1.0, N)
    exact, chains = [], []
    for centre in (-8.0, 9.0, 14.0):
        mean, sd, left_out = posterior_and_left_out(y, centre)
        exact.append(left_out)
        chains.append(norm.logpdf(y, rng.normal(mean, sd, 4000)[:, None], 1.0))
    expected = on_a_grid(np.stack(exact))
    assert 0.1 < expected[0] < 0.9
    found = stacking_weights(np.stack(chains))
    np.testing.assert_allclose(found, expected, atol=0.03)
    # Weights of densities that know each datum are others.
    with_it = best_mixture(np.stack([np.log(np.exp(chain).mean(0)) for chain in chains]))
    assert abs(with_it - expected).max() > 0.05


def test_a_warning_where_it_can_not_be_relied_on():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 100, 5))
    x[:, :, 2] = -(np.abs(rng.standard_cauchy((2, 100))) ** 2)
    with pytest.warns(UserWarning, match="pairs of a chain and a datum"):
        stacking_weights(x)


def test_refusals():
    with pytest.raises(ValueError, match="log_likelihood"):
        stacking_weights(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="log_density"):
        best_mixture(np.full((2, 3), np.nan))
