"""A network with prior and likelihood as a Pyro model, and Gaussians as its sites."""

from __future__ import annotations

import pickle

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import hnbayes
from hnbayes.laplace import DiagGaussian
from hnbayes.priors import HierarchicalNormal
from hnbayes.pyro import NUTS, BayesianNetwork, PrecisionNormal, VectorizedMCMC, as_potential_fn, potential

X = torch.linspace(-2, 2, 12)[:, None]
Y = torch.sin(2 * X)
NET = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
PRIORS = [1.0, {"*.weight": HierarchicalNormal(centred=True), "*": dist.Normal(0.0, 2.0)}, HierarchicalNormal()]


@pytest.fixture(autouse=True)
def seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(2)
    yield
    pyro.clear_param_store()


def by_hand(q, spec):
    """U of the plain model: N(0, 1) weights, noise of standard deviation 0.5."""
    output = torch.func.functional_call(NET, spec.unflatten(q), (X,))
    normal = torch.distributions.Normal
    return -normal(output, 0.5).log_prob(Y).sum() - normal(0.0, 1.0).log_prob(q).sum()


@pytest.mark.parametrize("flat", [False, True])
def test_the_density_is_that_of_torch(flat):
    model = BayesianNetwork(NET, 1.0, hnbayes.likelihoods.Gaussian(0.5), flat=flat)
    U = potential(model, X, Y)
    q = torch.randn(3, U.spec.size)
    flattened = model.spec.flatten(model.weights(U.constrain(q)))
    expected = [by_hand(row, model.spec) for row in flattened]
    torch.testing.assert_close(U.value_and_grad(q)[0], torch.stack(expected).detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("flat", [False, True])
def test_predictive_arviz_and_outputs(prior, flat):
    model = pickle.loads(pickle.dumps(BayesianNetwork(NET, prior, flat=flat)))
    mcmc = VectorizedMCMC(NUTS(model, max_tree_depth=4), 12, 12, num_chains=2, disable_progbar=True, seed=0)
    with pytest.warns():
        mcmc.run(X, Y)
    samples = mcmc.get_samples()
    for parallel in (True, False):
        assert Predictive(model, samples, parallel=parallel)(X)["obs"].shape == (24, 12, 1)
    outputs = model.outputs(samples, X)
    alone = torch.stack(
        [torch.func.functional_call(NET, {n: w[i] for n, w in model.weights(samples).items()}, (X,)) for i in range(24)]
    )
    torch.testing.assert_close(outputs, alone.detach(), rtol=1e-5, atol=1e-5)
    expected = torch.distributions.Normal(outputs, samples["sigma"][:, None, None]).log_prob(Y)[..., 0]
    for data in (az.from_pyro(mcmc), mcmc.to_inference_data(prior=3)):
        received = data.log_likelihood["obs"].values.reshape(24, 12)
        np.testing.assert_allclose(received, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_chains_in_processes_draw_what_they_draw_alone(monkeypatch, context):
    """Pyro seeds the process of chain c with its own seed + c, here 2 + c."""
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 3)
    model = BayesianNetwork(NET, {"*.weight": HierarchicalNormal(), "*": 1.0})

    def run(**options):
        mcmc = MCMC(NUTS(model, max_tree_depth=3), 6, 6, disable_progbar=True, **options)
        mcmc.run(X, Y)
        return mcmc, model.outputs(mcmc.get_samples(group_by_chain=True), X)

    mcmc, outputs = run(num_chains=2, mp_context=context)
    assert type(mcmc.sampler).__name__ == "_MultiSampler"
    assert outputs.shape == (2, 6, 12, 1)
    for chain in (0, 1):
        assert len(mcmc.diagnostics()["sample_stats"][f"chain {chain}"]["n_steps"]) == 6
        pyro.set_rng_seed(2 + chain)
        torch.testing.assert_close(run()[1][0], outputs[chain], rtol=1e-5, atol=1e-5)


def test_variational_inference():
    model = BayesianNetwork(NET, 1.0)
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(X, Y) for _ in range(150)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    assert all(p.grad is None for p in NET.parameters())


def test_bad_input():
    with pytest.raises(ValueError, match="bare function"):
        BayesianNetwork(NET, lambda q: -q.square().sum())
    with pytest.raises(ValueError, match="must be Gaussian"):
        BayesianNetwork(NET, dist.Laplace(0.0, 1.0), flat=True)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        BayesianNetwork(3)
    model = BayesianNetwork(NET)
    with pytest.raises(ValueError, match="y must have shape"):
        model(X, Y[:, 0])
    with pytest.raises(ValueError, match="X must be finite"):
        model(X * torch.nan, Y)
    with pytest.raises(ValueError, match=r"missing: 0\.bias"):
        model.weights({"0.weight": X})


def test_a_fitted_networks_gaussian_as_prior():
    """The posterior of a conjugate linear model under another task's Gaussian, in closed form."""
    linear = torch.nn.Linear(1, 1, bias=False)
    before = DiagGaussian(torch.tensor([0.7]), torch.tensor([4.0]), hnbayes.ParamSpec(("weight",), ((1, 1),)))
    model = BayesianNetwork(linear, before, hnbayes.likelihoods.Gaussian(0.5))
    mcmc = VectorizedMCMC(NUTS(model), 400, 200, disable_progbar=True, seed=0)
    mcmc.run(X, 2.0 * X)
    precision = 4.0 + 4.0 * float(X.square().sum())
    mean = (4.0 * 0.7 + 4.0 * 2.0 * float(X.square().sum())) / precision
    w = mcmc.get_samples()["weight"]
    assert abs(float(w.mean()) - mean) < 5 / np.sqrt(precision * 400)
    assert abs(float(w.std()) * np.sqrt(precision) - 1) < 0.15


def test_precision_normal_as_a_site():
    tau = torch.tensor([4.0, 0.0])
    site = PrecisionNormal(torch.tensor([1.0, 2.0]), tau)

    def model():
        x = pyro.sample("x", site.to_event(1))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=torch.tensor([0.0, 5.0]))

    samples = MCMC(NUTS(model), 300, 200, disable_progbar=True)
    samples.run()
    x = samples.get_samples()["x"]
    torch.testing.assert_close(x.mean(0), torch.tensor([0.8, 5.0]), atol=0.3, rtol=0)
    proper = PrecisionNormal(torch.zeros(2), torch.tensor([4.0, 1.0]))
    normal = dist.Normal(torch.zeros(2), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(proper.log_prob(torch.ones(2)), normal.log_prob(torch.ones(2)))
    torch.testing.assert_close(torch.distributions.kl_divergence(proper, normal), torch.zeros(2), atol=1e-6, rtol=0)
    assert proper.expand([3, 2]).to_event(1).mask(torch.tensor([True, False, True])).log_prob(torch.zeros(2)).shape == (
        3,
    )
    mapped = torch.func.vmap(lambda v: PrecisionNormal(v, v.square(), validate_args=False).log_prob(v))(
        torch.ones(4, 2)
    )
    assert mapped.shape == (4, 2)


@pytest.mark.filterwarnings("ignore:.*trajectories were cut", "ignore:.*diverged")
def test_potentials_both_ways():
    U = hnbayes.nn_pot_energy(NET, X, Y, hnbayes.log_prob_standard_normal_prior, tau_pred=4.0)
    potential_fn, start = as_potential_fn(U, seed=0)
    assert potential_fn(start).shape == ()
    for kernel in (NUTS, pyro.infer.NUTS):
        mcmc = MCMC(
            kernel(potential_fn=potential_fn, max_tree_depth=3), 4, 4, initial_params=start, disable_progbar=True
        )
        mcmc.run()
        assert mcmc.get_samples()["0.weight"].shape == (4, 3, 1)
    model = BayesianNetwork(NET, 1.0, hnbayes.likelihoods.Gaussian(0.5))
    native = potential(model, X, Y)
    draws = hnbayes.sample_potential(
        native, native.initial_positions(2, seed=0), warmup=25, draws=5, max_tree_depth=3, seed=0, progress=False
    )
    assert set(native.constrain(draws.positions)) == set(native.spec.names)
    back = native.unconstrain(native.constrain(draws.positions))
    torch.testing.assert_close(back, draws.positions)
    with pytest.raises(TypeError, match=r"hnbayes\.Potential"):
        as_potential_fn(3)
