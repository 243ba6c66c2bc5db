"""The potential of a network's posterior, against formulas written out by hand and modules run plainly."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

from hnbayes import HMC, log_prob_standard_normal_prior, nn_pot_energy, sample_potential

ONE_BY_ONE = "chains are evaluated one after another"
SLOW_VMAP = "There is a performance drop"  # torch's own, where it has no batching rule


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def standard_prior(q):
    return log_prob_standard_normal_prior(q)


def seeded(make, dtype=torch.float64):
    """A module with initial weights of its own, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(dtype)


def mlp(inputs=2, hidden=3, outputs=1):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


# --- the formulas, number by number -----------------------------------------------------------------------------------


def mlp_by_hand(q, x, hidden, outputs):
    """The outputs of an `mlp` for one input, in Python's arithmetic."""
    width = len(x)
    weights = iter(q)
    first = [[next(weights) for _ in range(width)] for _ in range(hidden)]
    first_bias = [next(weights) for _ in range(hidden)]
    second = [[next(weights) for _ in range(hidden)] for _ in range(outputs)]
    second_bias = [next(weights) for _ in range(outputs)]
    assert next(weights, None) is None

    def layer(rows, bias, v):
        return [sum(w * a for w, a in zip(row, v, strict=True)) + b for row, b in zip(rows, bias, strict=True)]

    return layer(second, second_bias, [math.tanh(a) for a in layer(first, first_bias, x)])


def gaussian_by_hand(q, std):
    return sum(-0.5 * (w / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi) for w in q)


def regression_by_hand(q, X, Y, tau, std):
    nll = 0.0
    for x, y in zip(X, Y, strict=True):
        f = mlp_by_hand(q, x, 3, len(y))
        nll += tau / 2 * sum((a - b) ** 2 for a, b in zip(f, y, strict=True))
    return nll - gaussian_by_hand(q, std)


def classification_by_hand(q, X, labels, classes, std):
    nll = 0.0
    for x, label in zip(X, labels, strict=True):
        f = mlp_by_hand(q, x, 3, classes)
        nll -= f[label] - scipy.special.logsumexp(f)
    return nll - gaussian_by_hand(q, std)


def slope(function, q, step=1e-5):
    """Central differences, to about 1e-9."""
    gradient = []
    for i in range(len(q)):
        up, down = list(q), list(q)
        up[i] += step
        down[i] -= step
        gradient.append((function(up) - function(down)) / (2 * step))
    return gradient


