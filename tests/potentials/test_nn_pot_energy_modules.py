"""nn_pot_energy: modules of every kind, networks that take weights from outside, and what must not change."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from nn_by_hand import (
    ONE_BY_ONE,
    SLOW_VMAP,
    assert_unchanged,
    fingerprint,
    gaussian_by_hand,
    mlp,
    randn,
    regression_by_hand,
    seeded,
    slope,
    standard_prior,
)
from torch import nn

from hnbayes import HMC, nn_pot_energy, sample_potential

# --- modules of every kind --------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(2, 3, batch_first=True, **options)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Residual(nn.Module):
    """Parameters of its own, a submodule used twice, a buffer, a frozen gain."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.gain = nn.Parameter(torch.tensor([1.5, 0.5]), requires_grad=False)
        self.register_buffer("shift", torch.tensor([0.1, -0.2]))

    def forward(self, x):
        for _ in range(2):
            x = x + self.scale * torch.tanh(self.layer(x + self.shift)) * self.gain
        return x


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(2, 2)
        self.decode = nn.Linear(2, 2)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


def frozen():
    net = mlp()
    net[0].requires_grad_(False)
    return net


def conv():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))


def batch_norm():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        net[1].running_mean.copy_(torch.tensor([0.3, -0.5]))
        net[1].running_var.copy_(torch.tensor([2.0, 0.5]))
        net[1].num_batches_tracked.fill_(7)
    return net


def dropout():
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(nn.Linear(2, 4), layer, nn.Flatten(), nn.Linear(12, 1))


def embedding():
    return nn.Sequential(nn.Embedding(5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3))


IMAGE, ROWS, SEQUENCES = (5, 1, 4, 4), (5, 2), (5, 3, 2)
# name: module, shape of inputs, shape of outputs, parameters to sample
MODULES = {
    "MLP": (mlp, ROWS, (5, 1), 13),
    "residual with buffer and frozen gain": (Residual, ROWS, (5, 2), 7),
    "tied": (Tied, ROWS, (5, 2), 8),
    "frozen layer": (frozen, ROWS, (5, 1), 4),
    "layer norm": (lambda: nn.Sequential(mlp(), nn.LayerNorm(1)), ROWS, (5, 1), 15),
    "dropout": (dropout, ROWS, (5, 1), 13),
    "conv": (conv, IMAGE, (5, 3), 47),
    "batch norm": (batch_norm, IMAGE, (5, 3), 51),
    "embedding": (embedding, "tokens", (5, 3), 25),
    "RNN": (lambda: Recurrent(nn.RNN), SEQUENCES, (5, 1), 25),
    "GRU": (lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.5), SEQUENCES, (5, 1), 139),
    "LSTM": (lambda: Recurrent(nn.LSTM), SEQUENCES, (5, 1), 88),
    "transformer": (transformer, SEQUENCES, (5, 1), 197),
    "outputs of two dimensions": (lambda: nn.Linear(2, 2), SEQUENCES, (5, 3, 2), 6),
}


def case(name, dtype=torch.float64):
    """Net in evaluation mode, inputs, targets, dimension."""
    make, inputs_shape, outputs_shape, dimension = MODULES[name]
    if inputs_shape == "tokens":
        inputs = torch.tensor([[0, 1], [4, 2], [3, 3], [1, 0], [2, 4]])
    else:
        inputs = randn(*inputs_shape, dtype=dtype)
    return seeded(make, dtype).eval(), inputs, randn(*outputs_shape, seed=1, dtype=dtype), dimension


def run_plainly(net, inputs, targets, q, tau):
    """U and its gradient at one position: the weights written into a copy of the module, which is then trained on."""
    net = copy.deepcopy(net)
    trainable = [p for p in net.parameters() if p.requires_grad]
    nn.utils.vector_to_parameters(q, trainable)
    value = tau / 2 * (net(inputs) - targets).pow(2).sum()
    value.backward()
    gradient = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trainable])
    return value.item() - gaussian_by_hand(q.tolist(), 1.0), gradient + q


@pytest.mark.parametrize("name", MODULES)
def test_any_module(name):
    net, inputs, targets, dimension = case(name)
    before, data, outputs = fingerprint(net), (inputs.clone(), targets.clone()), net(inputs)
    # To capture a graph takes long; a few kinds stand for all.
    compile = "auto" if name in ("MLP", "conv", "batch norm", "GRU") else False
    U = nn_pot_energy(net, inputs, targets, standard_prior, 3.0, compile=compile)
    assert U.spec.size == dimension
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        U.prepare(randn(3, dimension, seed=2))
        for seed in (3, 4):
            positions = 0.5 * randn(3, dimension, seed=seed)
            values, gradients = U.value_and_grad(positions)
            expected = [run_plainly(net, inputs, targets, q, 3.0) for q in positions]
            np.testing.assert_allclose(values.numpy(), [value for value, _ in expected], rtol=1e-10)
            torch.testing.assert_close(gradients, torch.stack([g for _, g in expected]), rtol=1e-8, atol=1e-8)
            assert (gradients.abs() > 1e-12).any(0).all(), "U depends on every parameter"
            np.testing.assert_allclose(U.value(positions).numpy(), values.numpy(), rtol=1e-10)
    fallbacks = [entry for entry in caught if ONE_BY_ONE in str(entry.message)]
    assert len(fallbacks) <= 1
    assert all(entry in fallbacks or SLOW_VMAP in str(entry.message) for entry in caught)

    assert_unchanged(net, before)
    assert torch.equal(inputs, data[0])
    assert torch.equal(targets, data[1])
    # Modules that keep references to their weights (recurrent ones) still work, and can still be copied.
    torch.testing.assert_close(copy.deepcopy(net)(inputs), outputs)
    torch.testing.assert_close(net(inputs), outputs)
    net(inputs).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["conv", "frozen layer"])
