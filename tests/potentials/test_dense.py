"""Compiled dense networks give what autograd gives; what they don't fit goes the general way."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from mutants_of_c import use_mutant
from torch import nn

import hnbayes
from hnbayes.likelihoods import Gaussian
from hnbayes.mnets import MLP
from hnbayes.posterior.model import Model
from hnbayes.potentials.native.compiler import library
from hnbayes.priors import FanInNormal, Laplace

pytestmark = pytest.mark.skipif(library(True) is None, reason="no C compiler here")

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def stack(sizes, activation="tanh", bias=True, dtype=torch.float64):
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias, dtype=dtype), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def data(rows, sizes, likelihood, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, sizes[0], generator=generator, dtype=dtype)
    if likelihood == "categorical":
        return X, torch.randint(sizes[-1], (rows,), generator=generator)
    y = torch.randn(rows, sizes[-1], generator=generator, dtype=dtype)
    return X, (y > 0).to(dtype) if likelihood == "bernoulli" else y


def potential(net, X, y, likelihood="gaussian", prior=1.3):
    model = Model(net, likelihood if likelihood != "gaussian" else Gaussian(0.7), prior, X)
    return model.potential(*model.data(X, y))


def positions(U, chains=3, scale=0.7, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(chains, U.spec.size, generator=generator, dtype=dtype)


def by_autograd(U, q):
    """U and gradient by plain autograd, chain by chain."""
    values, gradients = [], []
    for row in q:
        row = row.clone().requires_grad_()
        value = U.function(row)
        (gradient,) = torch.autograd.grad(value, row)
        values.append(value.detach())
        gradients.append(gradient)
    return torch.stack(values), torch.stack(gradients)


def assert_as_autograd(U, q, mode="native", tolerance=None):
    tolerance = tolerance or TOLERANCE[q.dtype]
    assert U.prepare(q) == mode
    for received, expected in zip(U.value_and_grad(q), by_autograd(U, q), strict=True):
        assert received.dtype == q.dtype
        torch.testing.assert_close(received, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical", "bernoulli"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_likelihoods(activation, likelihood, dtype):
    for sizes, bias in (((4, 9, 3), True), ((4, 9, 5, 3), False)):
        X, y = data(37, sizes, likelihood, dtype)
        U = potential(stack(sizes, activation, bias, dtype), X, y, likelihood)
        assert_as_autograd(U, positions(U, dtype=dtype))


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize(
    "sizes", [(1, 1), (3, 1), (1, 1, 1), (2, 1, 2), (5, 8, 1), (17, 16, 15, 2), (3, 65, 7, 1), (70, 33, 4)]
)
def test_odd_sizes(sizes, rows):
    X, y = data(rows, sizes, "gaussian")
    U = potential(stack(sizes), X, y)
    assert_as_autograd(U, positions(U, 2))


def test_the_gradient_is_that_of_finite_differences():
    X, y = data(20, (3, 6, 2), "gaussian")
    U = potential(stack((3, 6, 2), "softplus"), X, y)
    q = positions(U, 1)
    assert U.prepare(q) == "native"
    _, gradient = U.value_and_grad(q)
    h, eye = 1e-5, torch.eye(U.spec.size, dtype=torch.float64)
    values, _ = U.value_and_grad(torch.cat((q + h * eye, q - h * eye)))
    differences = (values[: len(eye)] - values[len(eye) :]) / (2 * h)
    torch.testing.assert_close(gradient[0], differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prior", [1.0, FanInNormal(), Laplace(), lambda q: -q.abs().sum()])
@pytest.mark.parametrize("likelihood", ["gaussian", Gaussian("learned"), Gaussian(torch.distributions.LogNormal(0, 1))])
def test_priors_and_learned_noise(likelihood, prior):
    X, y = data(40, (4, 9, 2), "gaussian")
    U = potential(stack((4, 9, 2)), X, y, likelihood, prior)
    assert_as_autograd(U, positions(U))


@pytest.mark.parametrize(
    "prior",
    [
        hnbayes.log_prob_standard_normal_prior,
        functools.partial(hnbayes.log_prob_standard_normal_prior, mean=0.3, std=0.5),
        functools.partial(hnbayes.log_prob_standard_normal_prior, std=torch.tensor(0.5)),
        lambda q: -0.1 * q.square().square().sum(),
    ],
)
@pytest.mark.parametrize("nll_type", ["regression", "classification"])
def test_nn_pot_energy(prior, nll_type):
    X, y = data(40, (4, 9, 3), "categorical" if nll_type == "classification" else "gaussian")
    U = hnbayes.nn_pot_energy(stack((4, 9, 3)), X, y, prior, tau_pred=2.5, nll_type=nll_type)
    assert_as_autograd(U, positions(U))


def test_networks_that_take_their_weights_from_outside():
    X, y = data(40, (4, 9, 1), "gaussian", torch.float32)
    U = hnbayes.nn_pot_energy(MLP(4, 1, [9], verbose=False), X, y, hnbayes.log_prob_standard_normal_prior)
    assert_as_autograd(U, positions(U, dtype=torch.float32))


class Written(nn.Module):
    """As people write networks; `last` comes first among the parameters."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(9, 1)
        self.first = nn.Linear(4, 9)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))


