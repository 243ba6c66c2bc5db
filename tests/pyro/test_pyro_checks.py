"""Models that can't be sampled are refused, with what to do about it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from hnbayes.pyro import HMC, NUTS, ModelError, RandomWalkMetropolis, VectorizedMCMC, potential


def both(kernel):
    """The two runners, as functions without arguments."""
    return (
        lambda: MCMC(kernel, 5, 5, disable_progbar=True).run(),
        lambda: VectorizedMCMC(kernel, 5, 5, num_chains=2, disable_progbar=True).run(),
    )


def refused(model, error, match):
    for start in both(NUTS(model)):
        with pytest.raises(error, match=match):
            start()


@pytest.fixture(autouse=True)
def seeded():
    pyro.set_rng_seed(0)


def test_no_continuous_site():
    def observed_only():
        pyro.sample("obs", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    def discrete_only():
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("obs", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    refused(observed_only, ValueError, "at least one continuous latent site")
    refused(discrete_only, ValueError, "infer_discrete")


def test_observed_nan():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("obs", dist.Normal(x, 1.0), obs=torch.tensor([1.0, torch.nan, 2.0]))

    refused(model, ValueError, "must not be NaN; received 1 NaN of 3 values at site 'obs'.*obs_mask")


def test_observation_outside_its_support():
    def model():
        x = pyro.sample("x", dist.HalfNormal(1.0))
        pyro.sample("obs", dist.Exponential(x), obs=torch.tensor(-1.0).log())

    refused(model, ValueError, "NaN")

    def impossible():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", x - x - torch.inf)

    refused(impossible, ValueError, "finite density")


def test_sites_that_change():
    calls = []

    def model():
        calls.append(0)
        pyro.sample("x", dist.Normal(0.0, 1.0))
        if len(calls) % 2:
            pyro.sample("y", dist.Normal(0.0, 1.0))

    refused(model, ModelError, r"the same sites at every run; received a run (with the new|without) 'y'\. Sample")


def test_shapes_and_supports_that_change():
    def growing():
        x = pyro.sample("x", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(0.0, 1.0).expand([1 + int(x.abs() * 10)]).to_event(1))

    def moving():
        x = pyro.sample("x", dist.Uniform(0.0, 1.0))
        pyro.sample("y", dist.Uniform(0.0, x))

    refused(growing, ModelError, "same shape at every run")
    refused(moving, ModelError, "support of a site must not depend on other sites")


def test_dropout_and_batch_normalisation_in_training():
    for layer in (torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2)):
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), layer)

        def model(net=net):
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(net(torch.ones(3, 2)) * x, 1.0).to_event(2), obs=torch.zeros(3, 2))

        refused(model, ValueError, r"training mode.*net.eval\(\)")


def test_hidden_randomness():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(x + torch.randn(()), 1.0), obs=torch.tensor(0.0))

    for kernel in (NUTS, RandomWalkMetropolis):
        for start in both(kernel(model)):
            with pytest.raises(ModelError, match="one density at one position"):
                start()


def test_arguments_of_kernels():
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0))

    def U(params):
        return params["x"].square().sum()

    with pytest.raises(ValueError, match="either a model or a potential_fn; received neither"):
        NUTS()
    with pytest.raises(ValueError, match="received both"):
        HMC(model, potential_fn=U)
    with pytest.raises(TypeError, match="model must be callable"):
        NUTS(3)
    with pytest.raises(ValueError, match="step_size must be finite"):
        NUTS(model, step_size=-1.0)
    with pytest.raises(ValueError, match="target_accept_prob"):
        NUTS(model, target_accept_prob=1.5)
    with pytest.raises(ValueError, match="max_tree_depth"):
        NUTS(model, max_tree_depth=0)
    with pytest.raises(ValueError, match="num_steps"):
        HMC(model, num_steps=0)
    with pytest.raises(ValueError, match="trajectory_length"):
        HMC(model, trajectory_length=float("nan"))
    kernel = NUTS(potential_fn=U)
    with pytest.raises(ValueError, match="needs initial parameters"):
        kernel.setup(5)
    for start in both(kernel):
        with pytest.raises(ValueError, match=r"needs initial parameters.*Pass initial_params="):
            start()
    with pytest.raises(RuntimeError, match="set up before it samples"):
        NUTS(model).sample({"x": torch.zeros(())})
    for full_mass, error in (([("x", "q")], ValueError), ([("x",), ("x",)], ValueError), ("x", TypeError)):
        with pytest.raises(error, match="full_mass"):
            NUTS(model, full_mass=full_mass).setup(5)


def test_arguments_of_potentials():
    with pytest.raises(TypeError, match="model must be a callable"):
        potential(3)
