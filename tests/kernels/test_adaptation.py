"""Warm-up finds step sizes of the acceptance asked for and metrics of the posterior's scales.

The check functions raise AssertionError; each is shown to reject adaptation that is wrong on purpose.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from targets import Target, gaussian, independent_gaussian

from hnbayes.kernels import HMC, NUTS, adaptation
from hnbayes.kernels.adaptation import DualAveraging, Welford, Windows, find_step_size
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams
from hnbayes.sampling import sample_potential

CHAINS = 24
SCALES = np.logspace(-1.5, 1.5, 50)
# How far the mean acceptance may be below and above its target. Dual averaging oscillates about the step size where
# acceptance falls off, and the average of the logarithms lies on its safe side, the more so the lower the target.
BANDS = {0.6: (0.03, 0.20), 0.8: (0.03, 0.15), 0.9: (0.03, 0.06), 0.95: (0.03, 0.03)}

may_warn = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # mutants diverge


@pytest.fixture(scope="module")
def wide() -> Target:
    """50 dimensions, scales from 10^-1.5 to 10^1.5."""
    target = independent_gaussian(SCALES)
    scales = torch.as_tensor(SCALES)
    # The same density without its matrix product, which would dominate the time.
    return Target(lambda q: 0.5 * (q / scales).square().sum(), target.mean, target.covariance, target.transport)


def warm_up(target, kernel, target_accept=0.8, *, chains=CHAINS, warmup=1000, draws=250, **options):
    """A run from exact draws, with its warm-up."""
    start = target.draw(chains, seed=1)
    options = {"seed": 2, "save_warmup": True, "progress": False} | options
    return sample_potential(
        target.potential, start, kernel=kernel, target_accept=target_accept, warmup=warmup, draws=draws, **options
    )


def check_acceptance(draws, target_accept):
    below, above = BANDS[target_accept]
    accepted = float(draws.stats["acceptance_rate"].mean())
    print(f"{draws.metadata['kernel']} aims at {target_accept}, accepts {accepted:.3f}")
    assert target_accept - below <= accepted <= target_accept + above


def check_constant(draws):
    assert torch.equal(draws.stats["step_size"], draws.step_size[:, None].expand(draws.stats["step_size"].shape))


def check_variances(draws, target):
    """Inverse mass over true variance."""
    ratio = draws.inverse_metric.double() / target.covariance.diagonal()
    print(f"inverse mass / variance in [{float(ratio.min()):.2f}, {float(ratio.max()):.2f}]")
    assert ratio.min() >= 0.6
    assert ratio.max() <= 1.5


def check_dense(draws, target, low, high, of=torch.median):
    """Eigenvalues of L^-1 S L^-T, where the true covariance is L L^T, of the median chain
    (or of the one with the smallest or largest, `of`).

    The limits are those of one chain. Of 60 right chains one had an eigenvalue of 0.59, so not all of several hold.
    """
    lower = torch.linalg.cholesky(target.covariance)
    inverse = torch.linalg.solve_triangular(lower, draws.inverse_metric, upper=False)
    whitened = torch.linalg.solve_triangular(lower, inverse.mT, upper=False)
    eigenvalues = torch.linalg.eigvalsh(0.5 * (whitened + whitened.mT))
    smallest, largest = (float(of(eigenvalues[:, i])) for i in (0, -1))
    print(f"eigenvalues in [{smallest:.2f}, {largest:.2f}]")
    assert smallest >= low
    assert largest <= high


# Step size and diagonal metric in a run


@pytest.mark.parametrize("target_accept", BANDS)
def test_hmc_adapts(wide, target_accept):
    draws = warm_up(wide, HMC(), target_accept)
    check_acceptance(draws, target_accept)
    check_constant(draws)
    check_variances(draws, wide)


def test_nuts_adapts(wide):
    # The limit on depth only shortens the first transitions, whose metric is the identity.
    draws = warm_up(wide, NUTS(max_tree_depth=7), 0.8, chains=12)
    assert draws.stats["tree_depth"].max() < 7
    check_acceptance(draws, 0.8)
    check_constant(draws)
    check_variances(draws, wide)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("target_accept", BANDS)
def test_nuts_adapts_at_full_depth(wide, target_accept, seed):
    draws = warm_up(wide, NUTS(), target_accept, chains=12, seed=seed)
    check_acceptance(draws, target_accept)
    check_constant(draws)
    check_variances(draws, wide)


class Contrary(DualAveraging):
    """Mutant: makes steps longer where acceptance is too low."""

    def update(self, rows, acceptance):
        return super().update(rows, 2 * self.target - acceptance)


class Indifferent(DualAveraging):
    """Mutant: always told of the acceptance that it asks for."""

    def update(self, rows, acceptance):
        return super().update(rows, np.full_like(acceptance, self.target))


@may_warn
@pytest.mark.parametrize("mutant", [Contrary, Indifferent])
def test_acceptance_check_rejects(wide, mutant, monkeypatch):
    monkeypatch.setattr(adaptation, "DualAveraging", mutant)
    draws = warm_up(wide, HMC(max_steps=20), 0.8, chains=8, warmup=300, draws=50)
    with pytest.raises(AssertionError):
        check_acceptance(draws, 0.8)


class Restless(HMC):
    """Mutant: goes on changing step sizes after warm-up."""

    def advance(self, state):
        state, finished = super().advance(state)
        if finished is not None:
            state.step_size[finished.rows] *= 1 + 1e-15
        return state, finished


def test_constancy_check_rejects(wide):
    draws = warm_up(wide, Restless(num_steps=2), warmup=20, draws=20, chains=2)
    with pytest.raises(AssertionError):
        check_constant(draws)


class MassForInverse(Welford):
    """Mutant: precisions instead of variances."""

    def covariance(self, row):
        count, covariance = super().covariance(row)
        return count, 1 / covariance


class StaleMean(Welford):
    """Mutant: both factors of a square are deviations from the mean before the draw."""

    def update(self, rows, positions):
        self.count[rows] += 1
        before = positions - self.mean[rows]
        self.mean[rows] += before / self.count[rows, None]
        self.scatter[rows] += before[:, :, None] * before[:, None, :] if self.dense else before**2


class Undivided(Welford):
    """Mutant: forgets to divide by n - 1."""

    def covariance(self, row):
        return float(self.count[row]), self.scatter[row]


class DividedByN(Welford):
    """Mutant: the maximum-likelihood estimate."""

    def covariance(self, row):
        return float(self.count[row]), self.scatter[row] / self.count[row]

    def pooled_covariance(self):
        count, covariance = super().pooled_covariance()
        return count, covariance * (count - 1) / count


@may_warn
@pytest.mark.parametrize("mutant", [MassForInverse, Undivided])
def test_variance_check_rejects(wide, mutant, monkeypatch):
    monkeypatch.setattr(adaptation, "Welford", mutant)
    draws = warm_up(wide, HMC(max_steps=20), chains=4, warmup=300, draws=10)
    with pytest.raises(AssertionError):
        check_variances(draws, wide)


# Dual averaging by itself

OPTIMA = np.array([-1.0, 0.3, 2.0])


def slopes(x):
    """Of three convex functions with their minima there; like acceptances, bounded."""
    return np.array([np.tanh(2 * (x[0] + 1)), np.tanh(x[1] - 0.3), (x[2] - 2) / np.hypot(1, x[2] - 2)])


def minimise(averaging, steps=10_000):
    """Dual averaging of log step sizes, given slopes in place of what acceptance lacks; its answers, (3,)."""
    rows, x = np.arange(3), np.array([1.0, -2.0, 0.0])
    with np.errstate(all="ignore"):
        for _ in range(steps):
            x = np.log(averaging.update(rows, averaging.target - slopes(x)))
        return np.log(averaging.average(rows))


def test_dual_averaging_minimises_convex_functions():
    np.testing.assert_allclose(minimise(DualAveraging(np.full(3, 0.1), 0.8)), OPTIMA, atol=1e-3)


class Unaveraged(DualAveraging):
    """Mutant: the last step size for the average."""

    def average(self, rows):
        return np.exp(self.mu[rows] - np.sqrt(self.count[rows]) / self.gamma * self.error[rows])


class ForgetsNothing(DualAveraging):
    """Mutant: sums errors instead of averaging them."""

    def update(self, rows, acceptance):
        before = self.error[rows].copy()
        super().update(rows, acceptance)
        self.error[rows] = before + self.target - acceptance
        return np.exp(self.mu[rows] - np.sqrt(self.count[rows]) / self.gamma * self.error[rows])


@pytest.mark.parametrize("mutant", [Contrary, Indifferent, ForgetsNothing])
def test_minimisation_rejects(mutant):
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(minimise(mutant(np.full(3, 0.1), 0.8)), OPTIMA, atol=1e-3)


def replay(step_size, acceptance, target, restarts):
    """Step sizes (T + 1,) of one chain by the formulas of Hoffman and Gelman (2014), the last one the average."""
    used = [step_size]
    mu, error, log_average, t = np.log(10 * step_size), 0.0, 0.0, 0
    for n, alpha in enumerate(acceptance, start=1):
        t += 1
        error = (1 - 1 / (t + 10)) * error + (target - alpha) / (t + 10)
        x = mu - np.sqrt(t) / 0.05 * error
        log_average = t**-0.75 * x + (1 - t**-0.75) * log_average
        used.append(np.exp(x))
        if n in restarts:
            mu, error, log_average, t = np.log(10) + x, 0.0, 0.0, 0
    used[-1] = np.exp(log_average)
    return np.array(used)


def check_replay(draws, target_accept, restarts):
    for chain in range(draws.chains):
        used = torch.cat((draws.warmup_stats["step_size"][chain], draws.step_size[chain : chain + 1])).numpy()
        acceptance = draws.warmup_stats["acceptance_rate"][chain].numpy()
        np.testing.assert_allclose(used, replay(used[0], acceptance, target_accept, restarts), rtol=1e-8)


@pytest.mark.parametrize("kernel", [NUTS(), HMC(num_steps=3)], ids=["nuts", "hmc"])
def test_step_sizes_of_a_run_are_those_of_the_paper(kernel):
    """Each chain's, though chains are out of step and are adapted in any order."""
    draws = warm_up(independent_gaussian([0.1, 1.0, 3.0]), kernel, 0.7, chains=3, warmup=170, draws=2)
    check_replay(draws, 0.7, restarts={120})


