"""The whitened output layer: a change of variables, so its density, its inverse and its draws have exact answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import hnbayes
from hnbayes.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from hnbayes.posterior import Model
from hnbayes.posterior.output_layer import WhitenedOutput
from hnbayes.priors import FanInNormal, HierarchicalNormal, Laplace, Normal

N = 9
pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")


def problem(outputs=1, bias=True, likelihood=None, prior=None, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs, bias=bias)).to(dtype)
    X = torch.randn(N, 2, dtype=dtype)
    y = torch.randn(N, outputs, dtype=dtype)
    model = Model(net, likelihood or Gaussian("learned"), prior or {"2.bias": 0.7, "*": FanInNormal(1.5)}, X)
    return model, X, y


def position(model, seed=1):
    return 0.5 * torch.randn(model.spec.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("noise", ["learned", 0.3])
def test_density_is_that_of_the_weights_times_the_jacobian(outputs, bias, noise):
    model, X, y = problem(outputs, bias, Gaussian(noise), {"2.weight": Normal(0.0, 0.6), "*": 1.2})
    white, U = WhitenedOutput(model, X, y), model.potential(X, y)
    for seed in range(3):
        z = position(model, seed)
        jacobian = torch.autograd.functional.jacobian(white._to_weights, z)
        expected = U(white.to_weights(z[None])[0]) - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(white.potential()(z), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(white._log_det(z), torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(white.from_weights(white.to_weights(z[None])), z[None], rtol=1e-8, atol=1e-8)


def test_everything_but_the_output_layer_stays():
    model, X, y = problem()
    z = position(model)
    before, after = model.spec.unflatten(z), model.spec.unflatten(WhitenedOutput(model, X, y).to_weights(z[None])[0])
    for name in model.spec.names:
        assert torch.equal(before[name], after[name]) == (name not in ("2.weight", "2.bias"))


def test_float32_is_as_good_as_its_digits():
    model, X, y = problem(dtype=torch.float32)
    white = WhitenedOutput(model, X, y)
    double, *_ = problem()
    reference = WhitenedOutput(double, X.double(), y.double())
    z = position(model)
    assert white.potential()(z.float()).dtype == torch.float32
    torch.testing.assert_close(white.potential()(z.float()).double(), reference.potential()(z), rtol=1e-5, atol=1e-4)


def linear_problem():
    """A network of fixed features, so that its posterior is known: N(A^-1 X^T y / s^2, A^-1)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    y = X @ [1.0, -0.5, 0.2] + 0.1 * rng.normal(size=20)
    A = X.T @ X / 0.1**2 + np.eye(3) / 2.0**2
    return X, y, np.linalg.solve(A, X.T @ y / 0.1**2), np.linalg.inv(A)


@pytest.mark.parametrize("init", ["map", "prior", "module"])
def test_draws_are_those_of_the_closed_form(init):
    X, y, mean, covariance = linear_problem()
    net = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    options = {"likelihood": Gaussian(0.1), "prior": 2.0, "warmup": 100, "draws": 400, "map_steps": 50, "seed": 0}
    post = hnbayes.sample(net, X, y, init=init, output_layer="whitened", progress=False, **options)
    w = post.weights()["0.weight"].reshape(4, 400, 3).numpy()
    ess = hnbayes.diagnostics.ess(w)
    z = (w.mean((0, 1)) - mean) / np.sqrt(np.diag(covariance) / ess)
    assert (abs(z) < 4).all()
    spread = w.reshape(-1, 3)
    np.testing.assert_allclose(np.cov(spread.T), covariance, atol=0.25 * covariance.max())
    # One step size fits all directions: none of a trajectory's steps are spent on narrow ones.
    assert post.draws.stats["n_steps"].double().mean() < 8
    narrow = hnbayes.sample(net, X, y, init=init, metric="unit", progress=False, **options)
    assert narrow.draws.step_size.max() < 0.2 < post.draws.step_size.min()


