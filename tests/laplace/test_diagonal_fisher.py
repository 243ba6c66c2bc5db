"""Fisher matrices against closed forms and plain autograd, in each of the three ways of computing them."""

from __future__ import annotations

import re

import pytest
import torch
from laplace_fakes import assert_close, seeded, squares
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from hnbayes.laplace import diagonal_fisher
from hnbayes.laplace.squares import SquaredGradients

N, D, CLASSES = 40, 3, 4
X = seeded(N, D)
LABELS = torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(1))


def linear(outputs, seed=3, bias=True):
    net = nn.Linear(D, outputs, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(seeded(*p.shape, seed=seed + i))
    return net


def mlp(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, CLASSES)).to(dtype)


@pytest.fixture
def only(monkeypatch):
    """Make two of the three ways fail, so that the third is used."""

    def fail(*_):
        raise RuntimeError("not this way")

    def choose(way):
        if way != "layers":
            monkeypatch.setattr(SquaredGradients, "_by_layer", fail)
        if way == "loop":
            monkeypatch.setattr(SquaredGradients, "_vectorised", fail)

    return choose


@pytest.fixture
def but(monkeypatch):
    """Make all but one of the two fast ways fail; that they aren't used is a warning, which is an error here."""

    def fail(*_):
        raise RuntimeError("not this way")

    def choose(way):
        monkeypatch.setattr(SquaredGradients, {"_by_layer": "_vectorised", "_vectorised": "_by_layer"}[way], fail)

    return choose


WAYS = [
    "layers",
    "vmap",
    pytest.param("loop", marks=pytest.mark.filterwarnings("ignore:the gradients of several samples")),
]


@pytest.mark.parametrize("way", WAYS)
def test_linear_gaussian(only, way):
    """Of y ~ N(w x, v), the Fisher matrix is the sum of x^2 / v."""
    only(way)
    net, v = linear(1, bias=False), 0.3
    y = seeded(N, 1, seed=5)
    exact = diagonal_fisher(net, (X, y), likelihood="gaussian", noise_variance=v)
    assert_close(exact.total, [X.square().sum(0, keepdim=True) / v])
    assert_close(exact.mean, [X.square().mean(0, keepdim=True) / v])
    residual = y - X @ net.weight.T
    empirical = diagonal_fisher(net, (X, y[:, 0]), likelihood="gaussian", noise_variance=v, kind="empirical")
    assert_close(empirical.total, [(residual * X / v).square().sum(0, keepdim=True).detach()])


@pytest.mark.parametrize("way", WAYS)
def test_logistic_regression(only, way):
    """Of two classes: sum of p (1 - p) x^2, for either class's weights; at targets, sum of (y - p)^2 x^2."""
    only(way)
    net, labels = linear(2), LABELS % 2
    p = net(X).softmax(-1)[:, 1:].detach()
    exact = diagonal_fisher(net, (X, labels))
    expected = (p * (1 - p) * X.square()).sum(0).expand(2, D)
    assert_close(exact.total, [expected, (p * (1 - p)).sum(0).expand(2)])
    gap = labels[:, None] - p
    empirical = diagonal_fisher(net, (X, labels), kind="empirical")
    assert_close(empirical.total, [(gap * X).square().sum(0).expand(2, D), gap.square().sum(0).expand(2)])


@pytest.mark.parametrize("way", WAYS)
def test_softmax_regression(only, way):
    """Sum of p_c (1 - p_c) x^2; Monte Carlo within 4 standard errors of it."""
    only(way)
    net = linear(CLASSES)
    p = net(X).softmax(-1).detach()
    variance = p * (1 - p)
    expected = [variance.T @ X.square(), variance.sum(0)]
    assert_close(diagonal_fisher(net, (X, LABELS)).total, expected)

    draws = 400 if way == "layers" else 30
    # (1[y = c] - p_c)^2 x^2 is one draw: its variance over y, summed over samples, divided by the draws.
    fourth = p * (1 - p) ** 4 + (1 - p) * p**4
    spread = fourth - variance**2
    error = [(spread.T @ X**4 / draws).sqrt(), (spread.sum(0) / draws).sqrt()]
    for seed in range(3):
        found = diagonal_fisher(net, (X, LABELS), kind="monte_carlo", draws=draws, seed=seed).total
        z = [(f - e) / s for f, e, s in zip(found, expected, error, strict=True)]
        assert max(float(part.abs().max()) for part in z) < 4
        # Mutant: targets of the data instead of draws.
        wrong = diagonal_fisher(net, (X, LABELS), kind="empirical").total
        assert max(float(((w - e) / s).abs().max()) for w, e, s in zip(wrong, expected, error, strict=True)) > 4


