"""The documented `compute_fisher`: every parameter, documented networks and data handlers, and what it keeps."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from laplace_fakes import Handler, HyperNet, MainNet, SequenceHandler, assert_close, seeded, squares
from torch import nn

from hnbayes.utils.ewc_regularizer import compute_fisher, context_mod_forward, ewc_regularizer

N = 30
X = seeded(N, 3)
LABELS = (seeded(N, seed=1) > 0).long()
VALUES = seeded(N, 2, seed=2)


def handler(kind="labels", **options):
    if kind == "values":
        return Handler(X.numpy(), VALUES.numpy(), classification=False, **options)
    targets = LABELS[:, None].numpy() if kind == "labels" else np.eye(2)[LABELS.numpy()]
    return Handler(X.numpy(), targets, one_hot=kind == "one-hot", **options)


def kept(net, task="_task_0"):
    """The Fisher estimate that a network keeps, in order."""
    names = sorted(n for n, _ in net.named_buffers() if re.fullmatch(rf"ewc_fisher_estimate{task}_weights_\d+", n))
    return [dict(net.named_buffers())[name] for name in names]


def at_labels(net, forward=None, labels=LABELS, params=None):
    """Mean squared gradients of log p(label), by a plain loop."""
    forward = forward or net
    log_p = [forward(x[None]).log_softmax(-1)[0] for x in X]
    params = list(net.parameters()) if params is None else params
    return [s / N for s in squares(params, [row[c] for row, c in zip(log_p, labels, strict=True)])]


@pytest.fixture
def net():
    return MainNet().eval()


@pytest.mark.parametrize("kind", ["labels", "one-hot"])
def test_classification_with_a_handler(net, kind):
    net.train()
    data = handler(kind)
    compute_fisher(0, data, list(net.weights), "cpu", net)
    assert net.training
    assert net.dropout.training
    assert data.resets == 1
    assert sum(data.sizes) == N
    net.eval()
    assert_close(kept(net), at_labels(net))
    assert_close([net.ewc_prev_task_0_weights_1], [net.weights[1].detach()])
    assert all(p.grad is None for p in net.parameters())


def test_a_module_and_a_loader(net):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    module.load_state_dict(dict(zip(module.state_dict(), net.weights, strict=True)))
    batches = [(X[:11], LABELS[:11]), (X[11:], LABELS[11:])]
    compute_fisher(0, batches, list(module.parameters()), None, module)
    assert_close(kept(module), at_labels(net))


def test_params_that_are_not_the_modules_own():
    """Such as the outputs of a hypernetwork: gradients go no further, and accumulate nowhere."""
    net = MainNet(own=False).eval()
    raw = [seeded(*shape, seed=i).requires_grad_() for i, shape in enumerate(net.param_shapes)]
    params = [2 * p for p in raw]
    for _ in range(2):
        compute_fisher(0, handler(), params, "cpu", net)
        assert_close(kept(net), at_labels(net, lambda x: net(x, weights=params), params=params))
    frozen = [p.detach() for p in params]
    compute_fisher(1, handler(), frozen, "cpu", net)
    assert_close(kept(net, "_task_1"), kept(net))
    assert all(p.grad is None for p in raw)


def test_with_a_hypernetwork():
    net = MainNet(own=False).eval()
    hnet = HyperNet(net.param_shapes)
    theta = list(hnet.theta)
    compute_fisher(2, handler(), theta, "cpu", net, hnet)
    assert not list(net.buffers())
    found = kept(hnet, "_task_2")
    assert_close(found, at_labels(net, lambda x: net(x, weights=hnet.forward(cond_id=2)), params=theta))
    compute_fisher(1, handler(), theta, "cpu", net, hnet)
    compute_fisher(0, handler(), theta, "cpu", net, hnet)
    with torch.no_grad():
        theta[0] += 0.1
    expected = sum(0.5 * (f * 0.1**2).sum() for f in (found[0], kept(hnet)[0], kept(hnet, "_task_1")[0]))
    assert ewc_regularizer(3, theta, net, hnet).item() == pytest.approx(expected.item(), rel=1e-9)


def test_expectation_over_predictions(net):
    compute_fisher(0, handler(), list(net.weights), "cpu", net, empirical_fisher=False)
    log_p = [net(x[None]).log_softmax(-1)[0] for x in X]
    terms = [row[c] * row[c].detach().exp().sqrt() for row in log_p for c in range(2)]
    expected = [s / N for s in squares(list(net.weights), terms)]
    assert_close(kept(net), expected)
    compute_fisher(1, handler(), list(net.weights), "cpu", net, empirical_fisher=False, draws=1000, seed=0)
    assert_close(kept(net, "_task_1"), expected, rtol=0.1)

    values = handler("values")
    compute_fisher(
        0, values, list(net.weights), "cpu", net, empirical_fisher=False, regression=True, regression_lvar=0.2
    )
    terms = [net(x[None])[0, k] for x in X for k in range(2)]
    assert_close(kept(net), [s / N / 0.2 for s in squares(list(net.weights), terms)])


def test_regression(net):
    compute_fisher(0, handler("values"), list(net.weights), "cpu", net, regression=True, regression_lvar=0.2)
    terms = [-(net(x[None])[0] - y).square().sum() / (2 * 0.2) for x, y in zip(X, VALUES, strict=True)]
    assert_close(kept(net), [s / N for s in squares(list(net.weights), terms)])


@pytest.mark.parametrize("regression", [True, False])
def test_time_series(net, regression):
    series = seeded(N, 5, 3)
    labels = (seeded(N, 5, 1, seed=3) > 0).long()
    targets = seeded(N, 5, 2, seed=4).numpy() if regression else np.eye(2)[labels[..., 0].numpy()]
    data = SequenceHandler(series.numpy(), targets, classification=not regression, one_hot=not regression)
    options = {"regression": regression, "time_series": True}
    compute_fisher(0, data, list(net.weights), "cpu", net, **options)
    if regression:
        goals = torch.tensor(targets)
        terms = [-0.5 * (net(series[n]) - goals[n]).square().sum() for n in range(N)]
    else:
        terms = [net(series[n]).log_softmax(-1).gather(1, labels[n]).sum() for n in range(N)]
    assert_close(kept(net), [s / N for s in squares(list(net.weights), terms)])
    # The same with labels instead of one-hot rows, and the mutant that takes the mean over steps.
    if not regression:
        data = SequenceHandler(series.numpy(), labels.numpy(), one_hot=False)
        compute_fisher(1, data, list(net.weights), "cpu", net, **options)
        assert_close(kept(net, "_task_1"), kept(net))
        mean = squares(list(net.weights), [term / 5 for term in terms])
        assert not torch.allclose(kept(net)[0], mean[0] / N, rtol=0.1)


def test_allowed_outputs_and_target_manipulator():
    """A head of a network with several; labels counted from it."""
    net = MainNet((3, 4, 6)).eval()
    data = Handler(X.numpy(), (LABELS + 3)[:, None].numpy(), classes=6)
    expected = at_labels(net, lambda x: net(x)[:, [3, 4]])
    for task, manipulator in enumerate([lambda t: t - 3, lambda t: torch.tensor(t.item() - 3)]):
        compute_fisher(
            task, data, list(net.weights), "cpu", net, allowed_outputs=[3, 4], target_manipulator=manipulator
        )
        assert_close(kept(net, f"_task_{task}"), expected)
    assert not kept(net)[2][0].any()
    one_hot = Handler(X.numpy(), np.eye(6)[LABELS.numpy() + 3], one_hot=True, classes=6)
    compute_fisher(
        2, one_hot, list(net.weights), "cpu", net, allowed_outputs=[3, 4], target_manipulator=lambda t: t[:, 3:5]
    )
    assert_close(kept(net, "_task_2"), expected)
    compute_fisher(3, handler("values"), list(net.weights), "cpu", net, regression=True, allowed_outputs=[5, 0])
    terms = [-0.5 * (net(x[None])[0, [5, 0]] - y).square().sum() for x, y in zip(X, VALUES, strict=True)]
    assert_close(kept(net, "_task_3"), [s / N for s in squares(list(net.weights), terms)])


def test_custom_nll_gets_what_is_documented(net):
    data = handler()
    seen = []

    def nll(Y, T, given, allowed, empirical):
        seen.append((tuple(Y.shape), tuple(T.shape), given is data, allowed, empirical))
        return nn.functional.cross_entropy(Y, T[:, 0].long())

    compute_fisher(
        0, data, list(net.weights), "cpu", net, custom_nll=nll, empirical_fisher=False, allowed_outputs=[0, 1]
    )
    assert len(seen) > 1
    assert all(entry == ((1, 2), (1, 1), True, [0, 1], False) for entry in seen)
    assert_close(kept(net), at_labels(net))


def test_custom_forward(net):
    data, params = handler(), list(net.weights)
    compute_fisher(0, data, params, "cpu", net, custom_forward=lambda mnet, p, x: 2 * mnet.forward(x, weights=p))
    assert_close(kept(net), at_labels(net, lambda x: 2 * net(x)))

    hnet = HyperNet(net.param_shapes)

    def forward(mnet, hnet, task_id, p, x):
        return mnet.forward(x, weights=hnet.forward(cond_id=task_id, weights={"uncond_weights": p}))

    theta = list(hnet.theta)
    compute_fisher(1, data, theta, "cpu", net, hnet, custom_forward=forward)
    assert_close(kept(hnet, "_task_1"), at_labels(net, lambda x: net(x, weights=hnet.forward(cond_id=1)), params=theta))


def test_custom_forward_that_uses_the_modules_own_parameters(net):
    """It ignores what it is given; the parameters it is given are those it uses."""
    with pytest.warns(UserWarning, match="one sample at a time"):
        compute_fisher(0, handler(), list(net.weights), "cpu", net, custom_forward=lambda mnet, p, x: mnet.forward(x))
    assert_close(kept(net), at_labels(net))


def test_pass_ids(net):
    """Each sample's weight is looked up by its identifier."""
    data = handler()
    weights = seeded(N, seed=9)
    seen = []

    def forward(mnet, params, x, given, ids):
        assert given is data
        return mnet.forward(x, weights=params)

    def nll(Y, T, given, allowed, empirical, ids):
        seen.append(int(ids[0]))
        assert len(ids) == 1
        return weights[int(ids[0])] * nn.functional.cross_entropy(Y, T[:, 0].long())

    compute_fisher(0, data, list(net.weights), "cpu", net, custom_nll=nll, custom_forward=forward, pass_ids=True)
    assert set(seen) == set(range(N))
    log_p = [net(x[None]).log_softmax(-1)[0] for x in X]
    terms = [w * row[c] for w, row, c in zip(weights, log_p, LABELS, strict=True)]
    assert_close(kept(net), [s / N for s in squares(list(net.weights), terms)])


