"""Divergences are seen and said, and NaN, infinity or an error that one chain meets is not kept and harms no other."""

from __future__ import annotations

import math
import warnings

import arviz
import numpy as np
import pytest
import torch

from hnbayes.kernels import HMC, NUTS, RandomWalkMetropolis
from hnbayes.potentials import Potential
from hnbayes.sampling import SamplingWarning, sample_potential
from hnbayes.sampling.verdict import bfmi, warn_about

quiet = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
KERNELS = {"nuts": lambda: NUTS(max_tree_depth=4), "hmc": lambda: HMC(num_steps=4), "metropolis": RandomWalkMetropolis}
GRADIENT_KERNELS = {name: KERNELS[name] for name in ("nuts", "hmc")}


def by_name(kernels):
    return pytest.mark.parametrize("kernel", kernels.values(), ids=kernels.keys())


def sample(potential, start, kernel, step_size, draws=200, **options):
    """A run without adaptation."""
    fixed = {"step_size": step_size, "adapt_step_size": False, "metric": "unit", "warmup": 0, "seed": 0}
    options = fixed | {"draws": draws, "progress": False} | options
    return sample_potential(potential, torch.as_tensor(start, dtype=torch.float64), kernel=kernel, **options)


# Steps that are too long


def narrow(q):
    """The mean of 1000 observations of unit variance, all 0 but for a constant: sd 0.03."""
    return 0.5 * 1000 * q.square().sum()


def check_all_diverge(draws):
    error = draws.stats["max_energy_error" if "max_energy_error" in draws.stats else "energy_error"]
    assert draws.stats["diverging"].all()
    assert (error > 1000).all()
    assert torch.equal(draws.positions, draws.positions[:, :1].expand_as(draws.positions))


@by_name(GRADIENT_KERNELS)
@pytest.mark.parametrize("step_size", [10.0, 1e3])
@quiet
def test_every_transition_diverges_where_steps_are_far_too_long(kernel, step_size):
    check_all_diverge(sample(narrow, [[0.01], [0.02], [0.03]], kernel(), step_size))


@by_name(GRADIENT_KERNELS)
@quiet  # the trees of tiny steps end at the depth limit
def test_none_diverges_where_steps_are_short(kernel):
    draws = sample(narrow, [[0.01], [0.02], [0.03]], kernel(), 1e-4)
    assert not draws.stats["diverging"].any()
    assert float(draws.stats["acceptance_rate"].mean()) > 0.999


@pytest.mark.parametrize("kernel", [NUTS(delta_max=1e300), HMC(num_steps=4, delta_max=1e300)], ids=["nuts", "hmc"])
@quiet
def test_divergence_check_rejects_a_threshold_never_passed(kernel):
    draws = sample(narrow, [[0.01], [0.02], [0.03]], kernel, 10.0)
    with pytest.raises(AssertionError):
        check_all_diverge(draws)


@by_name(GRADIENT_KERNELS)
def test_divergences_are_warned_of_by_number(kernel):
    with pytest.warns(SamplingWarning, match="60 of 60 transitions diverged, in 3 of 3 chains"):
        sample(narrow, [[0.01], [0.02], [0.03]], kernel(), 10.0, draws=20)


# Energies that are no numbers

BAD_ENERGIES = [math.nan, math.inf, -math.inf]


def walled(bad):
    """A standard normal whose energy is `bad` where q_0 > 1."""
    return lambda q: torch.where(q[0] > 1, bad, 0.5 * q.square().sum())


def check_stays_out(draws):
    assert float(draws.positions[..., 0].max()) <= 1
    torch.testing.assert_close(-draws.stats["lp"], 0.5 * draws.positions.square().sum(-1), rtol=1e-12, atol=1e-12)
    for values in draws.stats.values():
        assert not values.double().isnan().any()
    # Everyone gets to the wall at times, and is not held there.
    assert draws.stats["diverging"].any(1).all()
    assert (draws.positions.std(1) > 0.3).all()


@by_name(KERNELS)
@pytest.mark.parametrize("bad", BAD_ENERGIES)
@quiet
def test_what_is_no_number_is_a_divergence_and_never_accepted(kernel, bad):
    check_stays_out(sample(walled(bad), torch.zeros(4, 2), kernel(), 0.6))