def test_monte_carlo_of_a_gaussian_and_of_any_likelihood():
    net, v, draws = linear(1, bias=False), 0.3, 2000
    y = torch.poisson(torch.ones(N, 1, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    found = diagonal_fisher(
        net, (X, y), likelihood="gaussian", noise_variance=v, kind="monte_carlo", draws=draws, seed=0
    )
    expected = X.square().sum(0) / v
    # (y - f)^2 x^2 / v^2 has the variance 2 x^4 / v^2.
    error = (2 * (X**4).sum(0) / v**2 / draws).sqrt()
    assert float(((found.total[0][0] - expected) / error).abs().max()) < 4

    def poisson(output):
        return torch.distributions.Poisson(output.exp())

    rate = net(X).exp().detach()
    at_data = diagonal_fisher(net, (X, y), likelihood=poisson, kind="empirical")
    assert_close(at_data.total, [((y - rate) * X).square().sum(0, keepdim=True)])
    drawn = diagonal_fisher(net, (X, y), likelihood=poisson, kind="monte_carlo", draws=draws, seed=1)
    # Fourth central moment of a Poisson: r (1 + 3 r); its variance squared: r^2.
    error = ((rate * (1 + 3 * rate) - rate**2) * X**4).sum(0).div(draws).sqrt()
    assert float(((drawn.total[0][0] - (rate * X.square()).sum(0)) / error).abs().max()) < 4
    with pytest.raises(ValueError, match="Use kind='monte_carlo'"):
        diagonal_fisher(net, (X, y), likelihood=poisson)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))

    def forward(self, x):
        return self.body(x)