def test_context_modulation():
    net = MainNet().eval()
    gains = seeded(4, seed=5)
    compute_fisher(0, handler(), list(net.weights), "cpu", net, custom_forward=context_mod_forward([gains]))

    def modulated(x):
        return net(x, weights={"mod_weights": [gains], "internal_weights": list(net.weights)})

    assert_close(kept(net), at_labels(net, modulated))

    class Gains(nn.Module):
        def forward(self, uncond_input=None, cond_id=None):
            return [gains * cond_id]

    hnet = Gains()
    compute_fisher(1, handler(), list(net.weights), "cpu", net, hnet, custom_forward=context_mod_forward())
    assert_close(kept(hnet, "_task_1"), kept(net))


def test_online_scaling_and_prior(net):
    params = list(net.weights)
    compute_fisher(0, handler(), params, "cpu", net)
    mean = [f.clone() for f in kept(net)]
    options = {"online": True, "proper_scaling": True, "prior_strength": 0.7}
    compute_fisher(0, handler(), params, "cpu", net, n_max=7, **options)
    compute_fisher(1, handler(), params, "cpu", net, n_max=7)
    assert_close(kept(net, ""), [N * f + 0.7 for f in kept(net, "_task_1")])
    compute_fisher(0, handler(), params, "cpu", net, **options)
    assert_close(kept(net, ""), [N * f + 0.7 for f in mean])
    compute_fisher(1, handler(), params, "cpu", net, gamma=0.5, **options)
    assert_close(kept(net, ""), [N * f + 0.5 * N * f + 0.7 for f in mean])
    compute_fisher(2, handler(), params, "cpu", net, gamma=0.5, online=True, proper_scaling=True)
    assert_close(kept(net, ""), [N * f * 1.75 + 0.7 for f in mean])
    # The loss decays the tasks, not the prior.
    moved = [p + 0.1 for p in params]
    loss = ewc_regularizer(3, moved, net, online=True, gamma=0.25)
    expected = sum((0.5 * 0.01 * (0.25 * N * f * 1.75 + 0.7)).sum() for f in mean)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    # Starting again forgets, and a list of tensors is taken as it is.
    prior = [torch.rand_like(p) for p in params]
    compute_fisher(0, handler(), params, "cpu", net, online=True, prior_strength=prior)
    assert_close(kept(net, ""), [f + q.detach() for f, q in zip(mean, prior, strict=True)])
    compute_fisher(0, handler(), params, "cpu", net, online=True)
    assert_close(kept(net, ""), mean)
    assert not [name for name, _ in net.named_buffers() if "prior" in name]


