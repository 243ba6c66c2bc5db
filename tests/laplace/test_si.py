"""Synaptic intelligence: importances from a path written out by hand, several tasks and groups, state_dicts."""

from __future__ import annotations

import copy

import pytest
import torch
from laplace_fakes import MainNet, assert_close, seeded

from hnbayes.laplace import restore_buffers
from hnbayes.utils.optim_step import sgd_step
from hnbayes.utils.si_regularizer import (
    si_compute_importance,
    si_post_optim_step,
    si_pre_optim_step,
    si_regularizer,
)


def loss_of(net, t):
    x = seeded(20, 3, seed=t)
    return torch.nn.functional.cross_entropy(net(x), (x[:, t % 3] > 0).long())


def train(net, t, steps=5, strength=0.3, **options):
    """SI's loop; returns the path integrals and the ways of all parameters, added up by hand."""
    params = list(net.parameters())
    optimizer = torch.optim.SGD(params, lr=0.2, momentum=0.5)
    start = [p.detach().clone() for p in params]
    integral = [torch.zeros_like(p) for p in params]
    for _ in range(steps):
        optimizer.zero_grad()
        (loss_of(net, t) + strength * si_regularizer(net, params, **options)).backward()
        before = [p.detach().clone() for p in params]
        si_pre_optim_step(net, params, **options)
        optimizer.step()
        si_post_optim_step(net, params, **options)
        for total, p, old in zip(integral, params, before, strict=True):
            if p.grad is not None:
                total -= p.grad * (p.detach() - old)
    return integral, [p.detach() - old for p, old in zip(params, start, strict=True)]


def omega(net, name=""):
    return [net._buffers[f"si_omega{name}_weights_{i}"] for i in range(4)]


def test_importances_of_three_tasks():
    net = MainNet().eval()
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for t in range(3):
        integral, way = train(net, t)
        si_compute_importance(net, list(net.parameters()), epsilon=0.01)
        expected = [e + (w / (d**2 + 0.01)).clamp(min=0) for e, w, d in zip(expected, integral, way, strict=True)]
        assert_close(omega(net), expected)
        assert all((part >= 0).all() for part in omega(net))
    center = [p.detach().clone() for p in net.parameters()]
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    loss = si_regularizer(net, list(net.parameters()))
    by_hand = sum((o * (p - c) ** 2).sum() for o, p, c in zip(expected, net.parameters(), center, strict=True))
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(loss, net.weights[0])[0], 2 * expected[0] * 0.1)


def test_negative_importances_are_clamped_in_each_task():
    """A step up the loss, then one down: the first task gives 0, not a debt to the second."""
    p = torch.nn.Parameter(torch.zeros(2))
    net = torch.nn.Module()
    for step in (1.0, -2.0):
        si_pre_optim_step(net, [p])
        p.grad = torch.tensor([1.0, -1.0])
        with torch.no_grad():
            p += step
        si_post_optim_step(net, [p])
        si_compute_importance(net, [p], epsilon=1.0)
    # omega = -g * step: task 1 (-1, 1) / (1 + 1), task 2 (2, -2) / (4 + 1)
    assert torch.allclose(net.si_omega_weights_0, torch.tensor([0.4, 0.5]))


def test_the_first_task_costs_nothing():
    net = MainNet().eval()
    params = list(net.parameters())
    assert si_regularizer(net, params) == 0
    train(net, 0, steps=1)
    assert si_regularizer(net, params) == 0
    si_compute_importance(net, params)
    assert si_regularizer(net, params) == 0
    with torch.no_grad():
        params[0].add_(0.1)
    assert si_regularizer(net, params) > 0


def test_a_loss_changes_nothing():
    net = MainNet().eval()
    train(net, 0)
    si_compute_importance(net, list(net.parameters()))
    train(net, 1, steps=1)
    before = {name: value.clone() for name, value in net.named_buffers()}
    first, second = (si_regularizer(net, list(net.parameters())) for _ in range(2))
    assert first == second > 0
    assert all(torch.equal(value, before[name]) or value.isnan().all() for name, value in net.named_buffers())
    assert not any(value.requires_grad for value in net.buffers())


@pytest.mark.parametrize("moment", ["before the step", "after the step", "after the task"])
def test_state_dicts_load_into_fresh_networks(moment):
    """With the same keys at any moment, and what follows is the same."""

    def finish(net):
        if moment == "before the step":
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.1
                    p.grad = torch.ones_like(p)
            si_post_optim_step(net, list(net.parameters()))
        if moment != "after the task":
            si_compute_importance(net, list(net.parameters()))
        train(net, 3)
        si_compute_importance(net, list(net.parameters()))
        return omega(net)

    net, other = MainNet().eval(), MainNet().eval()
    for t in range(3):
        train(net, t)
        if t < 2 or moment == "after the task":
            si_compute_importance(net, list(net.parameters()))
    if moment == "before the step":
        si_pre_optim_step(net, list(net.parameters()))
    si_pre_optim_step(other, list(other.parameters()))
    state = copy.deepcopy(net.state_dict())
    assert set(state) == set(other.state_dict())
    other.load_state_dict(state)
    fresh = MainNet(seed=50).eval()
    restore_buffers(fresh, state)
    fresh.load_state_dict(state)
    expected = finish(net)
    assert_close(finish(other), expected)
    assert_close(finish(fresh), expected)


