"""All chains in one batch: the same posteriors, Pyro's interface, and what ArviZ is given."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, Predictive
from pyro_models import COUNTS, FLIPS, ONES, beta_bernoulli, check_moments, gamma_poisson, gaussian_chain, mixture
from pyro_models import gaussian_chain_moments as chain_moments

import hnbayes.pyro
from hnbayes.pyro import HMC, NUTS, RandomWalkMetropolis, VectorizedMCMC
from hnbayes.sampling import Draws
from hnbayes.sampling.callbacks import StopSampling


def run(kernel, *args, draws=250, warmup=200, **options):
    options = {"seed": 1, "disable_progbar": True} | options
    mcmc = VectorizedMCMC(kernel, draws, warmup, **options)
    mcmc.run(*args)
    return mcmc


def test_all_kernels_agree_with_linear_algebra():
    mean, sd = chain_moments(ONES)
    for kernel in (
        NUTS(gaussian_chain),
        HMC(gaussian_chain, trajectory_length=1.5),
        NUTS(gaussian_chain, full_mass=True),
    ):
        samples = run(kernel, ONES).get_samples(group_by_chain=True)
        for i in range(3):
            assert samples[f"x{i + 1}"].shape == (4, 250, 3)
            check_moments(samples[f"x{i + 1}"], mean[i], sd[i])


def test_random_walk():
    shape, rate = 2.0 + float(COUNTS.sum()), 0.5 + len(COUNTS)
    samples = run(RandomWalkMetropolis(gamma_poisson), COUNTS, draws=1500, warmup=500).get_samples(group_by_chain=True)
    check_moments(samples["rate"], shape / rate, math.sqrt(shape) / rate)


@pytest.mark.filterwarnings("ignore:the potential can't be evaluated for all chains")
def test_enumerated_sites_are_evaluated_chain_by_chain():
    mcmc = run(NUTS(mixture, max_plate_nesting=1), torch.tensor([-1.2, 2.3, 1.8]), draws=40, warmup=40, num_chains=2)
    assert mcmc.get_samples(group_by_chain=True)["share"].shape == (2, 40)


def branching(data):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    scale = 1.0 if x.item() > 0 else 2.0
    pyro.sample("obs", dist.Normal(x, scale), obs=data)


def test_what_cannot_be_vectorised_warns_once_and_names_the_cause():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mcmc = run(NUTS(branching), torch.tensor(0.5), draws=20, warmup=20, num_chains=2)
    told = [str(w.message) for w in seen if "one after another" in str(w.message)]
    assert len(told) == 1
    assert "item" in told[0]
    assert mcmc.draws.metadata["evaluation"] == "sequential"


def test_samples_diagnostics_and_summary(capsys):
    mcmc = run(NUTS(beta_bernoulli), FLIPS, draws=60, warmup=60, num_chains=3)
    assert isinstance(mcmc.draws, Draws)
    assert mcmc.get_samples()["p"].shape == (180,)
    assert mcmc.get_samples(7)["p"].shape == (7,)
    diagnostics = mcmc.diagnostics()
    assert diagnostics["p"]["n_eff"] > 20
    assert list(diagnostics["divergences"]) == ["chain 0", "chain 1", "chain 2"]
    mcmc.summary()
    assert "Number of divergences" in capsys.readouterr().out
    data = az.from_pyro(mcmc)
    assert data.posterior["p"].shape == (3, 60)
    assert data.log_likelihood["obs"].shape == (3, 60, 20)


def test_a_chain_depends_on_its_number_and_the_seed_alone():
    long = run(NUTS(beta_bernoulli), FLIPS, draws=25, warmup=25, num_chains=3).get_samples(group_by_chain=True)["p"]
    short = run(NUTS(beta_bernoulli), FLIPS, draws=25, warmup=25, num_chains=2).get_samples(group_by_chain=True)["p"]
    torch.testing.assert_close(long[:2], short, rtol=1e-4, atol=1e-5)
    assert not torch.equal(long[0], long[1])


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    run(NUTS(beta_bernoulli), FLIPS, draws=20, warmup=20, num_chains=2).to_inference_data(prior=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_params_hook_and_saved_sites():
    seen = []

    def hook(kernel, params, stage, i):
        seen.append((stage, i, tuple(sorted(params))))

    start = {f"x{i}": torch.full((2, 3), 30.0) for i in (1, 2, 3)}
    kernel = HMC(gaussian_chain, step_size=1e-6, num_steps=1, adapt_step_size=False)
    mcmc = run(
        kernel, ONES, draws=2, warmup=1, num_chains=2, initial_params=start, hook_fn=hook, save_params=["x3", "x1"]
    )
    assert sorted(mcmc.get_samples()) == ["x1", "x3"]
    torch.testing.assert_close(mcmc.get_samples()["x1"], torch.full((4, 3), 30.0), atol=0.01, rtol=0)
    sites = ("x1", "x2", "x3")
    stages = {(f"{s} [{c}]", i, sites) for c in (0, 1) for s, i in (("Warmup", 0), ("Sample", 0), ("Sample", 1))}
    assert set(seen) == stages
    data = mcmc.to_inference_data(prior=0)
    assert sorted(data.posterior) == ["x1", "x3"]
    assert "log_likelihood" in data.groups()


def test_predictive_takes_the_samples():
    mcmc = run(NUTS(gamma_poisson), COUNTS, draws=30, warmup=50, num_chains=2)
    assert Predictive(gamma_poisson, mcmc.get_samples())(COUNTS)["obs"].shape == (60, 5)


# InferenceData


def regression(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(x)):
        line = pyro.deterministic("line", slope * x)
        pyro.sample("y", dist.Normal(line, sigma), obs=y)


X = torch.linspace(-1, 1, 12)
Y = 1.5 * X + 0.3 * torch.sin(7 * X)


@pytest.fixture(scope="module")
def regression_run():
    return run(NUTS(regression), X, Y, draws=200, warmup=150, num_chains=2, save_warmup=True)


def test_all_groups_with_dims_from_plates(regression_run):
    data = regression_run.to_inference_data(prior=50, coords={"row": [f"r{i}" for i in range(12)]})
    assert {"posterior", "sample_stats", "log_likelihood", "observed_data", "posterior_predictive"} <= set(
        data.groups()
    )
    assert {"prior", "prior_predictive", "warmup_posterior", "warmup_sample_stats"} <= set(data.groups())
    assert data.posterior["line"].dims == ("chain", "draw", "row")
    assert data.observed_data["y"].dims == ("row",)
    assert data.prior_predictive["y"].shape == (1, 50, 12)
    assert set(data.prior) == {"slope", "sigma", "line"}
    assert data.warmup_posterior["line"].shape == (2, 150, 12)
    assert data.posterior["row"].values[3] == "r3"
    assert data.sample_stats["diverging"].dtype == bool
    assert (data.posterior["sigma"] > 0).all()


def test_groups_hold_the_right_numbers(regression_run):
    data = regression_run.to_inference_data(prior=2000)
    slope, sigma = (torch.tensor(data.posterior[name].values) for name in ("slope", "sigma"))
    by_hand = torch.distributions.Normal(slope[..., None] * X, sigma[..., None]).log_prob(Y)
    np.testing.assert_allclose(data.log_likelihood["y"].values, by_hand.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(data.posterior["line"].values, (slope[..., None] * X).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.observed_data["y"].values, Y.numpy())
    z = (data.posterior_predictive["y"].values - data.posterior["line"].values) / sigma.numpy()[..., None]
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert abs(z.std() - 1) < 5 / math.sqrt(2 * z.size)
    assert abs(data.prior["slope"].values.std() - 2.0) < 5 * 2 / math.sqrt(2 * 2000)
    assert az.loo(data).n_data_points == 12


def test_predictive_draws_are_reproducible(regression_run):
    one, two, other = (regression_run.to_inference_data(prior=0, seed=s).posterior_predictive["y"] for s in (1, 1, 2))
    assert (one == two).all()
    assert not (one == other).all()


def test_the_same_of_pyros_own_runner(regression_run):
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(regression), 30, 30, disable_progbar=True)
    with pytest.raises(RuntimeError, match="call run"):
        hnbayes.pyro.to_inference_data(mcmc)
    mcmc.run(X, Y)
    data = hnbayes.pyro.to_inference_data(mcmc, prior=3)
    assert data.posterior["line"].shape == (1, 30, 12)
    assert "energy" in data.sample_stats
    assert data.log_likelihood["y"].shape == (1, 30, 12)


@pytest.mark.filterwarnings("ignore:the potential can't be evaluated for all chains")
def test_discrete_sites_have_no_log_likelihood():
    data = torch.tensor([-1.2, 2.3, 1.8])
    mcmc = run(NUTS(mixture, max_plate_nesting=1), data, draws=20, warmup=20, num_chains=2)
    with pytest.warns(UserWarning, match="no log_likelihood.*'z'"):
        result = mcmc.to_inference_data(prior=4)
    assert result.posterior_predictive["obs"].shape == (2, 20, 3)
    assert result.prior["z"].shape == (1, 4, 3)
    assert "log_likelihood" not in result.groups()


def test_models_that_vmap_cannot_follow_are_asked_draw_by_draw():
    with pytest.warns(UserWarning, match="one after another"):
        mcmc = run(NUTS(branching), torch.tensor(0.5), draws=15, warmup=15, num_chains=2)
    data = mcmc.to_inference_data(prior=3)
    x = torch.tensor(data.posterior["x"].values)
    expected = torch.distributions.Normal(x, torch.where(x > 0, 1.0, 2.0)).log_prob(torch.tensor(0.5))
    np.testing.assert_allclose(data.log_likelihood["obs"].values, expected.numpy(), rtol=1e-5)


# Runs that are stopped


class Stop:
    """A hook that stops a run after so many transitions."""

    def __init__(self, after):
        self.left = after

    def __call__(self, kernel, params, stage, i):
        self.left -= 1
        if self.left < 0:
            raise StopSampling


KERNELS = {
    "nuts": lambda: NUTS(regression, max_tree_depth=5),
    "dense": lambda: NUTS(regression, max_tree_depth=5, full_mass=True),
    "hmc": lambda: HMC(regression, num_steps=4),
    "metropolis": lambda: RandomWalkMetropolis(regression),
}


def stoppable(kernel, folder=None, **options):
    options = {"num_chains": 2, "seed": 3, "save_warmup": True, "disable_progbar": True, "checkpoint": folder} | options
    return VectorizedMCMC(KERNELS[kernel](), 40, 30, **options)


def same(mcmc, other):
    assert torch.equal(mcmc.draws.positions, other.draws.positions)
    assert torch.equal(mcmc.draws.warmup_positions, other.draws.warmup_positions)
    for name, values in other.get_samples(group_by_chain=True).items():
        assert torch.equal(mcmc.get_samples(group_by_chain=True)[name], values)
    return True


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # runs are short
@pytest.mark.parametrize("kernel", KERNELS)
def test_stopped_and_resumed(kernel, tmp_path):
    whole = stoppable(kernel)
    whole.run(X, Y)
    for after in (20, 100):
        folder = tmp_path / str(after)
        part = stoppable(kernel, folder, hook_fn=Stop(after))
        part.run(X, Y)
        assert part.draws.metadata["interrupted"]
        resumed = stoppable(kernel, folder)
        resumed.resume(X, Y)
        assert same(resumed, whole)
    assert resumed.to_inference_data(prior=0).posterior["slope"].shape == (2, 40)
    longer = VectorizedMCMC(KERNELS[kernel](), 50, 30, 2, save_warmup=True, disable_progbar=True, checkpoint=folder)
    longer.resume(X, Y)
    assert torch.equal(longer.draws.positions[:, :40], whole.draws.positions)
    assert longer.draws.num_draws == 50


KILLED = """
import os, signal, sys, warnings
import torch
torch.set_num_threads(int(sys.argv[3]))
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
from test_vectorized_mcmc import X, Y, stoppable
def hook(kernel, params, stage, i):
    if stage == "Sample [1]" and i == 12:
        os.kill(os.getpid(), signal.SIGKILL)