@by_name(KERNELS)
@pytest.mark.parametrize("bad", BAD_ENERGIES)
@quiet
def test_adaptation_survives_what_is_no_number(kernel, bad):
    draws = sample_potential(
        walled(bad),
        torch.zeros(4, 2, dtype=torch.float64),
        kernel=kernel(),
        warmup=150,
        draws=150,
        seed=0,
        progress=False,
    )
    assert float(draws.positions[..., 0].max()) <= 1
    assert draws.step_size.isfinite().all()
    assert (draws.step_size > 1e-3).all()
    assert draws.inverse_metric.isfinite().all()


@by_name(GRADIENT_KERNELS)
@pytest.mark.parametrize("bad", BAD_ENERGIES)
@quiet
def test_a_gradient_that_is_no_number_never_enters(kernel, bad):
    def potential(q):
        # Its gradient is 0 * bad or worse beyond the wall, its value is right.
        slope = torch.where(q[0] > 1, bad, 0.0)
        return 0.5 * q.square().sum() + ((q[0] - q[0].detach()) * slope).nan_to_num(nan=0.0)

    draws = sample(potential, torch.zeros(4, 2), kernel(), 0.6)
    assert draws.positions.isfinite().all()
    assert float(draws.positions[..., 0].max()) <= 1
    assert draws.stats["diverging"].any()


class Trusting(Potential):
    """Mutant: takes what is no number for a low energy."""

    def value_and_grad(self, positions):
        values, gradients = super().value_and_grad(positions)
        return values.nan_to_num(nan=-5.0, posinf=-5.0, neginf=-5.0), gradients

    def value(self, positions):
        return super().value(positions).nan_to_num(nan=-5.0, posinf=-5.0, neginf=-5.0)


@by_name(KERNELS)
@pytest.mark.parametrize("bad", BAD_ENERGIES)
@quiet
def test_stays_out_check_rejects(kernel, bad):
    draws = sample(Trusting(walled(bad)), torch.zeros(4, 2), kernel(), 0.6)
    with pytest.raises(AssertionError):
        check_stays_out(draws)


# One chain's failure is its own

START = torch.tensor([[0.0, 0.5], [0.5, 0.0], [100.0, 0.0], [-0.5, 0.0]], dtype=torch.float64)
ILL, WELL = 2, [0, 1, 3]


def two_wells(q):
    """Standard normals about (0, 0) and (100, 0), as far as chains can tell."""
    return 0.5 * (torch.where(q[0] > 50, q[0] - 100, q[0]).square() + q[1].square())


def with_nan(q):
    return torch.where(q[0] > 101, math.nan, two_wells(q))


def with_singular_matrix(q):
    room = torch.where(q[0] > 50, 101 - q[0], 1.0)
    matrix = torch.diag(torch.stack((room, torch.ones_like(room))))
    return two_wells(q) - 0.1 * torch.linalg.cholesky(matrix).diagonal().log().sum()


def with_raised_error(q):
    if q[0] > 101:
        raise ValueError("q_0 must be at most 101")
    return two_wells(q)


ILL_POTENTIALS = [with_nan, with_singular_matrix, with_raised_error]


def check_others_unharmed(potential, kernel, **options):
    """Chains that run beside one that fails draw what they draw without it."""
    together = sample(potential, START, kernel, 0.8, draws=100, **options)
    apart = sample(potential, START[WELL], kernel, 0.8, draws=100, chain_ids=WELL, **options)
    torch.testing.assert_close(together.positions[WELL], apart.positions, rtol=0, atol=1e-10)
    for name, values in apart.stats.items():
        torch.testing.assert_close(together.stats[name][WELL], values, rtol=1e-9, atol=1e-9)
    assert together.stats["diverging"][ILL].any()
    assert float(together.positions[ILL, :, 0].max()) <= 101
    assert float(together.positions[ILL].std()) > 0.3
    return together


@by_name(KERNELS)
@pytest.mark.parametrize("potential", ILL_POTENTIALS)
@pytest.mark.filterwarnings("ignore:the potential:UserWarning")
@quiet
def test_other_chains_are_unharmed(potential, kernel):
    check_others_unharmed(potential, kernel())