def test_groups_of_parameters_keep_apart():
    net = MainNet().eval()
    body, head = list(net.weights)[:2], list(net.weights)[2:]
    integral, way = train(net, 0, params_name="all")
    si_compute_importance(net, list(net.parameters()), params_name="all")
    for name, params in (("body", body), ("head", head)):
        si_pre_optim_step(net, params, params_name=name)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.5
    for name, params in (("body", body), ("head", head)):
        si_post_optim_step(net, params, params_name=name)
        si_compute_importance(net, params, params_name=name)
    assert torch.allclose(net.si_omega_body_weights_0, torch.full_like(body[0], 0.5 / 0.251))
    assert torch.allclose(net.si_omega_head_weights_0, torch.full_like(head[0], 0.5 / 0.251))
    assert_close(omega(net, "_all"), [(w / (d**2 + 1e-3)).clamp(min=0) for w, d in zip(integral, way, strict=True)])


def test_steps_given_by_a_look_ahead():
    """`delta_params` instead of checkpoints: the task's own part of the step, and no step at all."""
    one, two = MainNet().eval(), MainNet().eval()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.2) for net in (one, two)]
    si_pre_optim_step(two, list(two.parameters()), no_pre_step_ckpt=True)
    for _ in range(3):
        for net, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(net, 0).backward()
        si_pre_optim_step(one, list(one.parameters()))
        si_post_optim_step(two, list(two.parameters()), delta_params=sgd_step(optimizers[1]))
        for optimizer in optimizers:
            optimizer.step()
        si_post_optim_step(one, list(one.parameters()))
    for net in (one, two):
        si_compute_importance(net, list(net.parameters()))
    assert_close(omega(two), omega(one))


def test_frozen_parameters_and_idle_heads():
    net = MainNet().eval()
    params = list(net.parameters())
    params[1].requires_grad_(False)
    train(net, 0)
    si_compute_importance(net, params)
    assert not [name for name, _ in net.named_buffers() if name.endswith("_1")]
    # A parameter without gradient adds nothing.
    for p in params:
        p.grad = None
    si_pre_optim_step(net, params)
    params[0].grad = torch.ones_like(params[0])
    before = [p.clone() for p in (net.si_omega_weights_2, net.si_omega_weights_0)]
    with torch.no_grad():
        params[0] -= 0.1
        params[2] -= 0.1
    si_post_optim_step(net, params)
    si_compute_importance(net, params)
    assert torch.equal(net.si_omega_weights_2, before[0])
    assert (net.si_omega_weights_0 > before[1]).all()


def snapshot(net):
    return {name: value.clone() for name, value in net.named_buffers()}


def test_calls_out_of_order_write_nothing():
    net = MainNet().eval()
    params = list(net.parameters())
    loss_of(net, 0).backward()
    for call in (si_post_optim_step, si_compute_importance):
        with pytest.raises(ValueError, match="si_pre_optim_step must be called before the first step"):
            call(net, params)
    assert not list(net.buffers())
    si_pre_optim_step(net, params, no_pre_step_ckpt=True)
    calls = [
        (lambda: si_compute_importance(net, params), "si_post_optim_step must be called after the steps"),
        (lambda: si_post_optim_step(net, params), "before each step, or delta_params given"),
        (lambda: si_post_optim_step(net, params, delta_params=[torch.ones(1)]), "one tensor for each of the 4"),
        (lambda: si_post_optim_step(net, params, delta_params=[torch.ones(1)] * 4), "must be a tensor of shape"),
        (
            lambda: si_post_optim_step(net, params, delta_params=[torch.full_like(p, torch.nan) for p in params]),
            "must be finite",
        ),
        (lambda: si_compute_importance(net, params, epsilon=0.0), "epsilon must be finite"),
        (lambda: si_regularizer(net, params[::-1]), "must keep order and shapes"),
        (lambda: si_pre_optim_step(net, params[::-1]), "must keep order and shapes"),
    ]
    before = snapshot(net)
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
        assert all(torch.equal(value, before[name]) or value.isnan().all() for name, value in net.named_buffers())
    si_pre_optim_step(net, params)
    si_post_optim_step(net, params)
    with pytest.raises(ValueError, match="before each step"):
        si_post_optim_step(net, params)
    params[3].grad = torch.full_like(params[3], torch.nan)
    si_pre_optim_step(net, params)
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"the gradient of params\[3\] must be finite"):
        si_post_optim_step(net, params)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    for p in params:
        p.grad = None
    with pytest.raises(ValueError, match="none has one"):
        si_post_optim_step(net, params)


def test_bad_input():
    net = MainNet()
    params = list(net.parameters())
    for call in (si_pre_optim_step, si_post_optim_step, si_compute_importance, si_regularizer):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            call(None, params)
        with pytest.raises(ValueError, match="params_name must not be empty"):
            call(net, params, params_name="a.b")
        with pytest.raises(TypeError, match="params_name must be text"):
            call(net, params, params_name=1)
    for bad, error in [([], ValueError), (params[0], TypeError), ([3], TypeError), ([torch.ones(1)], ValueError)]:
        with pytest.raises(error, match="params"):
            si_pre_optim_step(net, bad)
    with pytest.raises(ValueError, match="must be finite"):
        si_pre_optim_step(net, [torch.nn.Parameter(torch.tensor([torch.nan]))])
    assert not list(net.buffers())