class Recurrent(nn.Module):
    """An Elman network written out: torch's own has no batching rule everywhere."""

    def __init__(self):
        super().__init__()
        self.inner, self.hidden, self.out = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h, outputs = x.new_zeros(x.shape[1], 4), []
        for step in x:
            h = torch.tanh(self.inner(step) + self.hidden(h))
            outputs.append(self.out(h))
        return torch.stack(outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_convolutional_network_against_a_plain_loop(kind, dtype):
    torch.manual_seed(0)
    net, x = Convolutional().to(dtype), seeded(15, 1, 4, 4, dtype=dtype)
    y = torch.arange(15) % 3
    params = list(net.parameters())
    log_p = [net(row[None]).log_softmax(-1)[0] for row in x]
    if kind == "exact":
        expected = squares(params, [row[c] * row[c].detach().exp().sqrt() for row in log_p for c in range(3)])
    else:
        expected = squares(params, [row[c] for row, c in zip(log_p, y, strict=True)])
    assert_close(
        diagonal_fisher(net, (x, y), kind=kind).total, expected, rtol=1e-5 if dtype == torch.float32 else 1e-10
    )


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_recurrent_network_against_a_plain_loop(kind):
    """Steps of a time series: log-likelihoods add up, and so do their expected Fisher matrices."""
    torch.manual_seed(0)
    net, x = Recurrent().double(), seeded(5, 12, 2)
    y = torch.randint(3, (5, 12), generator=torch.Generator().manual_seed(2))
    params = list(net.parameters())
    log_p = [net(x[:, n : n + 1]).log_softmax(-1)[:, 0] for n in range(12)]
    if kind == "exact":
        terms = [lp[s, c] * lp[s, c].detach().exp().sqrt() for lp in log_p for s in range(5) for c in range(3)]
    else:
        terms = [lp.gather(1, y[:, n : n + 1]).sum() for n, lp in enumerate(log_p)]
    assert_close(diagonal_fisher(net, (x, y), kind=kind, time_series=True).total, squares(params, terms))
    # The exact one is the expectation of the squared gradient of the whole series' log-likelihood: by Monte Carlo.
    if kind == "exact":
        mc = diagonal_fisher(net, (x, y), kind="monte_carlo", draws=300, seed=0, time_series=True).total
        assert_close(mc, squares(params, terms), rtol=0.15)


class OfTorch(nn.Module):
    """A recurrent layer of torch and a linear output, [S, N, F] or with samples first."""

    def __init__(self, cls, **options):
        super().__init__()
        self.inner = cls(2, 3, **options)
        width = options.get("proj_size") or 3
        self.out = nn.Linear(width * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x):
        return self.out(self.inner(x)[0])


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (nn.RNN, {}),
        (nn.RNN, {"nonlinearity": "relu", "bias": False, "num_layers": 2}),
        (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
        (nn.LSTM, {"proj_size": 2, "bias": False}),
        (nn.LSTM, {"proj_size": 2, "bidirectional": True}),
        (nn.GRU, {"dropout": 0.5, "num_layers": 2}),
        (nn.GRU, {"bias": False, "bidirectional": True}),
    ],
)
@pytest.mark.parametrize("way", ["_by_layer", "_vectorised"])
def test_recurrent_networks_of_torch(cls, options, way, but):
    but(way)
    torch.manual_seed(0)
    net, x, y = OfTorch(cls, **options).double(), seeded(4, 6, 2), seeded(4, 6, 2, seed=1)
    net.eval()
    terms = [-0.5 * (net(x[:, n : n + 1]) - y[:, n : n + 1]).square().sum() for n in range(6)]
    expected = squares(list(net.parameters()), terms)
    found = diagonal_fisher(net, (x, y), likelihood="gaussian", kind="empirical", time_series=True)
    assert_close(found.total, expected)


@pytest.mark.parametrize("way", ["_by_layer", "_vectorised"])
def test_recurrent_network_with_samples_first(way, but):
    """A label for each series, the output at its end; and draws of targets."""
    but(way)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(6, CLASSES)

        def forward(self, x):
            _, (h, c) = self.inner(x)
            return self.out(torch.cat([h[-1], c[-1]], dim=-1))

    torch.manual_seed(0)
    net, x = Last().double(), seeded(8, 5, 2)
    log_p = [net(row[None]).log_softmax(-1)[0] for row in x]
    terms = [row[c] * row[c].detach().exp().sqrt() for row in log_p for c in range(CLASSES)]
    expected = squares(list(net.parameters()), terms)
    assert_close(diagonal_fisher(net, (x, torch.zeros(8))).total, expected)
    drawn = diagonal_fisher(net, (x, torch.zeros(8)), kind="monte_carlo", draws=2000, seed=0).total
    assert_close(drawn, expected, rtol=0.15)


def test_memory_bounds_the_pieces(monkeypatch, only):
    """Whatever the budget, the sum is the same; gradients of fewer samples or terms are formed at once."""
    only("vmap")
    net = mlp()
    expected = diagonal_fisher(net, (X, LABELS)).total
    pieces = []
    vectorised = SquaredGradients._vectorised

    def spy(self, params, batch, targets):
        pieces.append((len(batch), self._block()))
        return vectorised(self, params, batch, targets)

    monkeypatch.setattr(SquaredGradients, "_vectorised", spy)
    gradient = 8 * sum(p.numel() for p in net.parameters())
    monkeypatch.setattr("hnbayes.laplace.squares.BUDGET", 20 * gradient)
    assert_close(diagonal_fisher(net, (X, LABELS)).total, expected)
    assert max(piece for piece, _ in pieces) <= 4
    assert pieces[-1][1] == 2