@pytest.mark.slow
def test_draws_agree_with_those_of_the_weights():
    model, X, y = problem(likelihood=Gaussian("learned"), prior=1.0)
    y = X[:, :1].sin() + 0.1 * y
    options = {"prior": 1.0, "warmup": 300, "draws": 1000, "max_tree_depth": 7, "seed": 0, "progress": False}
    one = hnbayes.sample(model.function.net, X, y, output_layer="whitened", **options)
    two = hnbayes.sample(model.function.net, X, y, **options)
    for quantity in (lambda p: p.outputs(X)[..., 0].numpy(), lambda p: p.params()["sigma"].log().numpy()[..., None]):
        a, b = quantity(one), quantity(two)
        errors = [np.sqrt(x.var((0, 1)) / hnbayes.diagnostics.ess(x)) for x in (a, b)]
        assert (abs(a.mean((0, 1)) - b.mean((0, 1))) < 4 * np.hypot(*errors)).all()


def test_the_log_density_is_reported_on_the_axes_of_the_weights():
    model, X, y = problem(prior=1.0)
    options = {"chains": 2, "warmup": 20, "draws": 5, "max_tree_depth": 3, "map_steps": 50, "seed": 0}
    post = hnbayes.sample(
        model.function.net, X, y, prior=1.0, output_layer="whitened", save_warmup=True, progress=False, **options
    )
    U, draws = post.model.potential(post.X, post.y), post.draws
    assert draws.metadata["output_layer"] == "whitened"
    for positions, stats in ((draws.positions, draws.stats), (draws.warmup_positions, draws.warmup_stats)):
        expected = [[-U(q).item() for q in chain] for chain in positions]
        np.testing.assert_allclose(stats["lp"].numpy(), expected, rtol=1e-9)


def test_a_wrong_jacobian_would_be_seen():
    model, X, y = problem()
    white, U, z = WhitenedOutput(model, X, y), model.potential(X, y), position(problem()[0])
    without = U(white.to_weights(z[None])[0])
    assert not math.isclose(white.potential()(z), without, rel_tol=1e-3)


def test_positions_that_are_given_are_weights():
    model, X, y = problem()
    start = torch.stack([position(model, seed) for seed in range(2)])
    post = hnbayes.sample(
        model.function.net, X, y, prior=model.prior, init=start, chains=2, warmup=0, draws=1, step_size=1e-7,
        adapt_step_size=False, max_tree_depth=1, output_layer="whitened", seed=0, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(post.draws.positions[:, 0], start, rtol=1e-4, atol=1e-4)


def frozen():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    net[2].weight.requires_grad_(False)
    return net


def tied():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    net[2].weight = net[0].weight
    return net


PLAIN = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


@pytest.mark.parametrize(
    ("net", "options", "error", "message"),
    [
        (nn.Linear(2, 1), {}, TypeError, "nn.Sequential that ends in an nn.Linear; received Linear"),
        (nn.Sequential(nn.Linear(2, 1), nn.Tanh()), {}, TypeError, "ends in an nn.Linear"),
        (PLAIN, {"prior": Laplace()}, ValueError, "normal prior of mean 0 and fixed scale for '2.weight'"),
        (PLAIN, {"prior": Normal(1.0, 1.0)}, ValueError, "normal prior of mean 0"),
        (PLAIN, {"prior": HierarchicalNormal()}, ValueError, "normal prior of mean 0"),
        (PLAIN, {"prior": lambda w: -w.square().sum()}, ValueError, "normal prior of mean 0"),
        (frozen(), {}, ValueError, "'2.weight' is frozen"),
        (tied(), {}, ValueError, "must not share its weights"),
        (PLAIN, {"output_layer": "white"}, ValueError, "output_layer"),
        (nn.Sequential(nn.Linear(2, 2)), {"likelihood": Categorical()}, ValueError, "Gaussian noise of one scale"),
        (
            nn.Sequential(nn.Linear(2, 2)),
            {"likelihood": HeteroscedasticGaussian()},
            ValueError,
            "Gaussian noise of one scale",
        ),
    ],
)
def test_models_of_another_kind_are_refused(net, options, error, message):
    X = torch.randn(N, 2)
    likelihood = options.get("likelihood")
    y = torch.randn(N, 2 if likelihood is None and list(net.parameters())[-1].shape == (2,) else 1)
    y = torch.zeros(N, dtype=torch.long) if isinstance(likelihood, Categorical) else y
    with pytest.raises(error, match=message):
        hnbayes.sample(net, X, y, **{"output_layer": "whitened", "warmup": 1, "draws": 1, **options}, progress=False)