def assert_is(U, by_hand, positions):
    expected = [by_hand(row) for row in positions.tolist()]
    values, gradients = U.value_and_grad(positions)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(U.value(positions).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose([U(row).item() for row in positions], expected, rtol=1e-12)
    slopes = [slope(by_hand, row) for row in positions.tolist()]
    np.testing.assert_allclose(gradients.numpy(), slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(("tau", "std"), [(1.0, 1.0), (25.0, 0.3), (0.5, 4)])
def test_regression(tau, std, outputs, compile):
    X, Y = randn(6, 2), randn(6, outputs, seed=1)
    net = seeded(lambda: mlp(outputs=outputs))
    U = nn_pot_energy(net, X, Y, lambda q: log_prob_standard_normal_prior(q, std=std), tau, compile=compile)
    positions = randn(3, U.spec.size, seed=2)
    assert_is(U, lambda q: regression_by_hand(q, X.tolist(), Y.tolist(), tau, std), positions)


@pytest.mark.parametrize(
    ("std", "labels_dtype", "compile"),
    [(1.0, torch.int64, "auto"), (0.3, torch.int64, False), (0.3, torch.int32, False), (2, torch.uint8, False)],
)
def test_classification(std, labels_dtype, compile):
    X, labels = randn(6, 2), torch.tensor([0, 2, 1, 1, 0, 3]).to(labels_dtype)
    net = seeded(lambda: mlp(outputs=4))
    prior = lambda q: log_prob_standard_normal_prior(q, std=std)  # noqa: E731
    U = nn_pot_energy(net, X, labels, prior, nll_type="classification", compile=compile)
    positions = randn(3, U.spec.size, seed=2)
    assert_is(U, lambda q: classification_by_hand(q, X.tolist(), labels.tolist(), 4, std), positions)


def test_the_classification_likelihood_ignores_tau():
    X, labels, q = randn(6, 2), torch.tensor([0, 2, 1, 1, 0, 3]), randn(2, 25, seed=1)
    net = seeded(lambda: mlp(outputs=4))
    one, other = (nn_pot_energy(net, X, labels, standard_prior, tau, "classification") for tau in (1.0, 9.0))
    assert torch.equal(one.value(q), other.value(q))


def test_extreme_logits_do_not_overflow():
    net = seeded(lambda: nn.Linear(1, 2, bias=False))
    U = nn_pot_energy(net, torch.ones(1, 1).double(), torch.tensor([1]), standard_prior, nll_type="classification")
    q = torch.tensor([[900.0, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(U.value(q).item(), 900 + 900**2 / 2 + math.log(2 * math.pi), rtol=1e-12)


def test_outputs_without_a_last_dimension_take_targets_without_one():
    X, y = randn(6, 2), randn(6, seed=1)
    flat = seeded(lambda: nn.Sequential(mlp(), nn.Flatten(0)))
    U = nn_pot_energy(flat, X, y, standard_prior, 2.0)
    by_hand = lambda q: regression_by_hand(q, X.tolist(), y[:, None].tolist(), 2.0, 1.0)  # noqa: E731
    assert_is(U, by_hand, randn(2, 13, seed=2))


def test_any_prior_goes_in():
    def laplace(q):
        return -q.abs().sum() - math.log(2) * len(q)

    X, Y, q = randn(6, 2), randn(6, 1, seed=1), randn(2, 13, seed=2)
    U = nn_pot_energy(seeded(mlp), X, Y, laplace)
    expected = [
        regression_by_hand(row, X.tolist(), Y.tolist(), 1.0, 1.0)
        + gaussian_by_hand(row, 1.0)
        - scipy.stats.laplace.logpdf(row).sum()
        for row in q.tolist()
    ]
    np.testing.assert_allclose(U.value(q).numpy(), expected, rtol=1e-12)


def test_the_result_can_be_differentiated_by_its_user():
    X, Y = randn(6, 2), randn(6, 1, seed=1)
    U = nn_pot_energy(seeded(mlp), X, Y, standard_prior)
    q = randn(13, seed=2).requires_grad_()
    U(q).backward()
    expected = slope(lambda row: regression_by_hand(row, X.tolist(), Y.tolist(), 1.0, 1.0), q.tolist())
    np.testing.assert_allclose(q.grad.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_data_changed_in_place_are_seen():
    X, Y, q = randn(6, 2), randn(6, 1, seed=1), randn(2, 13, seed=2)
    U = nn_pot_energy(seeded(mlp), X, Y, standard_prior)
    U.value_and_grad(q)
    X.mul_(0.5)
    Y.add_(1.0)
    assert_is(U, lambda row: regression_by_hand(row, X.tolist(), Y.tolist(), 1.0, 1.0), q)


# --- what sampling might change --------------------------------------------------------------------------------------


def fingerprint(net):
    """Everything of a module that sampling might change."""
    return (
        {key: value.clone() for key, value in net.state_dict().items()},
        {key: (id(p), p.requires_grad, p.grad) for key, p in net.named_parameters(remove_duplicate=False)},
        {key: (id(b), b.requires_grad) for key, b in net.named_buffers()},
        {key: module.training for key, module in net.named_modules()},
        {key: (len(m._forward_hooks), len(m._forward_pre_hooks)) for key, m in net.named_modules()},
    )


def assert_unchanged(net, before):
    after = fingerprint(net)
    assert after[1:] == before[1:]
    assert after[0].keys() == before[0].keys()
    for key, value in after[0].items():
        assert torch.equal(value, before[0][key]), key


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


# --- bad input --------------------------------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x), x


NAN_INPUTS = randn(6, 2, dtype=torch.float32)
NAN_INPUTS[4, 1] = math.nan
NAN_TARGETS = randn(6, 1, dtype=torch.float32)
NAN_TARGETS[2, 0] = math.inf
REGRESSION = {
    "targets (N,) for outputs (N, 1)": (
        {"targets": torch.zeros(6)},
        ValueError,
        r"targets must have the shape of the network's outputs, \(6, 1\); received \(6,\).*unsqueeze\(-1\)",
    ),
    "targets (N, 1) for outputs (N,)": (
        {"net": nn.Sequential(mlp(), nn.Flatten(0))},
        ValueError,
        r"outputs, \(6,\); received \(6, 1\).*Reshape",
    ),
    "targets (N, 1) for outputs (N, 3)": (
        {"net": mlp(outputs=3)},
        ValueError,
        r"outputs, \(6, 3\); received \(6, 1\).*Reshape",
    ),
    "targets (1, 1)": ({"targets": torch.zeros(1, 1)}, ValueError, "same number of data points; received 6 and 1"),
    "integer targets": (
        {"targets": torch.ones(6, 1, dtype=torch.int64)},
        TypeError,
        r"regression needs floating-point targets; received .*int64.*\.float\(\).*classification",
    ),
    "boolean targets": ({"targets": torch.ones(6, 1, dtype=torch.bool)}, TypeError, "floating-point targets; .*bool"),
    "NaN in inputs": ({"inputs": NAN_INPUTS}, ValueError, r"inputs must be finite; received 1 .*index \(4, 1\)"),
    "infinity in targets": ({"targets": NAN_TARGETS}, ValueError, r"targets must be finite; .*index \(2, 0\)"),
    "no data": (
        {"inputs": torch.zeros(0, 2), "targets": torch.zeros(0, 1)},
        ValueError,
        "inputs must hold at least one data point",
    ),
    "no targets": ({"targets": torch.zeros(0, 1)}, ValueError, "targets must hold at least one data point"),
    "0-dimensional targets": ({"targets": torch.tensor(1.0)}, ValueError, "targets must hold at least one data point"),
    "different N": ({"targets": torch.zeros(5, 1)}, ValueError, "same number of data points; received 6 and 5"),
    "a list of inputs": ({"inputs": [[0.0, 0.0]] * 6}, TypeError, "inputs must be a tensor; .*as_tensor"),
    "NumPy targets": ({"targets": np.zeros((6, 1))}, TypeError, "(?s)targets must be a tensor; .*as_tensor"),
    "tau 0": ({"tau_pred": 0.0}, ValueError, "tau_pred must be finite and greater than 0; received 0.0"),
    "tau < 0": ({"tau_pred": -1.0}, ValueError, "tau_pred must be .* received -1.0"),
    "tau NaN": ({"tau_pred": math.nan}, ValueError, "tau_pred must be .* received nan"),
    "tau text": ({"tau_pred": "1"}, TypeError, "tau_pred must be a positive number; received '1'"),
    "unknown nll_type": (
        {"nll_type": "poisson"},
        ValueError,
        "nll_type must be one of 'regression', 'classification'; received 'poisson'",
    ),
    "no module": ({"net": lambda x: x}, TypeError, r"net must be a torch.nn.Module; received .*function"),
    "a module's class": ({"net": nn.Tanh}, TypeError, "net must be a torch.nn.Module; received .*type"),
    "a prior that is no function": ({"prior_log_prob_func": 1.0}, TypeError, "prior_log_prob_func must be a function"),
    "wrong input width": (
        {"inputs": torch.zeros(6, 3)},
        ValueError,
        r"can't be applied to inputs, .*shape \(6, 3\).*check their shape.*raised: ",
    ),
    "inputs of another dtype": (
        {"inputs": torch.zeros(6, 2, dtype=torch.float64)},
        ValueError,
        "can't be applied to inputs, a torch.float64 tensor.*dtype",
    ),
    "integer inputs": ({"inputs": torch.zeros(6, 2, dtype=torch.int64)}, ValueError, "can't be applied to inputs"),
    "several outputs": ({"net": Pair()}, TypeError, "(?s)network must return one tensor; received .*tuple"),
    "nothing to sample": (
        {"net": mlp().requires_grad_(False)},
        ValueError,
        "at least one parameter with requires_grad=True",
    ),
}


def arguments(**changes):
    good = {
        "net": mlp(),
        "inputs": randn(6, 2, dtype=torch.float32),
        "targets": randn(6, 1, dtype=torch.float32),
        "prior_log_prob_func": standard_prior,
        "nll_type": "regression",
    }
    return {**good, **changes}


@pytest.mark.parametrize("name", REGRESSION)
def test_bad_input(name):
    nn_pot_energy(**arguments())
    changes, error, message = REGRESSION[name]
    with pytest.raises(error, match=message):
        nn_pot_energy(**arguments(**changes))


LABELS = {
    "too large": (torch.tensor([0, 1, 2, 3, 0, 0]), ValueError, r"labels must lie in 0..2.*from 0 to 3"),
    "negative": (torch.tensor([0, 1, 2, -1, 0, 0]), ValueError, r"labels must lie in 0..2.*from -1 to 2"),
    "floating-point": (torch.zeros(6), TypeError, r"integer labels; received .*float32.*\.long\(\)"),
    "boolean": (torch.zeros(6, dtype=torch.bool), TypeError, "integer labels; received .*bool"),
    "one-hot": (torch.eye(3)[[0, 1, 2, 0, 1, 2]].long(), ValueError, r"shape \(6,\); received \(6, 3\).*argmax\(-1\)"),
    "floating-point one-hot": (torch.eye(3)[[0, 1, 2, 0, 1, 2]], TypeError, "integer labels"),
    "shape (N, 1)": (torch.zeros(6, 1, dtype=torch.int64), ValueError, r"shape \(6,\); received \(6, 1\)"),
}


@pytest.mark.parametrize("name", LABELS)
def test_bad_labels(name):
    labels, error, message = LABELS[name]
    good = arguments(net=mlp(outputs=3), targets=torch.tensor([0, 1, 2, 0, 0, 0]), nll_type="classification")
    nn_pot_energy(**good)
    with pytest.raises(error, match=message):
        nn_pot_energy(**{**good, "targets": labels})


def test_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"logits of shape \(N, classes\); received \(6,\)"):
        nn_pot_energy(
            **arguments(
                net=nn.Sequential(mlp(), nn.Flatten(0)),
                targets=torch.zeros(6, dtype=torch.int64),
                nll_type="classification",
            )
        )


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 1)), torch.tensor([0, 1, 2, 3, 0, 0])),
        (nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Linear(2, 1)), torch.zeros(6, 2, 1, 1)),
    ],
    ids=["index out of range", "too many dimensions"],
)
def test_errors_of_other_kinds_name_the_inputs_too(net, inputs):
    with pytest.raises(ValueError, match="can't be applied to inputs"):
        nn_pot_energy(**arguments(net=net, inputs=inputs))