def test_a_module_with_its_own_forward_and_inputs_that_it_flattens():
    net = Written().double()
    X, y = data(40, (4, 9, 1), "gaussian")
    U = potential(net, X.reshape(40, 2, 2), y)
    assert_as_autograd(U, positions(U))


def test_data_changed_in_place_are_seen():
    X, y = data(40, (4, 9, 1), "gaussian")
    U = hnbayes.nn_pot_energy(stack((4, 9, 1)), X, y, hnbayes.log_prob_standard_normal_prior)
    q = positions(U)
    assert_as_autograd(U, q)
    X.mul_(0.5)
    y.add_(1.0)
    assert_as_autograd(U, q)


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical", "bernoulli"])
def test_what_is_not_finite_stays_so_in_its_own_chain(likelihood, activation):
    X, y = data(40, (4, 9, 3), likelihood, torch.float32)
    U = potential(stack((4, 9, 3), activation, dtype=torch.float32), X, y, likelihood)
    q = positions(U, 5, dtype=torch.float32)
    assert U.prepare(q) == "native"
    values, gradients = U.value_and_grad(q)
    bad = q.clone()
    bad[0, 2], bad[1, -1], bad[2, -1], bad[3] = torch.nan, torch.inf, torch.nan, 1e30
    after, after_gradients = U.value_and_grad(bad)
    assert not torch.isfinite(after[:4]).any()
    assert torch.equal(after[4], values[4])
    assert torch.equal(after_gradients[4], gradients[4])


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "silu", "softplus"])
def test_huge_values_saturate_as_in_torch(activation):
    X, y = data(40, (4, 9, 3), "categorical")
    U = potential(stack((4, 9, 3), activation), X, y, "categorical")
    q = positions(U)
    assert U.prepare(q) == "native"
    q = q * 300
    for received, expected in zip(U.value_and_grad(q), by_autograd(U, q), strict=True):
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(received, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "name"), list(enumerate(list(ACTIVATIONS)[:5], start=1)))
def test_elementary_functions_are_accurate_to_a_few_units_in_the_last_place(name, kind, dtype):
    compiled = library(dtype == torch.float64)
    magnitudes = torch.logspace(-6, 2.2, 8192, dtype=torch.float64)
    x = torch.cat((magnitudes, -magnitudes)).to(dtype)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    compiled.dense_activation(kind, len(x), x.data_ptr(), y.data_ptr(), slope.data_ptr())

    def softplus(v):
        return v if v > 20 else math.log1p(math.exp(v))

    def sigmoid(v):
        return 1 / (1 + math.exp(-v)) if v > 0 else math.exp(v) / (1 + math.exp(v))

    exact = {
        "tanh": math.tanh,
        "relu": lambda v: max(v, 0.0),
        "sigmoid": sigmoid,
        "softplus": softplus,
        "silu": lambda v: v * sigmoid(v),
    }[name]
    expected = torch.tensor([exact(v) for v in x.double().tolist()], dtype=torch.float64)
    # The exponential of what is below -87 (-708 in double) is that of -87, nothing beside the rest.
    floor = 1e-35 if dtype == torch.float32 else 1e-300
    excess = (y.double() - expected).abs() - 6 * torch.finfo(dtype).eps * expected.abs()
    assert float(excess.max()) < floor