@may_warn
@pytest.mark.parametrize("mutant", [Contrary, Indifferent, Unaveraged, ForgetsNothing])
def test_replay_rejects(mutant, monkeypatch):
    monkeypatch.setattr(adaptation, "DualAveraging", mutant)
    draws = warm_up(independent_gaussian([0.1, 1.0, 3.0]), HMC(num_steps=3), 0.7, chains=2, warmup=40, draws=2)
    with pytest.raises(AssertionError):
        check_replay(draws, 0.7, restarts={36})


def test_step_size_search_finds_the_scale():
    """To a factor of two or so; a step twice the scale is the longest that is stable, a quarter is always accepted."""
    target = independent_gaussian([0.01] * 5)
    kernel = NUTS()
    state = kernel.init(Potential(target.potential), target.draw(100, seed=3), chain_streams(4, range(100)))
    found = find_step_size(kernel, state)
    assert np.array_equal(np.log2(found), np.round(np.log2(found)))
    assert found.min() >= 0.0025
    assert found.max() <= 0.04
    assert 0.005 <= np.median(found) <= 0.02


# Welford's recursion


def ragged_draws():
    """Of three chains, some with more draws than others, correlated and far from zero."""
    generator = np.random.default_rng(5)
    mixing = np.tril(np.ones((4, 4))) + np.eye(4)
    return [generator.standard_normal((n, 4)) @ mixing.T + 10 * c + 5 for c, n in enumerate((40, 25, 60))]