def test_a_prior_that_is_not_summed():
    U = nn_pot_energy(**arguments(prior_log_prob_func=lambda q: -0.5 * q.square()))
    with pytest.raises(ValueError, match=r"must return a scalar.*shape \(13,\)"):
        U.prepare(torch.zeros(2, 13))


def test_positions_of_another_size():
    with pytest.raises(ValueError, match=r"must have D = 13, .* received shape \(2, 12\)"):
        nn_pot_energy(**arguments()).prepare(torch.zeros(2, 12))


def test_positions_of_another_dtype():
    with pytest.raises((TypeError, ValueError), match="float64"):
        nn_pot_energy(**arguments()).prepare(torch.zeros(2, 13, dtype=torch.float64))


def test_options_of_the_potential_are_passed_on():
    U = nn_pot_energy(**arguments(), compile=False, on_error="raise")
    assert (U.compile, U.on_error) == (False, "raise")
    assert U.prepare(torch.zeros(2, 13)) == "vmap"
    with pytest.raises(ValueError, match="compile must be one of"):
        nn_pot_energy(**arguments(), compile="always")


# --- the prior --------------------------------------------------------------------------------------------------------

MEANS = [0.0, -1.5, torch.tensor(0.7), randn(4, seed=5)]
STDS = [1.0, 0.02, 3, torch.tensor(0.7), randn(4, seed=6).exp()]