def test_any_module_in_float32(name):
    net, inputs, targets, dimension = case(name, torch.float32)
    U = nn_pot_energy(net, inputs, targets, standard_prior, 3.0)
    positions = 0.5 * randn(2, dimension, seed=2, dtype=torch.float32)
    values, gradients = U.value_and_grad(positions)
    assert values.dtype == gradients.dtype == torch.float32
    expected = [run_plainly(net, inputs, targets, q, 3.0) for q in positions]
    np.testing.assert_allclose(values.numpy(), [value for value, _ in expected], rtol=1e-5)
    torch.testing.assert_close(gradients, torch.stack([g for _, g in expected]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["RNN", "transformer"])
def test_common_modules_are_vectorised(name):
    """Torch may tell that its vmap is slow here, but the chains go in one batch."""
    net, inputs, targets, dimension = case(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=SLOW_VMAP)
        assert nn_pot_energy(net, inputs, targets, standard_prior).prepare(randn(2, dimension)) == "captured"


@pytest.mark.parametrize("name", ["LSTM", "transformer"])
def test_a_user_sees_one_warning_at_most(name):
    net, inputs, targets, dimension = case(name, torch.float32)
    U = nn_pot_energy(net, inputs, targets, standard_prior)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        U.prepare(randn(2, dimension, dtype=torch.float32))
        U.value_and_grad(randn(2, dimension, dtype=torch.float32))
    assert len(caught) <= 1


@pytest.mark.parametrize("name", MODULES)
def test_names_and_shapes_are_those_of_the_trainable_parameters(name):
    net, inputs, targets, _ = case(name)
    spec = nn_pot_energy(net, inputs, targets, standard_prior).spec
    assert dict(zip(spec.names, spec.shapes, strict=True)) == {
        key: tuple(p.shape) for key, p in net.named_parameters() if p.requires_grad
    }


# --- networks that take their weights from outside --------------------------------------------------------------------


class MainNet(nn.Module):
    """A network of the kind of hypnettorch's, with or without weights of its own."""

    def __init__(self, internal, names="weights"):
        super().__init__()
        self.param_shapes = [[3, 2], [3], [1, 3], [1]]
        self.weights = None
        if internal:
            self.weights = nn.ParameterList([nn.Parameter(0.3 * torch.randn(shape)) for shape in self.param_shapes])

    def forward(self, x, weights=None):
        weights = self.weights if weights is None else weights
        assert isinstance(weights, (list, nn.ParameterList))
        assert [list(w.shape) for w in weights] == self.param_shapes
        return torch.tanh(x @ weights[0].T + weights[1]) @ weights[2].T + weights[3]


@pytest.mark.parametrize(
    ("internal", "dtype"),
    [
        (True, torch.float64),
        (True, torch.float32),
        (False, torch.float32),
        (False, torch.float64),
    ],
)
def test_weights_from_outside(internal, dtype):
    net = seeded(lambda: MainNet(internal), dtype)
    X, Y = randn(6, 2, dtype=dtype), randn(6, 1, seed=1, dtype=dtype)
    U = nn_pot_energy(net, X, Y, standard_prior, 2.0)
    assert U.spec.names == ("weights.0", "weights.1", "weights.2", "weights.3")
    assert U.spec.shapes == ((3, 2), (3,), (1, 3), (1,))
    q = randn(3, 13, seed=2, dtype=dtype)
    assert U.prepare(q) == "captured"
    expected = [regression_by_hand(row, X.tolist(), Y.tolist(), 2.0, 1.0) for row in q.tolist()]
    values, gradients = U.value_and_grad(q)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(values.numpy(), expected, rtol=tolerance)
    slopes = [slope(lambda at: regression_by_hand(at, X.tolist(), Y.tolist(), 2.0, 1.0), row) for row in q.tolist()]
    np.testing.assert_allclose(gradients.numpy(), slopes, rtol=1e-6 + 100 * tolerance, atol=1e-6 + 100 * tolerance)


def test_weights_that_a_hypernetwork_would_make_are_numbered():
    """Own parameters that are not those of `param_shapes` have no say in the names."""

    class Hybrid(MainNet):
        def __init__(self):
            super().__init__(internal=False)
            self.extra = nn.Parameter(torch.zeros(5))

    U = nn_pot_energy(seeded(Hybrid, torch.float32), torch.zeros(4, 2), torch.zeros(4, 1), standard_prior)
    assert U.spec.names == ("weights.0", "weights.1", "weights.2", "weights.3")
    assert U.spec.size == 13


# --- what must not change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual with buffer and frozen gain", "batch norm"])
def test_sampling_leaves_the_network_as_it_is(name):
    net, inputs, targets, dimension = case(name)
    before = fingerprint(net)
    U = nn_pot_energy(net, inputs, targets, standard_prior)
    start = 0.1 * randn(2, dimension)
    sample_potential(U, start, kernel="hmc", num_steps=2, warmup=3, draws=3, seed=0, progress=False)
    sample_potential(U, start, kernel="metropolis", warmup=3, draws=3, seed=0, progress=False)
    HMC(start[0], U, stepsize=0.01, seed=0).simulate_chain(3)
    assert_unchanged(net, before)


def test_the_training_flag_stays_up_too():
    net = seeded(mlp).train()
    U = nn_pot_energy(net, randn(5, 2), randn(5, 1), standard_prior)
    HMC(torch.zeros(13, dtype=torch.float64), U, seed=0).simulate_chain(2)
    assert all(module.training for module in net.modules())


def test_inputs_and_targets_that_require_gradients_get_none():
    X, Y = randn(5, 2).requires_grad_(), randn(5, 1, seed=1).requires_grad_()
    U = nn_pot_energy(seeded(mlp), X, Y, standard_prior)
    values, gradients = U.value_and_grad(randn(2, 13))
    assert values.grad_fn is gradients.grad_fn is None
    assert X.grad is Y.grad is None
    assert X.requires_grad
    assert Y.requires_grad


# --- training mode ----------------------------------------------------------------------------------------------------

RANDOM_IN_TRAINING = {
    "Dropout": (dropout, ROWS, r"dropout; received 1 \(Dropout\) with rate 0.5 in training mode. Call net.eval\(\)"),
    "Dropout2d": (lambda: nn.Sequential(nn.Dropout2d(0.1), conv()), IMAGE, r"received 0 \(Dropout2d\) with rate 0.1"),
    "AlphaDropout": (lambda: nn.Sequential(nn.AlphaDropout(0.1), mlp()), ROWS, r"received 0 \(AlphaDropout\)"),
    "GRU": (lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.2), SEQUENCES, r"received cells \(GRU\) with rate 0.2"),
    "LSTM": (lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.2), SEQUENCES, r"received cells \(LSTM\)"),
    "transformer": (transformer, SEQUENCES, r"with rate 0.1 in training mode"),
    "BatchNorm2d": (batch_norm, IMAGE, r"batch normalisation.* received 1 \(BatchNorm2d\) in training mode. Call net"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(2), ROWS, r"received BatchNorm1d \(BatchNorm1d\)"),
    "InstanceNorm": (
        lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), conv()),
        IMAGE,
        "batch normalisation",
    ),
}