def check_welford(kind, dense):
    chains = ragged_draws()
    welford = kind(3, 4, dense)
    for n in range(60):
        rows = np.array([c for c in (2, 0, 1) if n < len(chains[c])])
        welford.update(rows, np.stack([chains[c][n] for c in rows]))

    def expected(draws):
        covariance = np.cov(draws, rowvar=False)
        return covariance if dense else np.diag(covariance)

    for c, draws in enumerate(chains):
        count, covariance = welford.covariance(c)
        assert count == len(draws)
        np.testing.assert_allclose(covariance, expected(draws), rtol=1e-10)
    count, covariance = welford.pooled_covariance()
    assert count == 125
    np.testing.assert_allclose(covariance, expected(np.concatenate(chains)), rtol=1e-10)


@pytest.mark.parametrize("dense", [False, True], ids=["diag", "dense"])
def test_welford_is_the_covariance(dense):
    check_welford(Welford, dense)


class PooledAboutOwnMeans(Welford):
    """Mutant: pools the chains' variances, not those of all draws."""

    def pooled_covariance(self):
        return float(self.count.sum()), self.scatter.sum(0) / (self.count.sum() - 1)


@pytest.mark.parametrize("dense", [False, True], ids=["diag", "dense"])
@pytest.mark.parametrize("mutant", [StaleMean, Undivided, DividedByN, PooledAboutOwnMeans])
def test_welford_check_rejects(mutant, dense):
    with pytest.raises(AssertionError):
        check_welford(mutant, dense)


