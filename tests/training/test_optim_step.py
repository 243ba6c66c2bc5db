"""Look-ahead: the change equals what the installed optimiser then does, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hnbayes.utils.optim_step import adam_step, calc_delta_theta, rmsprop_step, sgd_step

OPTIONS = [
    (torch.optim.SGD, sgd_step, {"lr": 0.1}),
    (torch.optim.SGD, sgd_step, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.SGD, sgd_step, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (torch.optim.SGD, sgd_step, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, sgd_step, {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    (torch.optim.Adam, adam_step, {"lr": 0.01}),
    (torch.optim.Adam, adam_step, {"lr": 0.01, "weight_decay": 0.3, "eps": 1e-2}),
    (torch.optim.Adam, adam_step, {"lr": 0.01, "amsgrad": True, "betas": (0.5, 0.6)}),
    (torch.optim.Adam, adam_step, {"lr": 0.01, "maximize": True, "foreach": True}),
    (torch.optim.Adam, adam_step, {"lr": 0.01, "fused": True}),
    (torch.optim.AdamW, adam_step, {"lr": 0.01, "weight_decay": 0.3}),
    (torch.optim.AdamW, adam_step, {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    (torch.optim.RMSprop, rmsprop_step, {"lr": 0.01}),
    (torch.optim.RMSprop, rmsprop_step, {"lr": 0.01, "centered": True, "momentum": 0.9, "alpha": 0.8}),
    (torch.optim.RMSprop, rmsprop_step, {"lr": 0.01, "weight_decay": 0.2, "maximize": True, "centered": True}),
]
IDS = [f"{cls.__name__}-{'-'.join(map(str, options))}" for cls, _, options in OPTIONS]
OTHERS = [torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in [(3, 2), (4,), (), (2,)]
    ]


def backward(params, step, create_graph=False):
    """Gradients of a loss that differ from step to step; the last parameter takes no part."""
    for p in params:
        p.grad = None
    loss = sum(((p - 0.3 * step).square() * (1 + p.square())).sum() for p in params[:-1])
    gradients = torch.autograd.grad(loss, params[:-1], create_graph=create_graph)
    for p, gradient in zip(params, gradients, strict=False):
        p.grad = gradient


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict()), [
        p.detach().clone() for group in optimizer.param_groups for p in group["params"]
    ]


def assert_same(one, other):
    assert str(one[0]["param_groups"]) == str(other[0]["param_groups"])
    assert one[0]["state"].keys() == other[0]["state"].keys()
    for index, state in one[0]["state"].items():
        for name, value in state.items():
            assert value is None or torch.equal(torch.as_tensor(value), torch.as_tensor(other[0]["state"][index][name]))
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize(("cls", "look", "options"), OPTIONS, ids=IDS)
def test_the_change_is_the_one_the_optimiser_makes(cls, look, options):
    params = parameters()
    optimizer = cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.05}], **options)
    for step in range(4):
        backward(params, step)
        before = snapshot(optimizer)
        changes = look(optimizer)
        again = calc_delta_theta(optimizer, False)
        assert_same(before, snapshot(optimizer))
        if step == 0:
            assert len(optimizer.state) == 0
        optimizer.step()
        assert len(changes) == len(params)
        for p, old, change, same in zip(params, before[1], changes, again, strict=True):
            assert torch.equal(change, p.detach() - old)
            assert torch.equal(change, same)
            assert not change.requires_grad
        assert changes[0].abs().min() > 0
        assert not changes[-1].any()


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(("cls", "look", "options"), OPTIONS, ids=IDS)
def test_the_change_can_be_differentiated(cls, look, options, steps):
    params = parameters(torch.float64)
    optimizer = cls(params, **options)
    for step in range(steps):
        backward(params, step)
        optimizer.step()
    backward(params, 2, create_graph=True)
    changes = look(optimizer, detach_dp=False)
    backward(params, 2)
    for change, expected in zip(changes, look(optimizer), strict=True):
        assert torch.allclose(change, expected, rtol=1e-12, atol=1e-15)
    # d change / d parameter by central differences: weights are moved, gradients computed again.
    slope = torch.autograd.grad(changes[1].sum(), params[1])[0][0].item()
    width, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            params[1][0] += sign * width
        backward(params, 2)
        values.append(look(optimizer)[1].sum().item())
        with torch.no_grad():
            params[1][0] -= sign * width
    assert slope == pytest.approx((values[0] - values[1]) / (2 * width), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("cls", OTHERS)
def test_other_optimisers(cls):
    params = parameters()
    optimizer = cls(params, lr=0.1, weight_decay=0.1)
    for step in range(3):
        backward(params, step)
        before = snapshot(optimizer)
        changes = calc_delta_theta(optimizer, use_sgd_change=False)
        assert_same(before, snapshot(optimizer))
        optimizer.step()
        assert all(torch.equal(c, p.detach() - old) for c, p, old in zip(changes, params, before[1], strict=True))


def test_against_the_equations():
    """The first steps of Adam, AdamW and centred RMSprop in NumPy: an oracle that shares nothing with torch."""
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    p.grad = torch.tensor([0.5, 3.0], dtype=torch.float64)
    theta, g = p.detach().numpy(), p.grad.numpy()
    decayed = g + 0.1 * theta
    adam = -0.01 * decayed / (np.abs(decayed) + 1e-2)
    adamw = -0.01 * 0.1 * theta - 0.01 * g / (np.abs(g) + 1e-2)
    root = np.sqrt(0.1 * g**2 - (0.1 * g) ** 2)
    cases = [
        (adam_step(torch.optim.Adam([p], lr=0.01, weight_decay=0.1, eps=1e-2)), adam),
        (adam_step(torch.optim.AdamW([p], lr=0.01, weight_decay=0.1, eps=1e-2)), adamw),
        (rmsprop_step(torch.optim.RMSprop([p], lr=0.01, alpha=0.9, centered=True)), -0.01 * g / (root + 1e-8)),
        (sgd_step(torch.optim.SGD([p], lr=0.01, weight_decay=0.1, maximize=True)), -0.01 * (-g + 0.1 * theta)),
        (calc_delta_theta(torch.optim.Adam([p]), True, lr=0.3), -0.3 * g),
    ]
    for (change,), expected in cases:
        np.testing.assert_allclose(change.numpy(), expected, rtol=1e-12)
    # Mutant: weight decay dropped, a fault known from earlier implementations.
    assert not np.allclose(cases[0][0][0].numpy(), -0.01 * g / (np.abs(g) + 1e-2), rtol=1e-3)


def test_hooks_and_schedulers_are_not_called():
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    backward(params, 0)
    sgd_step(optimizer)
    assert calls == []
    optimizer.step()
    schedule.step()
    assert calls == ["pre", "post"]


def test_an_optimiser_without_gradients_is_refused():
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    for call in (sgd_step, lambda o: calc_delta_theta(o, False), lambda o: calc_delta_theta(o, True, lr=0.1)):
        with pytest.raises(ValueError, match=r"must have a gradient; received none. Call backward"):
            call(optimizer)


def test_bad_input():
    params = parameters()
    backward(params, 0)
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.SGD; received .*Adam"):
        sgd_step(torch.optim.Adam(params))
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Adam or torch\.optim\.AdamW"):
        adam_step(torch.optim.SGD(params, lr=0.1))
    with pytest.raises(TypeError, match=r"torch\.optim\.RMSprop"):
        rmsprop_step(None)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer; received 3"):
        calc_delta_theta(3, False)
    with pytest.raises(ValueError, match="lr must be the learning rate"):
        calc_delta_theta(torch.optim.SGD(params, lr=0.1), True)
    for lr in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="lr must be finite and greater than 0"):
            calc_delta_theta(torch.optim.SGD(params, lr=0.1), True, lr=lr)
    with pytest.raises(ValueError, match="LBFGS can't be looked at in advance"):
        calc_delta_theta(torch.optim.LBFGS(params), False)