stoppable("nuts", sys.argv[2], checkpoint_every=0, hook_fn=hook, storage="zarr").run(X, Y)
"""


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # runs are short
def test_killed_and_resumed(tmp_path):
    """In another process, which is killed among its draws; and what xarray reads in the end."""
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(folder), str(torch.get_num_threads())]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert 0 < hnbayes.read_draws(folder).num_draws < 40
    whole, resumed = stoppable("nuts"), stoppable("nuts", folder)
    whole.run(X, Y)
    resumed.resume(X, Y)
    assert same(resumed, whole)
    with xr.open_zarr(folder / "posterior.zarr", group="posterior", chunks=None) as data:
        found = {name: torch.from_numpy(data[name].values) for name in ("slope", "sigma")}
    assert torch.equal(found["slope"], whole.get_samples(group_by_chain=True)["slope"])
    assert torch.equal(found["sigma"].exp(), whole.get_samples(group_by_chain=True)["sigma"])


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # runs are short
def test_what_cannot_be_resumed(tmp_path):
    stoppable("nuts", tmp_path, hook_fn=Stop(20)).run(X, Y)
    for kernel, options, data, message in [
        ("nuts", {"checkpoint": None}, Y, "needs the folder of a run"),
        ("nuts", {"checkpoint": tmp_path / "none"}, Y, "holds no run.start"),
        ("hmc", {}, Y, "kernel must be that of the run"),
        ("dense", {}, Y, "full_mass must be that of the run"),
        ("nuts", {"seed": 4}, Y, "seed must be that of the run"),
        ("nuts", {"num_chains": 3}, Y, "num_chains must be that of the run"),
        ("nuts", {"adaptation": "pooled"}, Y, "adaptation must be that of the run"),
        ("nuts", {"save_warmup": False}, Y, "save_warmup must be that of the run"),
        ("nuts", {}, Y + 1, "potential must be that of the run"),
    ]:
        with pytest.raises(ValueError, match=message):
            stoppable(kernel, **({"checkpoint": tmp_path} | options)).resume(X, data)
    with pytest.raises(ValueError, match="at least the 40"):
        VectorizedMCMC(KERNELS["nuts"](), 20, 30, 2, save_warmup=True, checkpoint=tmp_path).resume(X, Y)
    with pytest.raises(ValueError, match="holds one"):
        stoppable("nuts", tmp_path).run(X, Y)
    with pytest.raises(ValueError, match="storage needs checkpoint"):
        stoppable("nuts", storage="zarr")


# Bad input


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"kernel of hnbayes\.pyro"):
        VectorizedMCMC(pyro.infer.NUTS(beta_bernoulli), 10)
    with pytest.raises(TypeError, match="num_samples must be an integer"):
        VectorizedMCMC(NUTS(beta_bernoulli), 1.5)
    with pytest.raises(ValueError, match="num_chains"):
        VectorizedMCMC(NUTS(beta_bernoulli), 10, num_chains=0)
    with pytest.raises(ValueError, match="needs initial parameters"):
        VectorizedMCMC(NUTS(potential_fn=lambda params: params["z"].sum()), 10)
    with pytest.raises(ValueError, match="leading dimension of num_chains = 4"):
        VectorizedMCMC(NUTS(beta_bernoulli), 10, initial_params={"p": torch.zeros(3)})
    with pytest.raises(ValueError, match="save_params must be of the sites p"):
        run(NUTS(beta_bernoulli), FLIPS, draws=5, warmup=5, save_params=["q"])
    with pytest.raises(RuntimeError, match="call run"):
        VectorizedMCMC(NUTS(beta_bernoulli), 10).get_samples()
    with pytest.raises(TypeError, match=r"VectorizedMCMC, or a pyro\.infer\.MCMC"):
        hnbayes.pyro.to_inference_data(3)