# Windows


def stan_windows(warmup):
    """Ends of the slow windows as Stan's windowed_adaptation.hpp has them, which never stretches the first."""
    if warmup < 20:
        return ()
    if warmup < 150:
        return (warmup - int(0.1 * warmup),)
    ends, size, stop = [100], 50, warmup - 50
    while ends[-1] < stop:
        end = ends[-1] + size
        ends.append(end if end == stop or end + 2 * size <= stop else stop)
        size *= 2
    return tuple(ends)


@pytest.mark.parametrize(
    ("warmup", "begin", "ends"),
    [
        (1000, 75, (100, 150, 250, 450, 950)),
        (2000, 75, (100, 150, 250, 450, 850, 1950)),
        (500, 75, (100, 150, 250, 450)),
        (300, 75, (100, 150, 250)),
        (200, 75, (100, 150)),
        (150, 75, (100,)),
        (149, 22, (135,)),
        (20, 3, (18,)),
        (19, 19, ()),
        (0, 0, ()),
    ],
)
def test_windows_are_stans(warmup, begin, ends):
    windows = Windows.stan(warmup)
    assert (windows.begin, windows.ends) == (begin, ends)
    assert stan_windows(warmup) == ends


def test_windows_are_stans_for_every_length():
    # From 151 to 199 Stan's last window is shorter than the first; ours takes both as one.
    wrong = [warmup for warmup in (*range(151), *range(200, 3000)) if Windows.stan(warmup).ends != stan_windows(warmup)]
    assert not wrong, f"{len(wrong)} lengths differ, from {wrong[0]} to {wrong[-1]}"


def test_metric_changes_at_the_ends_of_windows_only(wide):
    """And is Stan's estimate from the draws of its own window: n/(n + 5) of their variance and 1e-3 * 5/(n + 5)."""
    metrics = {}

    class Watched(HMC):
        def _begin(self, state, rows):
            for row in rows:
                metrics.setdefault(row, []).append(state.metric.host_inverse()[row].copy())
            super()._begin(state, rows)

    draws = warm_up(wide, Watched(num_steps=3), chains=2, warmup=300, draws=1)
    for chain in range(2):
        used = np.array(metrics[chain][:301])
        np.testing.assert_array_equal(used[:100], np.ones((100, 50)))
        for begin, end, next_end in ((75, 100, 150), (100, 150, 250), (150, 250, 301)):
            window = draws.warmup_positions[chain, begin:end].numpy()
            n = end - begin
            expected = n / (n + 5) * window.var(0, ddof=1) + 1e-3 * 5 / (n + 5)
            np.testing.assert_allclose(used[end:next_end], np.tile(expected, (next_end - end, 1)), rtol=1e-10)


