"""hnbayes.sample: forms of data, starts, refusals, and what is kept when a run is stopped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.func import functional_call

import hnbayes
from hnbayes.laplace import DiagGaussian
from hnbayes.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, Poisson
from hnbayes.posterior import Model
from hnbayes.posterior.starts import starts
from hnbayes.priors import FanInNormal, HierarchicalNormal, Horseshoe, Normal

N = 20
QUICK = {"warmup": 20, "draws": 10, "chains": 2, "map_steps": 20, "max_tree_depth": 3, "progress": False}


def network(outputs=1, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs)).to(dtype)


def inputs(dtype=torch.float32):
    return torch.randn(N, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))


def real(dtype=torch.float32):
    X = inputs(dtype)
    return X[:, :1] - 0.5 * X[:, 1:] + 0.1


def quick(net, X, y, **options):
    return hnbayes.sample(net, X, y, **{**QUICK, "seed": 0, **options})


pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")


def test_all_forms_of_the_same_data_give_the_same_draws():
    X, y = inputs(), real()
    first = quick(network(), X, y)
    frame = pd.DataFrame(X.double().numpy(), columns=["a", "b"])
    for given_X, given_y in (
        (X.numpy(), y.numpy()),
        (X.numpy(), y[:, 0].numpy()),
        (X.tolist(), y[:, 0].tolist()),
        (frame, pd.Series(y[:, 0].numpy())),
        (X.double(), y.double()),
        (X.numpy()[::-1][::-1], y),
    ):
        again = quick(network(), given_X, given_y)
        assert torch.equal(again.draws.positions, first.draws.positions)


def test_flat_outputs_take_columns_and_whole_numbers_are_real_numbers():
    net = nn.Sequential(network(), nn.Flatten(0))
    post = quick(net, inputs(), torch.arange(N)[:, None])
    assert post.y.shape == (N,)
    assert post.y.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_in_the_networks_dtype(dtype):
    post = quick(network(dtype=dtype), inputs().numpy(), real().numpy())
    assert post.draws.positions.dtype == dtype
    assert {v.dtype for v in post.params().values()} == {dtype}
    assert post.draws.metadata["evaluation"] in ("captured", "native")


def test_names_and_scales():
    post = quick(network(), inputs(), real(), prior=HierarchicalNormal())
    shapes = {name: tuple(value.shape) for name, value in post.params().items()}
    weights = {name: (2, 10, *p.shape) for name, p in network().named_parameters()}
    assert shapes == {**weights, "0.prior_scale": (2, 10), "2.prior_scale": (2, 10), "sigma": (2, 10)}
    params, positions = post.params(), post.draws.params()
    torch.testing.assert_close(params["sigma"], positions["sigma"].exp())
    scale = params["0.prior_scale"][..., None, None]
    torch.testing.assert_close(params["0.weight"], scale * positions["0.weight_z"])
    assert set(post.weights()) == set(weights)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y"),
    [
        (Categorical(), 3, torch.arange(N) % 3),
        (Bernoulli(), 1, torch.arange(N) % 2),
        (Poisson(), 1, torch.arange(N) % 4),
        (HeteroscedasticGaussian(), 2, real()),
        (lambda f: torch.distributions.Normal(f[..., 0], 0.5), 1, real()[:, 0]),
        ("student_t", 1, real()),
        ("negative_binomial", 1, torch.arange(N) % 4),
    ],
)
def test_every_likelihood_is_sampled_without_the_cost_of_the_transforms(likelihood, outputs, y):
    post = quick(network(outputs), inputs(), y, likelihood=likelihood)
    assert post.draws.metadata["evaluation"] in ("captured", "native")
    assert torch.isfinite(post.draws.positions).all()
    assert np.isfinite(post.log_likelihood()).all()
    assert np.isfinite(list(post.score(inputs(), y).values())).all()
    assert len(post.predict(inputs()[:3])["point"]) == 3


def test_the_potential_is_minus_the_log_joint_density():
    """By torch's distributions, at a position chosen by hand, with the Jacobian of both logarithms."""
    model = Model(
        network(dtype=torch.float64), Gaussian("learned"), HierarchicalNormal(2.0, per="all"), inputs().double()
    )
    X, y = model.data(inputs().double(), real().double())
    q = 0.3 * torch.randn(model.spec.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = model.spec.unflatten(q)
    tau, sigma = parts["prior_scale"].exp(), parts["sigma"].exp()
    weights = {n: tau * parts[f"{n}_z"] for n, _ in network().named_parameters()}
    outputs = functional_call(network(dtype=torch.float64), weights, (X,))
    half, normal = torch.distributions.HalfNormal, torch.distributions.Normal
    expected = half(torch.tensor(2.0).double()).log_prob(tau) + half(torch.tensor(1.0).double()).log_prob(sigma)
    expected = expected + parts["prior_scale"] + parts["sigma"]
    for n in weights:
        expected = expected + normal(0.0, 1.0).log_prob(parts[f"{n}_z"]).sum()
    expected = expected + normal(outputs, sigma).log_prob(y).sum()
    torch.testing.assert_close(model.potential(X, y)(q), -expected)
    own_scale = expected - parts["prior_scale"] - parts["sigma"] - normal(outputs, sigma).log_prob(y).sum()
    torch.testing.assert_close(model.log_prior(q[None])[0], own_scale)


@pytest.mark.parametrize(
    "prior",
    [
        Normal(0.5, 2.0),
        FanInNormal(),
        {"*.bias": Normal(), "*": torch.distributions.Laplace(0.0, 1.0)},
        DiagGaussian(torch.linspace(-1, 1, 13), torch.linspace(0, 2, 13)),
        Horseshoe(),
        HierarchicalNormal(centred=True),
        lambda q: -q.abs().sum(),
    ],
)
def test_log_density_of_coordinates_is_that_of_the_prior(prior):
    model = Model(network(dtype=torch.float64), Gaussian(0.5), _double(prior), inputs().double())
    q = 0.3 * torch.randn(3, model.spec.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    received = model.log_prior(q)
    for row, position in enumerate(q):
        values, _ = model.coordinates.constrain(position)
        torch.testing.assert_close(received[row], model.bound.log_prob(values))
        torch.testing.assert_close(model.coordinates.unconstrain(values), position)


def _double(prior):
    if isinstance(prior, DiagGaussian):
        return DiagGaussian(prior.mean.double(), prior.precision.double())
    return prior


def built(prior=1.0, likelihood="gaussian"):
    noise = 0.3 * torch.randn(N, 1, generator=torch.Generator().manual_seed(9))
    model = Model(network(), likelihood, prior, inputs())
    return model, model.potential(*model.data(inputs(), real() + noise))


@pytest.mark.parametrize("init", ["map", "prior"])
def test_starts_depend_on_seed_and_chain_alone(init):
    model, U = built(HierarchicalNormal())
    first = starts(model, U, init, range(3), 7, 30)
    alone = starts(model, U, init, [1], 7, 30)
    torch.testing.assert_close(alone[0], first[1])
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(starts(model, U, init, range(3), 8, 30), first)


def test_map_starts_are_near_modes():
    model, U = built()
    drawn, climbed = (starts(model, U, init, range(3), 0, 500) for init in ("prior", "map"))
    lower, gradients = U.value_and_grad(climbed)
    higher, steep = U.value_and_grad(drawn)
    assert (lower < higher - 10).all()
    assert gradients.norm(dim=1).max() < 0.1 * steep.norm(dim=1).min()


def test_map_starts_do_not_collapse():
    """A network that interpolates its data, and a centred hierarchy: both have modes of infinite density."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(2, 200), nn.ReLU(), nn.Linear(200, 1))
    model = Model(wide, "gaussian", 10.0, inputs()[:4])
    U = model.potential(*model.data(inputs()[:4], real()[:4]))
    sigma = model.values(starts(model, U, "map", range(2), 0, 1500))["sigma"]
    assert (sigma > 0.005).all()  # a half percent of its prior, HalfNormal(1), is below 0.0063
    model, U = built(HierarchicalNormal(centred=True))
    before = model.values(starts(model, U, "prior", range(3), 0, 0))
    after = model.values(starts(model, U, "map", range(3), 0, 300))
    for name in ("0.prior_scale", "2.prior_scale"):
        torch.testing.assert_close(after[name], before[name])


def test_module_starts_are_the_networks_weights_with_fitted_noise():
    net = nn.Linear(2, 1)
    X = inputs()
    y = net(X).detach() + 0.2 * torch.randn(N, 1, generator=torch.Generator().manual_seed(3))
    model = Model(net, "gaussian", HierarchicalNormal(), X)
    U = model.potential(*model.data(X, y))
    positions = starts(model, U, "module", range(2), 0, 300)
    weights = model.bound.weights(model.values(positions))
    for name, p in net.named_parameters():
        torch.testing.assert_close(weights[name], p.detach().expand(2, *p.shape), rtol=1e-4, atol=1e-5)
    residual = float((y - net(X)).square().mean().sqrt().detach())
    assert abs(float(model.values(positions)["sigma"][0]) - residual) < 0.02


def test_priors_that_cannot_be_drawn_from_start_near_the_network():
    model, U = built(lambda q: -0.5 * q.square().sum())
    positions = starts(model, U, "map", range(2), 0, 0)
    own = torch.cat([p.detach().reshape(-1) for p in network().parameters()])
    assert (positions[:, : len(own)] - own).abs().max() < 0.6
    with pytest.raises(ValueError, match="init='prior' needs a prior that can be drawn from"):
        starts(model, U, "prior", range(2), 0, 0)


def test_positions_may_be_given():
    model, _ = built()
    start = 0.1 * torch.randn(2, model.spec.size, generator=torch.Generator().manual_seed(0))
    kept = start.clone()
    post = quick(network(), inputs(), real(), init=start)
    assert torch.equal(start, kept)
    assert post.draws.positions.shape == (2, 10, model.spec.size)


def test_the_network_data_and_global_state_are_left_alone():
    net, X, y = network(), inputs(), real()
    before = [p.clone() for p in net.parameters()]
    copies = X.clone(), y.clone()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    post = quick(net, X, y)
    post.predict(X)
    post.score(X, y)
    post.sample_data(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) and b.requires_grad and b.grad is None for a, b in zip(before, net.parameters(), strict=True)
    )
    assert torch.equal(X, copies[0])
    assert torch.equal(y, copies[1])
    assert not post.draws.positions.requires_grad


def test_frozen_parameters_stay():
    net = network()
    net[0].weight.requires_grad_(False)
    post = quick(net, inputs(), real())
    assert "0.weight" not in post.params()


def test_the_same_seed_gives_the_same_draws_with_fewer_chains():
    two, three = (quick(network(), inputs(), real(), chains=c) for c in (2, 3))
    torch.testing.assert_close(two.draws.positions, three.draws.positions[:2], rtol=1e-3, atol=1e-4)


class _Stop:
    def __init__(self, error, after):
        self.error, self.left = error, after

    def __call__(self, event):
        self.left -= 1
        if self.left == 0:
            raise self.error


def test_an_interrupt_keeps_the_draws():
    post = quick(network(), inputs(), real(), callbacks=[_Stop(KeyboardInterrupt(), 50)])
    assert 0 < post.num_draws < 10
    assert post.draws.metadata["interrupted"] == 1
    assert len(post.predict(inputs())["point"]) == N


def test_an_error_carries_the_posterior():
    with pytest.raises(KeyError) as caught:
        quick(network(), inputs(), real(), callbacks=[_Stop(KeyError("mine"), 50)])
    assert caught.value.posterior.num_draws > 0
    assert np.isfinite(caught.value.posterior.log_likelihood()).all()


def test_no_draws_is_said():
    post = quick(network(), inputs(), real(), callbacks=[_Stop(KeyboardInterrupt(), 2)])
    assert post.num_draws == 0
    with pytest.raises(ValueError, match="holds no draws"):
        post.predict(inputs())


NAN = inputs().clone()
NAN[3, 1] = torch.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": NAN}, ValueError, "X must be finite; received 1 NaN"),
        ({"X": NAN.numpy()}, ValueError, "X must be finite"),
        ({"y": torch.full((N, 1), torch.inf)}, ValueError, "y must be finite"),
        ({"y": torch.zeros(N, 2)}, ValueError, r"y must have shape \(20, 1\)"),
        ({"y": torch.zeros(N - 1)}, ValueError, r"y must have shape \(20, 1\)"),
        ({"X": torch.zeros(N, 5)}, ValueError, "can't be applied to X"),
        ({"X": torch.zeros(0, 2)}, ValueError, "at least one data point"),
        ({"X": np.array([["a", "b"]] * N)}, TypeError, "X must hold numbers"),
        ({"X": np.zeros((N, 2), dtype=object)}, TypeError, "X must hold numbers"),
        ({"X": torch.zeros(N, 2, dtype=torch.complex64)}, TypeError, "X must be real"),
        ({"y": None}, TypeError, "y must hold numbers"),
        ({"net": lambda X: X}, TypeError, "torch.nn.Module"),
        ({"net": nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))}, ValueError, "dropout"),
        ({"net": network().half()}, TypeError, "float32 or all float64"),
        ({"net": nn.Flatten(0)}, ValueError, "at least one parameter"),
        ({"likelihood": "normal"}, ValueError, "'gaussian'"),
        ({"prior": -1.0}, ValueError, "greater than 0"),
        ({"prior": {"*.bias": 1.0}}, ValueError, "matches none"),
        ({"kernel": "gibbs"}, ValueError, "'nuts'"),
        ({"init": "mode"}, ValueError, "'map'"),
        ({"init": torch.zeros(3, 4)}, ValueError, r"init must have shape \(chains, D\)"),
        ({"init": torch.zeros(2, 14).long()}, TypeError, "init must be a floating-point"),
        ({"init": torch.full((2, 14), torch.nan)}, ValueError, "finite"),
        ({"chains": 0}, ValueError, "chains must be at least 1"),
        ({"chains": 2.0}, TypeError, "chains must be an integer"),
        ({"map_steps": -1}, ValueError, "map_steps"),
        ({"seed": -1}, ValueError, "seed"),
        ({"tree_depth": 3}, TypeError, "options must be of .*max_tree_depth.*; received tree_depth"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"net": network(), "X": inputs(), "y": real(), **change}
    with pytest.raises(error, match=message):
        quick(**arguments)


def test_names_that_collide_are_refused():
    net = nn.Module()
    net.sigma = nn.Parameter(torch.ones(1))
    net.forward = lambda X: X[:, :1] * net.sigma
    with pytest.raises(ValueError, match="names must differ; 'sigma'"):
        quick(net, inputs(), real())


def test_labels_in_tables_of_floating_point_numbers():
    y = (np.arange(N) % 3).astype(float)
    post = quick(network(3), inputs(), y, likelihood="categorical")
    assert post.y.dtype == torch.int64
    with pytest.raises(TypeError, match="integer labels"):
        quick(network(3), inputs(), y + 0.5, likelihood="categorical")