@pytest.mark.parametrize(
    "data",
    [
        [(X[:7], LABELS[:7]), (X[7:], LABELS[7:])],
        DataLoader(TensorDataset(X, LABELS), batch_size=9, shuffle=True),
        TensorDataset(X, LABELS),
        ((X[i : i + 1], LABELS[i : i + 1]) for i in range(N)),
        [(X, F.one_hot(LABELS, CLASSES))],
        [(X.numpy(), LABELS.numpy())],
        [[X, LABELS[:, None].double()]],
    ],
    ids=["list", "loader", "dataset", "generator", "one-hot", "arrays", "float labels"],
)
def test_forms_of_data(data):
    net = mlp()
    found = diagonal_fisher(net, data, kind="empirical")
    assert (found.used, found.samples) == (N, N)
    assert_close(found.total, diagonal_fisher(net, (X, LABELS), kind="empirical").total)


def test_n_max_and_scaling():
    net = mlp()
    part = diagonal_fisher(net, [(X[:7], LABELS[:7]), (X[7:], LABELS[7:])], n_max=10)
    assert (part.used, part.samples) == (10, N)
    first = diagonal_fisher(net, (X[:10], LABELS[:10]))
    assert_close(part.total, first.total)
    assert_close(part.mean, [t / 10 for t in first.total])
    assert_close(part.scaled, [t * N / 10 for t in first.total])


def test_selected_unused_and_frozen_parameters():
    net = mlp()
    everything = diagonal_fisher(net, (X, LABELS)).total
    assert_close(
        diagonal_fisher(net, (X, LABELS), params=[net[2].bias, net[0].weight]).total, [everything[3], everything[0]]
    )
    net[0].requires_grad_(False)
    assert_close(diagonal_fisher(net, (X, LABELS)).total, everything[2:])
    assert_close(diagonal_fisher(net, (X, LABELS), params=list(net.parameters())).total, everything)

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = linear(CLASSES), linear(CLASSES)

        def forward(self, x):
            return self.used(x)

    found = diagonal_fisher(TwoHeads(), (X, LABELS)).total
    assert found[0].all()
    assert not found[2].any()
    assert not found[3].any()


class Tied(nn.Module):
    """One weight used in two layers: its gradient is the sum of both, which is squared."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Scaled(nn.Module):
    """A weight that is not used as it is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x):
        return F.linear(x, self.layer.weight / self.layer.weight.norm(), self.layer.bias)


class AcrossSamples(nn.Module):
    """Outputs of a batch depend on each other."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x):
        return self.layer(x) - x.mean(0)


class Pointwise(nn.Module):
    """A layer applied to several vectors of a sample, [N, 3, 1]."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(1, 2), nn.Linear(2, D)

    def forward(self, x):
        return self.out(torch.tanh(self.layer(x[..., None])).mean(1))


@pytest.mark.parametrize("way", ["_by_layer", "_vectorised"])
@pytest.mark.parametrize("cls", [Tied, Pointwise])
@pytest.mark.parametrize("chosen", [slice(None), slice(1, 2)])
def test_weights_used_several_times(cls, way, chosen, but, monkeypatch):
    but(way)
    monkeypatch.setattr("hnbayes.laplace.squares.BUDGET", 2000)
    torch.manual_seed(0)
    net, labels = cls().double(), LABELS % D
    params = list(net.parameters())[chosen]
    rows = [net(x[None]).log_softmax(-1)[0] for x in X]
    terms = [row[c] * row[c].detach().exp().sqrt() for row in rows for c in range(D)]
    assert_close(diagonal_fisher(net, (X, labels), params=params).total, squares(params, terms))


@pytest.mark.parametrize("cls", [Tied, Scaled, AcrossSamples])
def test_layer_by_layer_is_left_where_it_would_be_wrong(cls):
    torch.manual_seed(0)
    net = cls().double()
    labels = LABELS % D
    terms = [net(x[None]).log_softmax(-1)[0, c] for x, c in zip(X, labels, strict=True)]
    expected = squares(list(net.parameters()), terms)
    assert_close(diagonal_fisher(net, (X, labels), kind="empirical").total, expected)