# Dense and pooled metrics in a run


def correlated(dimension: int) -> Target:
    """Scales from 0.1 to 10 and strong correlations."""
    lower = torch.eye(dimension, dtype=torch.float64) + torch.ones(dimension, dimension, dtype=torch.float64).tril(-1)
    lower = torch.logspace(-1, 1, dimension, dtype=torch.float64)[:, None] * lower
    return gaussian(lower @ lower.mT)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [-0.5, 0.8])
def test_dense_metric_in_two_dimensions(rho):
    target = gaussian([[10.0, rho], [rho, 0.1]])
    draws = warm_up(target, NUTS(), metric="dense", chains=4, warmup=20_000, draws=10, save_warmup=False)
    for inverse in draws.inverse_metric:
        torch.testing.assert_close(inverse, target.covariance, rtol=0.10, atol=0.0)


@pytest.mark.parametrize("kernel", [HMC(), NUTS(max_tree_depth=6)], ids=["hmc", "nuts"])
def test_dense_metric_in_ten_dimensions(kernel):
    target = correlated(10)
    draws = warm_up(target, kernel, metric="dense", chains=4)
    check_dense(draws, target, 0.6, 1.6)
    check_acceptance(draws, 0.8)
    check_constant(draws)


class Uncorrelated(Welford):
    """Mutant: a dense matrix without what lies off its diagonal."""

    def covariance(self, row):
        count, covariance = super().covariance(row)
        return count, np.diag(np.diag(covariance))


class MassMatrixForInverse(Welford):
    """Mutant: the precision matrix."""

    def covariance(self, row):
        count, covariance = super().covariance(row)
        return count, np.linalg.inv(covariance)


@may_warn
@pytest.mark.parametrize("mutant", [Uncorrelated, MassMatrixForInverse, Undivided])
def test_dense_check_rejects(mutant, monkeypatch):
    monkeypatch.setattr(adaptation, "Welford", mutant)
    target = correlated(10)
    draws = warm_up(target, HMC(max_steps=20), metric="dense", chains=4, warmup=300, draws=10)
    with pytest.raises(AssertionError):
        check_dense(draws, target, 0.6, 1.6)


POOLED_BAND = (0.85, 1.18)  # five standard errors of the draws of 20 chains; of one chain's, one
STILL = {"step_size": 0.4, "adapt_step_size": False}  # because adapting it biases the draws of warm-up a little


@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_pooled_metric_is_as_good_as_the_draws_of_all_chains(metric):
    """For the chain that ends its window last, too."""
    target = independent_gaussian([1.0, 3.0]) if metric == "diag" else gaussian([[4.0, 1.2], [1.2, 1.0]])
    draws = warm_up(target, HMC(), metric=metric, adaptation="pooled", chains=20, warmup=300, draws=1, **STILL)
    if metric == "diag":
        draws = dataclasses.replace(draws, inverse_metric=torch.diag_embed(draws.inverse_metric))
    check_dense(draws, target, *POOLED_BAND, of=torch.amin)
    check_dense(draws, target, *POOLED_BAND, of=torch.amax)


def test_pooled_check_rejects_own_draws_only():
    target = gaussian([[4.0, 1.2], [1.2, 1.0]])
    draws = warm_up(target, HMC(), metric="dense", chains=20, warmup=300, draws=1, **STILL)
    with pytest.raises(AssertionError):
        check_dense(draws, target, *POOLED_BAND, of=torch.amin)