def test_n_max_is_random_samples_of_a_handler(net):
    data = handler()
    compute_fisher(0, data, list(net.weights), "cpu", net, n_max=7)
    rows = np.random.default_rng(0).permutation(N)[:7]
    terms = [net(X[i : i + 1]).log_softmax(-1)[0, LABELS[i]] for i in rows]
    assert_close(kept(net), [s / 7 for s in squares(list(net.weights), terms)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task_id": -1}, ValueError, "task_id must be at least 0"),
        ({"task_id": 1.5}, TypeError, "task_id must be an integer"),
        ({"data": Handler(X.numpy()[:0], LABELS.numpy()[:0, None])}, ValueError, "at least one training"),
        ({"data": []}, ValueError, "at least one training sample"),
        ({"params": []}, ValueError, "at least one tensor"),
        ({"mnet": 3}, TypeError, r"mnet must be a torch\.nn\.Module"),
        ({"hnet": 3}, TypeError, r"hnet must be a torch\.nn\.Module"),
        ({"gamma": 1.1}, ValueError, "gamma must be a number from 0 to 1"),
        ({"gamma": "1"}, TypeError, "gamma must be a number"),
        ({"n_max": 0}, ValueError, "n_max must be -1"),
        ({"n_max": -2}, ValueError, "n_max must be -1"),
        ({"prior_strength": 1.0}, ValueError, "needs online=True"),
        ({"prior_strength": -1.0, "online": True}, ValueError, "at least 0"),
        ({"prior_strength": float("nan"), "online": True}, ValueError, "finite"),
        ({"prior_strength": "1", "online": True}, TypeError, "must be a number or a list"),
        ({"prior_strength": [torch.ones(1)], "online": True}, ValueError, "must hold 4 tensors"),
        ({"prior_strength": [torch.ones(1)] * 4, "online": True}, ValueError, "must be a tensor of shape"),
        ({"online": True, "task_id": 1}, ValueError, "online EWC needs compute_fisher for the tasks before"),
        ({"regression_lvar": 0}, ValueError, "regression_lvar must be"),
        ({"allowed_outputs": [2]}, ValueError, "allowed_outputs must be indices of the 2 outputs"),
        ({"allowed_outputs": [0, 0]}, ValueError, "different indices"),
        ({"allowed_outputs": []}, ValueError, "different indices"),
        ({"pass_ids": True, "data": [(X, LABELS)]}, ValueError, "pass_ids needs a data handler"),
        ({"regression": True}, ValueError, "would be broadcast"),
        ({"time_series": True}, ValueError, "as many samples"),
        ({"target_manipulator": lambda t: t + 5}, ValueError, "labels must lie in 0..1"),
        ({"target_manipulator": lambda t: 1}, TypeError, "target_manipulator must return a tensor"),
        ({"custom_nll": lambda Y, T, d, a, e: Y}, ValueError, "custom_nll must return one number"),
    ],
)
def test_bad_input_writes_nothing(net, change, error, message):
    arguments = {"task_id": 0, "data": handler(), "params": list(net.weights), "device": "cpu", "mnet": net} | change
    with pytest.raises(error, match=message):
        compute_fisher(**arguments)
    assert not list(net.buffers())
    assert not net.training


def test_shapes_that_change_and_another_prior(net):
    params = list(net.weights)
    compute_fisher(0, handler(), params, "cpu", net, online=True, prior_strength=1.0)
    with pytest.raises(ValueError, match="prior_strength must be the same for all tasks"):
        compute_fisher(1, handler(), params, "cpu", net, online=True, prior_strength=2.0)
    compute_fisher(0, handler(), params, "cpu", net)
    other = MainNet((3, 5, 2))
    other._buffers.update(net._buffers)
    for online in (True, False):
        with pytest.raises(ValueError, match="must keep order and shapes from task to task"):
            compute_fisher(1, handler(), list(other.weights), "cpu", other, online=online)
        with pytest.raises(ValueError, match="must keep order and shapes from task to task"):
            ewc_regularizer(1, list(other.weights), other, online=online)