def test_what_cannot_be_vectorised_is_done_one_by_one():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(2)

        def forward(self, x):
            out = self.layer(x)
            return out if out.sum() > 0 else 2 * out

    net, labels = Branch(), LABELS % 2
    terms = [net(x[None]).log_softmax(-1)[0, c] for x, c in zip(X, labels, strict=True)]
    with pytest.warns(UserWarning, match="one sample at a time, which is slower. Cause: "):
        found = diagonal_fisher(net, (X, labels), kind="empirical")
    assert_close(found.total, squares(list(net.parameters()), terms))


def test_nothing_of_the_caller_changes():
    net = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, CLASSES)).double()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    net[3].weight.grad = torch.ones_like(net[3].weight)
    random = torch.get_rng_state()
    validate = torch.distributions.Distribution._validate_args
    with torch.no_grad():
        found = diagonal_fisher(net, (X, LABELS), kind="monte_carlo", draws=2, seed=1)
    again = diagonal_fisher(net, (X, LABELS), kind="monte_carlo", draws=2, seed=1)
    assert_close(found.total, again.total)
    assert not any(part.requires_grad for part in found.total)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert not net[0].weight.requires_grad
    assert torch.equal(net[3].weight.grad, torch.ones_like(net[3].weight))
    assert net[0].bias.grad is None
    assert torch.equal(random, torch.get_rng_state())
    assert torch.distributions.Distribution._validate_args == validate


NAN = X.clone()
NAN[3, 1] = torch.nan


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one training sample; received none"),
        ((X[:0], LABELS[:0]), {}, ValueError, "at least one training sample; received none"),
        ((NAN, LABELS), {}, ValueError, "inputs must be finite"),
        ((X, LABELS + 1), {"kind": "empirical"}, ValueError, "labels must lie in 0..3"),
        ((X, LABELS + 0.5), {"kind": "empirical"}, ValueError, "whole numbers"),
        ((X, LABELS[:-1]), {}, ValueError, "as many samples"),
        ((X, X), {"kind": "empirical"}, ValueError, "labels must have one number for each sample"),
        ((X, X), {"kind": "empirical", "likelihood": "gaussian"}, ValueError, "would be broadcast"),
        ((X, LABELS), {"kind": "exactly"}, ValueError, "kind must be one of"),
        ((X, LABELS), {"likelihood": "poisson"}, ValueError, "likelihood must be one of"),
        ((X, LABELS), {"n_max": 0}, ValueError, "n_max must be -1"),
        ((X, LABELS), {"noise_variance": 0.0}, ValueError, "noise_variance must be finite"),
        ((X, LABELS), {"params": []}, ValueError, "at least one tensor"),
        ((X, LABELS), {"params": X}, TypeError, "list of tensors"),
        ((X, LABELS), {"params": [LABELS]}, TypeError, "floating-point tensor"),
        ((X, LABELS), {"params": [X]}, ValueError, "must be parameters of Sequential"),
        ((X, LABELS), {"time_series": True}, ValueError, "as many samples|must have shape"),
        ([X], {}, TypeError, "a pair of tensors"),
        (3, {}, TypeError, "data must be a data handler"),
    ],
)
def test_bad_input(data, options, error, message):
    with pytest.raises(error, match=message):
        diagonal_fisher(mlp(), data, **options)


def test_infinite_gradients_and_other_networks_are_refused():
    net = linear(CLASSES)
    with torch.no_grad():
        net.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=re.escape("params[0] must be finite")):
        diagonal_fisher(net, (X, LABELS))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        diagonal_fisher(lambda x: x, (X, LABELS))

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="must return one tensor"):
        diagonal_fisher(Pair(D, 2).double(), (X, LABELS))

    class Root(nn.Linear):
        def forward(self, x):
            return super().forward(0 * x).sub(self.bias).abs().sqrt()

    with pytest.raises(ValueError, match="the squared gradient of params"):
        diagonal_fisher(Root(D, CLASSES).double(), (X, LABELS))


def test_a_first_batch_of_one_sample():
    torch.manual_seed(0)
    net, labels = AcrossSamples().double(), LABELS % D
    found = diagonal_fisher(net, [(X[:1], labels[:1]), (X[1:], labels[1:])], kind="empirical")
    assert_close(found.total, diagonal_fisher(net, (X, labels), kind="empirical").total)