@pytest.mark.parametrize("name", RANDOM_IN_TRAINING)
def test_training_mode_is_refused_where_it_matters(name):
    make, shape, message = RANDOM_IN_TRAINING[name]
    net = seeded(make)
    X = randn(*shape)
    targets = torch.zeros_like(net.eval()(X)).detach()
    nn_pot_energy(net, X, targets, standard_prior)
    net.train()
    before = fingerprint(net)
    with pytest.raises(ValueError, match=message):
        nn_pot_energy(net, X, targets, standard_prior)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    "make",
    [
        mlp,
        lambda: nn.Sequential(nn.Dropout(0.0), mlp()),
        lambda: nn.Sequential(nn.LayerNorm(2), mlp()),
        lambda: nn.Sequential(nn.Dropout(0.5).eval(), mlp()),
        lambda: nn.Sequential(nn.BatchNorm1d(2).eval(), mlp()),
        lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), mlp()),
    ],
    ids=["MLP", "rate 0", "layer norm", "dropout in eval", "batch norm in eval", "batch norm without statistics"],
)
def test_training_mode_is_fine_elsewhere(make):
    net = seeded(make)
    assert net.training
    X, Y = randn(5, 2), randn(5, 1, seed=1)
    U = nn_pot_energy(net, X, Y, standard_prior, 3.0, compile=False)
    q = 0.5 * randn(1, U.spec.size, seed=2)
    value, gradient = run_plainly(net, X, Y, q[0], 3.0)
    values, gradients = U.value_and_grad(q)
    np.testing.assert_allclose(values.item(), value, rtol=1e-10)
    torch.testing.assert_close(gradients[0], gradient)


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, self.training)


def test_dropout_by_function_is_refused_too():
    with pytest.raises(ValueError, match="training"):
        nn_pot_energy(seeded(FunctionalDropout), randn(50, 2), randn(50, 1), standard_prior)


def test_other_buffers_stay_as_they_are():
    net = seeded(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 1)))
    X, Y = randn(5, 2), randn(5, 1)
    before = fingerprint(net)
    try:
        U = nn_pot_energy(net, X, Y, standard_prior)
        U.value_and_grad(randn(1, 3))
    except ValueError as error:
        assert "training" in str(error)  # noqa: PT017 - refusing is as good as coping
    assert_unchanged(net, before)
