"""Our kernels under `pyro.infer.MCMC`: posteriors in closed form, and every way in which MCMC drives a kernel."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.mcmc import ArrowheadMassMatrix
from pyro_models import (
    COUNTS,
    FLIPS,
    LABELS,
    ONES,
    beta_bernoulli,
    check_moments,
    dirichlet_categorical,
    gamma_poisson,
    gaussian_chain,
    gaussian_chain_moments,
    hidden_markov,
    mixture,
    moments_on_grid,
    normal_gamma,
    structured,
)

from hnbayes.pyro import HMC, NUTS, RandomWalkMetropolis


@pytest.fixture(autouse=True)
def seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    yield
    pyro.clear_param_store()


def run(kernel, *args, draws=300, warmup=200, **options):
    mcmc = MCMC(kernel, draws, warmup, disable_progbar=True, **options)
    mcmc.run(*args)
    return mcmc


def grouped(mcmc):
    return {name: value.numpy() for name, value in mcmc.get_samples(group_by_chain=True).items()}


# Posteriors in closed form


@pytest.mark.parametrize("kernel", [lambda m: NUTS(m), lambda m: HMC(m, trajectory_length=1.5)], ids=["nuts", "hmc"])
def test_gaussian_chain(kernel):
    samples = grouped(run(kernel(gaussian_chain), ONES, draws=500))
    mean, sd = gaussian_chain_moments(ONES)
    for i in range(3):
        check_moments(samples[f"x{i + 1}"], mean[i], sd[i])
        with pytest.raises(AssertionError):
            check_moments(samples[f"x{i + 1}"], mean[i] + 0.4 * sd[i], sd[i])
        with pytest.raises(AssertionError):
            check_moments(samples[f"x{i + 1}"], mean[i], 1.4 * sd[i])


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 0.5, "adapt_step_size": False, "adapt_mass_matrix": False},
        {"step_size": 0.5, "adapt_step_size": False},
        {"step_size": None, "adapt_mass_matrix": False},
        {"full_mass": True, "jit_compile": True, "ignore_jit_warnings": True},
        {"use_multinomial_sampling": False, "max_tree_depth": 5},
    ],
)
def test_beta_bernoulli(options):
    a, b = 1.5 + float(FLIPS.sum()), 2.0 + float((1 - FLIPS).sum())
    mean, sd = a / (a + b), math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    check_moments(grouped(run(NUTS(beta_bernoulli, **options), FLIPS, warmup=100))["p"], mean, sd)


def test_gamma_poisson():
    shape, rate = 2.0 + float(COUNTS.sum()), 0.5 + len(COUNTS)
    check_moments(grouped(run(NUTS(gamma_poisson), COUNTS))["rate"], shape / rate, math.sqrt(shape) / rate)


def test_normal_with_gamma_precision():
    data = torch.tensor([1.0, -2.0, 0.5, 1.5, -0.7])
    shape, rate = 2.0 + len(data) / 2, 1.0 + 0.5 * float(data.square().sum())
    draws = grouped(run(HMC(normal_gamma, trajectory_length=1.5), data))["precision"]
    check_moments(draws, shape / rate, math.sqrt(shape) / rate)


def test_dirichlet_categorical():
    a = 1.0 + np.bincount(LABELS.numpy(), minlength=3)
    total = a.sum()
    sd = np.sqrt(a * (total - a) / (total**2 * (total + 1)))
    check_moments(grouped(run(NUTS(dirichlet_categorical), LABELS))["p"], a / total, sd)


def test_random_walk():
    a, b = 1.5 + float(FLIPS.sum()), 2.0 + float((1 - FLIPS).sum())
    mean, sd = a / (a + b), math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    mcmc = run(RandomWalkMetropolis(beta_bernoulli), FLIPS, draws=1500)
    check_moments(grouped(mcmc)["p"], mean, sd)
    assert mcmc.diagnostics()["divergences"] == {"chain 0": []}


def test_lkj_by_its_marginal():
    """An element of a 2 x 2 correlation matrix under LKJ(eta) is 2 Beta(eta, eta) - 1."""

    def model():
        pyro.sample("L", dist.LKJCholesky(2, 3.0))

    factors = grouped(run(NUTS(model)))["L"]
    check_moments(factors[..., 1, 0], 0.0, math.sqrt(1 / 7))


# Discrete sites are summed out


def test_mixture():
    data = torch.tensor([-1.2, 2.3, 1.8, -0.4, 2.6, 0.4])

    def log_density(p):
        near, far = np.exp(-0.5 * (data.numpy() + 1) ** 2), np.exp(-0.5 * (data.numpy() - 2) ** 2)
        return np.log((1 - p) * near + p * far).sum()

    mean, sd = moments_on_grid(log_density, 1e-6, 1 - 1e-6, 4001)
    mcmc = run(NUTS(mixture, max_plate_nesting=1), data)
    assert list(mcmc.get_samples()) == ["share"]
    check_moments(grouped(mcmc)["share"], mean, sd)


def test_hidden_markov_model():
    data = torch.tensor([0.1, 0.3, 1.9, 2.2, 0.2])

    def log_density(stay):
        forward = np.array([0.5, 0.5]) * np.exp(-0.5 * (float(data[0]) - np.array([0.0, 2.0])) ** 2)
        for y in data[1:].tolist():
            move = np.array([[stay, 1 - stay], [1 - stay, stay]])
            forward = (forward @ move) * np.exp(-0.5 * (y - np.array([0.0, 2.0])) ** 2)
        return np.log(forward.sum()) + np.log(stay)

    mean, sd = moments_on_grid(log_density, 1e-6, 1 - 1e-6, 2001)
    check_moments(grouped(run(NUTS(hidden_markov, max_plate_nesting=0), data, draws=200, warmup=100))["stay"], mean, sd)


# Mass matrices


COVARIANCE = torch.tensor([[1.5, 0.7, 0, 0], [0.7, 1.5, 0, 0], [0, 0, 2.0, 1.0], [0, 0, 1.0, 3.0]])


def test_structured_mass():
    kernel = NUTS(structured, full_mass=[("x", "y")])
    run(kernel, COVARIANCE, draws=1, warmup=800)
    blocks = kernel.inverse_mass_matrix
    assert {names: tuple(block.shape) for names, block in blocks.items()} == {("x", "y"): (2, 2), ("w",): (2,)}
    torch.testing.assert_close(blocks["x", "y"], COVARIANCE[2:, 2:].to(blocks["x", "y"]), rtol=0.5, atol=0.5)
    torch.testing.assert_close(blocks["w",], COVARIANCE.diagonal()[:2].to(blocks["w",]), rtol=0.5, atol=0.5)


@pytest.mark.parametrize("full_mass", [True, False])
def test_whole_mass_matrices_have_all_sites_in_order(full_mass):
    kernel = NUTS(structured, full_mass=full_mass)
    run(kernel, COVARIANCE, draws=1, warmup=1)
    assert kernel.inverse_mass_matrix["w", "x", "y"].ndim == 1 + full_mass


def test_arrowhead_mass_matrix_of_pyro():
    kernel = NUTS(structured, full_mass=[("w",)])
    kernel.mass_matrix_adapter = ArrowheadMassMatrix()
    samples = grouped(run(kernel, COVARIANCE, draws=200))
    assert kernel.mass_matrix_adapter.mass_matrix["w", "x", "y"].top.shape == (2, 4)
    check_moments(samples["w"], 0.0, math.sqrt(1.5))


# What MCMC does with a kernel


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_two_chains_in_processes(monkeypatch, context):
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 3)
    mcmc = run(NUTS(beta_bernoulli), FLIPS, draws=60, warmup=60, num_chains=2, mp_context=context)
    p = mcmc.get_samples(group_by_chain=True)["p"]
    assert p.shape == (2, 60)
    assert not torch.equal(p[0], p[1])
    diagnostics = mcmc.diagnostics()
    assert set(diagnostics["divergences"]) == {"chain 0", "chain 1"}
    for chain in ("chain 0", "chain 1"):
        stats = diagnostics["sample_stats"][chain]
        assert {"energy", "tree_depth", "n_steps", "diverging", "acceptance_rate", "step_size"} <= set(stats)
        assert all(len(values) == 60 for values in stats.values())
        assert diagnostics["step size"][chain] == pytest.approx(stats["step_size"][-1])
        assert 0.5 < diagnostics["acceptance rate"][chain] <= 1
    assert "p" in diagnostics


@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
def test_chains_one_after_another_leave_nothing_behind(monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 1)
    mcmc = run(NUTS(beta_bernoulli), FLIPS, draws=30, warmup=30, num_chains=2)
    first = mcmc.get_samples(group_by_chain=True)["p"]
    assert first.shape == (2, 30)
    assert not torch.equal(first[0], first[1])
    pyro.set_rng_seed(3)
    again = run(NUTS(beta_bernoulli), FLIPS, draws=30, warmup=30).get_samples()["p"]
    torch.testing.assert_close(first[0], again, rtol=1e-6, atol=0)


def test_initial_params_hook_and_saved_sites(capsys):
    seen = []

    def hook(kernel, params, stage, i):
        seen.append((stage, i, sorted(params)))

    start = {f"x{i}": torch.full((3,), 40.0) for i in (1, 2, 3)}
    kernel = HMC(gaussian_chain, step_size=1e-6, num_steps=1, adapt_step_size=False)
    mcmc = run(
        kernel,
        ONES,
        draws=4,
        warmup=1,
        initial_params=start,
        hook_fn=hook,
        save_params=["x3", "x1"],
    )
    sites = ["x1", "x2", "x3"]
    assert seen == [("Warmup", 0, sites), *(("Sample", i, sites) for i in range(4))]
    samples = mcmc.get_samples()
    assert set(samples) == {"x1", "x3"}
    torch.testing.assert_close(samples["x3"], torch.full((4, 3), 40.0), atol=0.01, rtol=0)
    mcmc.summary()
    assert "x1" in capsys.readouterr().out


def test_potential_function():
    def potential_fn(params):
        return 0.5 * ((params["z"] - 5.0) / 2.0).square().sum()

    mcmc = run(NUTS(potential_fn=potential_fn), initial_params={"z": torch.zeros(2)})
    check_moments(grouped(mcmc)["z"], 5.0, 2.0)


def test_arviz_reads_a_run():
    mcmc = run(NUTS(beta_bernoulli), FLIPS, draws=40, warmup=40)
    data = az.from_pyro(mcmc)
    assert data.posterior["p"].shape == (1, 40)
    assert data.sample_stats["diverging"].dtype == bool


def test_same_seed_same_draws():
    one, two = (None, None)
    for _ in range(2):
        pyro.set_rng_seed(11)
        one, two = two, run(NUTS(beta_bernoulli), FLIPS, draws=20, warmup=20).get_samples()["p"]
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_parameters_and_subsampling():
    """`pyro.param` is a constant, whatever plate it is in."""

    def model(data):
        scale = pyro.param("scale", torch.tensor(2.0))
        mean = pyro.sample("mean", dist.Normal(0.0, scale))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(mean, 1.0), obs=data)

    data = torch.tensor([1.0, 2.0, 3.0])
    check_moments(grouped(run(NUTS(model), data))["mean"], 6 / 3.25, math.sqrt(1 / 3.25))