@pytest.mark.filterwarnings("ignore:the potential:UserWarning")
@quiet
@pytest.mark.parametrize("potential", ILL_POTENTIALS)
def test_other_chains_adapt_unharmed(potential):
    options = {"warmup": 60, "adapt_step_size": True, "metric": "diag"}
    check_others_unharmed(potential, NUTS(), **options)


@pytest.mark.parametrize(
    ("potential", "error"), [(with_singular_matrix, "LinAlgError"), (with_raised_error, "ValueError")]
)
@by_name(KERNELS)
def test_errors_are_warned_of_once(potential, error, kernel):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draws = sample(potential, START, kernel(), 0.8)
    told = [str(warning.message) for warning in caught if "raised an error" in str(warning.message)]
    assert len(told) == 1
    assert error in told[0]
    assert draws.stats["diverging"][ILL].sum() > 1
    assert not draws.stats["diverging"][WELL].any()


class Contagious(Potential):
    """Mutant: what is no number in one row is none in all."""

    def value_and_grad(self, positions):
        values, gradients = super().value_and_grad(positions)
        return values + 0 * values.sum(), gradients


@quiet
def test_unharmed_check_rejects():
    with pytest.raises(AssertionError):
        check_others_unharmed(Contagious(with_nan), NUTS())


def test_an_error_of_the_program_surfaces():
    calls = []

    def broken(q):
        calls.append(1)
        if len(calls) > 40:
            raise TypeError("a fault")
        return two_wells(q)

    with pytest.raises(TypeError, match="a fault"):
        sample(Potential(broken, compile=False), START, NUTS(), 0.8)


# Neal's funnel


def centred_funnel(q):
    """v ~ N(0, 3) and nine x ~ N(0, exp(v / 2)) by their standard deviations; q = (v, x)."""
    v, x = q[0], q[1:]
    return v.square() / 18 + 0.5 * len(x) * v + 0.5 * x.square().sum() * torch.exp(-v)


def noncentred_funnel(q):
    """The same with x = exp(v / 2) z; q = (v, z)."""
    return q[0].square() / 18 + 0.5 * q[1:].square().sum()


def funnel_run(potential, **options):
    start = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return sample_potential(potential, start, seed=0, progress=False, **options)


def check_funnel_is_clean(draws):
    v = draws.positions[..., 0].numpy()
    energy = draws.stats["energy"].numpy()
    mcse = float(arviz.mcse(v, method="mean"))
    print(f"mean {v.mean():.3f} +- {mcse:.3f}, sd {v.std():.2f}, E-BFMI {arviz.bfmi(energy)}")
    assert not draws.stats["diverging"].any()
    assert abs(v.mean()) < 4 * mcse
    assert 2.7 <= v.std() <= 3.3
    assert (arviz.bfmi(energy) > 0.8).all()


@pytest.mark.statistical
def test_noncentred_funnel_is_clean():
    check_funnel_is_clean(funnel_run(noncentred_funnel))


@pytest.mark.statistical
def test_centred_funnel_warns():
    with pytest.warns(SamplingWarning) as caught:
        draws = funnel_run(centred_funnel, warmup=300, draws=500)
    told = " ".join(str(warning.message) for warning in caught)
    assert "transitions diverged" in told
    assert "E-BFMI" in told
    assert draws.stats["diverging"].any()
    assert arviz.bfmi(draws.stats["energy"].numpy()).min() < 0.3
    with pytest.raises(AssertionError):
        check_funnel_is_clean(draws)


# E-BFMI


def check_bfmi(compute):
    energy = np.random.default_rng(0).standard_normal((3, 200)).cumsum(1)[:, ::3]
    np.testing.assert_allclose(compute(energy), arviz.bfmi(energy), rtol=1e-12)


def test_bfmi_is_arvizs():
    check_bfmi(bfmi)


def test_bfmi_check_rejects_the_variance_about_zero():
    with pytest.raises(AssertionError):
        check_bfmi(lambda energy: np.square(np.diff(energy)).sum(1) / np.square(energy).sum(1))


def test_energies_that_hardly_move_are_warned_of():
    draws = sample(two_wells, torch.zeros(2, 2), HMC(num_steps=3), 0.5)
    warn_about(draws)
    draws.stats["energy"][1] = draws.stats["energy"][1].cumsum(0)
    with pytest.warns(SamplingWarning, match=r"E-BFMI 0\.0\d .* in the worst chain"):
        warn_about(draws)
