"""NUTS agrees with the reference draws of posteriordb, or warns where it can't."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
from posteriors import POSTERIORS, load

from hnbayes.kernels import MCLMC
from hnbayes.sampling import SamplingWarning, sample_potential

# Seeds whose starting points lead no chain into the mixture's empty local mode (see `posteriors.py`).
SEED = 3
# As the reference draws were made: at 0.8 one run in four of the non-centred schools has a divergence or two.
TARGET_ACCEPT = {"eight_schools_noncentered": 0.95}
FAST = ["eight_schools_noncentered", "gp_regr", "low_dim_gauss_mix", "garch11"]
SLOW = [name for name in POSTERIORS if name not in (*FAST, "eight_schools_centered")]


def run(name, potential=None, seed=SEED, **options):
    posterior = load(name)
    start = posterior.initial_positions(4, seed=seed)
    options = {"target_accept": TARGET_ACCEPT.get(name, 0.8), "progress": False} | options
    return sample_potential(potential or posterior.potential, start, seed=seed, **options)


def check_agreement(name, draws):
    """The criteria of verification against posteriordb: means, standard deviations, rank R-hat, no divergence."""
    posterior = load(name)
    values = posterior.constrain(draws.positions).numpy()
    dataset = arviz.convert_to_dataset({"x": values})
    mcse = arviz.mcse(dataset, method="mean")["x"].values
    rhat = arviz.rhat(dataset, method="rank")["x"].values
    mean, sd, reference_mcse = (x.numpy() for x in (posterior.mean, posterior.sd, posterior.mcse))
    z = np.abs(values.mean((0, 1)) - mean) / np.hypot(mcse, reference_mcse)
    ratio = values.std((0, 1)) / sd
    diverged = int(draws.stats["diverging"].sum())
    print(
        f"{name}: z {z.max():.2f}, sd ratio {ratio.min():.3f}-{ratio.max():.3f}, R-hat {rhat.max():.4f}, "
        f"{diverged} divergences, {float(draws.stats['n_steps'].double().mean()):.1f} steps"
    )
    assert z.max() < 4
    assert diverged == 0
    assert ratio.min() >= 0.85
    assert ratio.max() <= 1.15
    assert rhat.max() < 1.01


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_posterior_agrees(name):
    check_agreement(name, run(name))


MICROCANONICAL = ["eight_schools_noncentered", "gp_regr", pytest.param("arK", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", MICROCANONICAL)
def test_posterior_agrees_by_the_adjusted_microcanonical_kernel(name):
    check_agreement(name, run(name, kernel="mamclmc"))


@pytest.mark.parametrize("name", MICROCANONICAL)
def test_the_unadjusted_kernel_agrees_within_its_bias(name):
    """What docs/beyond.md states: means within 0.15 standard deviations, these within 15%."""
    posterior, draws = load(name), run(name, kernel="mclmc")
    values = posterior.constrain(draws.positions)
    assert ((values.mean((0, 1)) - posterior.mean).abs() < 0.15 * posterior.sd).all()
    ratio = values.std((0, 1)) / posterior.sd
    assert ratio.min() > 0.85
    assert ratio.max() < 1.15


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
def test_agreement_rejects_the_unadjusted_kernel_at_large_steps():
    draws = run("eight_schools_noncentered", kernel=MCLMC(energy_variance=0.5))
    with pytest.raises(AssertionError):
        check_agreement("eight_schools_noncentered", draws)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10, 11, 12])
@pytest.mark.parametrize("name", FAST)
def test_posterior_agrees_from_other_seeds(name, seed):
    check_agreement(name, run(name, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_posterior_agrees_with_a_dense_metric(name):
    check_agreement(name, run(name, metric="dense"))


def test_centred_schools_warn():
    with pytest.warns(SamplingWarning) as caught:
        run("eight_schools_centered", warmup=300, draws=500)
    told = " ".join(str(warning.message) for warning in caught)
    assert "diverged" in told or "E-BFMI" in told


# The check rejects posteriors that are not quite the one


def without_jacobian(q):
    """gp_regr with logarithms sampled as if they were the parameters: log |dx/dq| is the sum of q = log x."""
    return load("gp_regr").potential(q) + q.sum()


def with_wider_prior(q):
    """gp_regr with alpha ~ half-N(4) where half-N(2) is right."""
    alpha = q[1].exp()
    return load("gp_regr").potential(q) - 0.5 * (alpha / 2).square() + 0.5 * (alpha / 4).square()


@pytest.mark.parametrize("mutant", [without_jacobian, with_wider_prior])
@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
def test_agreement_check_rejects_another_posterior(mutant):
    draws = run("gp_regr", mutant, warmup=300, draws=500)
    with pytest.raises(AssertionError, match="< 4"):
        check_agreement("gp_regr", draws)