@pytest.mark.parametrize("std", STDS, ids=lambda v: f"std{tuple(np.shape(v))}")
@pytest.mark.parametrize("mean", MEANS, ids=lambda v: f"mean{tuple(np.shape(v))}")
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_log_prob_standard_normal_prior(shape, mean, std):
    q = randn(*shape)
    expected = scipy.stats.norm.logpdf(q.numpy(), np.asarray(mean), np.asarray(std)).sum(-1)
    received = log_prob_standard_normal_prior(q, mean=mean, std=std)
    assert received.shape == shape[:-1]
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-6 if torch.is_tensor(std) else 1e-12)


def test_log_prob_standard_normal_prior_keeps_the_dtype_and_a_gradient():
    q = randn(4, dtype=torch.float32).requires_grad_()
    value = log_prob_standard_normal_prior(q, 0.5, 2.0)
    assert value.dtype == torch.float32
    value.backward()
    torch.testing.assert_close(q.grad, -(q.detach() - 0.5) / 4)


def test_log_prob_standard_normal_prior_is_differentiable_in_its_parameters():
    mean, std = randn(4, seed=1).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    q = randn(4)
    log_prob_standard_normal_prior(q, mean, std).backward()
    z = (q - mean.detach()) / 0.7
    torch.testing.assert_close(mean.grad, z / 0.7)
    torch.testing.assert_close(std.grad, ((z.square() - 1) / 0.7).sum())


@pytest.mark.parametrize("std", [0, 0.0, -1.0, math.nan, math.inf])
def test_log_prob_standard_normal_prior_refuses_numbers_that_are_no_std(std):
    with pytest.raises(ValueError, match="std must be finite and greater than 0"):
        log_prob_standard_normal_prior(torch.zeros(3), std=std)


@pytest.mark.parametrize("std", ["1", None, [1.0]])
def test_log_prob_standard_normal_prior_refuses_what_is_no_number(std):
    with pytest.raises(TypeError, match="std must be a positive number"):
        log_prob_standard_normal_prior(torch.zeros(3), std=std)


def test_a_tensor_that_is_no_std_gives_no_density():
    """A tensor may be a batch of a transform, whose numbers can't be looked at; it must not pass for a density."""
    assert log_prob_standard_normal_prior(torch.zeros(3), std=torch.tensor(-1.0)).isnan()
    assert not log_prob_standard_normal_prior(torch.zeros(3), std=torch.tensor(0.0)).isfinite()