@pytest.mark.parametrize("chains", [1, 2, 7])
def test_a_chain_is_the_same_whatever_the_others_and_the_threads(chains):
    X, y = data(100, (5, 20, 2), "gaussian", torch.float32)
    U = potential(stack((5, 20, 2), dtype=torch.float32), X, y)
    q = positions(U, 7, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert U.prepare(q) == "native"
        assert U.prepare(q[:chains]) == "native"
        alone = [U.value_and_grad(row[None].clone()) for row in q]
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for _ in range(20):
                values, gradients = U.value_and_grad(q[:chains].clone())
                for row in range(chains):
                    assert torch.equal(values[row], alone[row][0][0])
                    assert torch.equal(gradients[row], alone[row][1][0])
    finally:
        torch.set_num_threads(threads)


def test_arrays_and_tensors_give_the_same():
    X, y = data(30, (3, 6, 2), "gaussian")
    U = potential(stack((3, 6, 2)), X, y)
    q = positions(U)
    assert U.prepare(q) == "native"
    assert U.evaluates_arrays(q)
    values, gradients = U.value_and_grad_arrays(q.numpy())
    expected_values, expected_gradients = U.value_and_grad(q)
    np.testing.assert_array_equal(values, expected_values.numpy())
    np.testing.assert_array_equal(gradients, expected_gradients.numpy())
    turned = np.asfortranarray(q.numpy())
    np.testing.assert_array_equal(U.value_and_grad_arrays(turned)[1], gradients)


class Doubled(nn.Linear):
    """A Linear whose forward is another's."""

    def forward(self, x):
        return 2 * super().forward(x)


class Skipping(nn.Module):
    """A network with a connection past a layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(x + torch.tanh(self.first(x)))


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 1))


def hooked():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    net[1].register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return net


def frozen():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    net[0].weight.requires_grad_(False)
    return net


OTHERS = {
    "batch normalisation": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)).eval(),
    "layer normalisation": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 1)),
    "shared weights": shared,
    "a hook": hooked,
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 1)),
    "own forward": lambda: nn.Sequential(Doubled(4, 5), nn.Tanh(), nn.Linear(5, 1)),
    "skip": Skipping,
    "frozen": frozen,
    "another activation": lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1)),
    "another softplus": lambda: nn.Sequential(nn.Linear(4, 5), nn.Softplus(beta=2.0), nn.Linear(5, 1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_go_the_general_way(name):
    net = OTHERS[name]().double()
    X, y = data(30, (4, 1), "gaussian")
    U = potential(net, X, y)
    assert_as_autograd(U, positions(U), mode="captured")


def test_dropout_in_evaluation_mode_is_nothing():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 1)).double().eval()
    X, y = data(30, (4, 1), "gaussian")
    U = potential(net, X, y)
    assert_as_autograd(U, positions(U))


@pytest.mark.parametrize("change", ["transposed", "float labels", "int32 labels", "requires grad"])
def test_data_that_c_cannot_read_go_the_general_way(change):
    X, y = data(30, (4, 5, 3), "categorical")
    net = stack((4, 5, 3))
    if change == "transposed":
        X = X.T.contiguous().T
    elif change == "int32 labels":
        y = y.int()
    elif change == "requires grad":
        X = X.requires_grad_()
    else:
        y = torch.randn(3, 30, dtype=torch.float64).T
    nll_type = "regression" if change == "float labels" else "classification"
    U = hnbayes.nn_pot_energy(net, X, y, hnbayes.log_prob_standard_normal_prior, nll_type=nll_type)
    assert_as_autograd(U, positions(U), mode="captured")


def test_large_networks_go_the_general_way(monkeypatch):
    X, y = data(30, (4, 5, 1), "gaussian")
    monkeypatch.setattr("hnbayes.potentials.dense.function.LARGEST", 30)
    U = potential(stack((4, 5, 1)), X, y)
    assert U.spec.size == 31
    assert_as_autograd(U, positions(U), mode="captured")


def test_other_likelihoods_and_no_capturing_go_their_own_way():
    X, y = data(30, (4, 5, 1), "gaussian")
    net = stack((4, 5, 1))
    assert potential(net, X, y, "student_t").parts is None
    U = potential(net, X, y)
    U.compile = False
    assert_as_autograd(U, positions(U), mode="vmap")


@pytest.mark.parametrize(
    "mutant",
    [
        ("*slope = all(1) - y * y;", "*slope = all(1) - y * y * all((real)1.001);"),
        ("loss += all((real)0.5) * derivative", "loss += all((real)0.5001) * derivative"),
        ("gradient[i] = j->inverse[i] * z;", "gradient[i] = z;"),
        ("s->bias[unit + i] += total", "s->bias[unit + i] += (real)1.001 * total"),
    ],
)
def test_a_wrong_library_is_not_used(mutant, tmp_path, monkeypatch):
    use_mutant(mutant, tmp_path, monkeypatch)
    for dtype in (torch.float32, torch.float64):
        X, y = data(30, (4, 5, 1), "gaussian", dtype)
        U = potential(stack((4, 5, 1), dtype=dtype), X, y)
        assert library(dtype == torch.float64) is not None
        assert_as_autograd(U, positions(U, dtype=dtype), mode="captured")
