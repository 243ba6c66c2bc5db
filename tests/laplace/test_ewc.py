"""EWC's penalty: its value, its purity, several tasks, state_dicts, and that the prior is counted once."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from laplace_fakes import MainNet, assert_close, seeded

from hnbayes.laplace import restore_buffers
from hnbayes.utils.ewc_regularizer import compute_fisher, ewc_regularizer


def task(t, n=20):
    x = seeded(n, 3, seed=t)
    return [(x, (x[:, t % 3] > 0).long())]


@pytest.fixture
def learned():
    """A network after three tasks, weights and Fisher matrices of each."""
    net, record = MainNet().eval(), []
    for t in range(3):
        with torch.no_grad():
            for i, p in enumerate(net.weights):
                p += 0.3 * seeded(*p.shape, seed=10 * t + i)
        compute_fisher(t, task(t), list(net.weights), None, net)
        compute_fisher(t, task(t), list(net.weights), None, net, online=True, gamma=0.5)
        fisher = [net._buffers[f"ewc_fisher_estimate_task_{t}_weights_{i}"] for i in range(4)]
        record.append(([p.detach().clone() for p in net.weights], fisher))
    with torch.no_grad():
        for i, p in enumerate(net.weights):
            p += 0.1 * seeded(*p.shape, seed=90 + i)
    return net, record


def test_its_value_and_gradient(learned):
    net, record = learned
    loss = ewc_regularizer(3, list(net.weights), net)
    expected = sum(
        (f * (p - c) ** 2).sum() / 2
        for center, fisher in record
        for p, c, f in zip(net.weights, center, fisher, strict=True)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    gradient = sum(fisher[0] * (net.weights[0] - center[0]) for center, fisher in record)
    assert torch.allclose(net.weights[0].grad, gradient)
    assert ewc_regularizer(2, list(net.weights), net) < loss


def test_online(learned):
    net, record = learned
    center = record[-1][0]
    estimate = [f2 + 0.5 * (f1 + 0.5 * f0) for f0, f1, f2 in zip(*[fisher for _, fisher in record], strict=True)]
    loss = ewc_regularizer(3, list(net.weights), net, online=True, gamma=0.5)
    expected = sum((0.5 * f * (p - c) ** 2).sum() / 2 for p, c, f in zip(net.weights, center, estimate, strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("online", [True, False])
def test_a_loss_changes_nothing(learned, online):
    """Earlier implementations multiplied the kept Fisher matrix by gamma at every call."""
    net, _ = learned
    before = {name: value.clone() for name, value in net.named_buffers()}
    first, second = (ewc_regularizer(3, list(net.weights), net, online=online, gamma=0.5) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert not any(value.requires_grad for value in net.buffers())


def test_online_with_gamma_1_is_the_sum_of_separate_penalties():
    """Around the same weights, where both are the same Gaussian."""
    net = MainNet().eval()
    for t in range(3):
        compute_fisher(t, task(t), list(net.weights), None, net)
        compute_fisher(t, task(t), list(net.weights), None, net, online=True, gamma=1.0)
    moved = [p + 0.1 * seeded(*p.shape, seed=3) for p in net.weights]
    separate = ewc_regularizer(3, moved, net).item()
    assert ewc_regularizer(3, moved, net, online=True, gamma=1.0).item() == pytest.approx(separate, rel=1e-12)
    assert ewc_regularizer(3, moved, net, online=True, gamma=0.9).item() < separate


def test_the_first_task_costs_nothing(learned):
    net, _ = learned
    for online in (True, False):
        assert ewc_regularizer(0, list(net.weights), net, online=online) == 0
    (ewc_regularizer(0, list(net.weights), net) + net.weights[0].sum()).backward()


def test_state_dicts(learned):
    net, _ = learned
    state = copy.deepcopy(net.state_dict())
    fresh = MainNet(seed=50)
    restore_buffers(fresh, state)
    fresh.load_state_dict(state)
    for online in (True, False):
        here, there = (ewc_regularizer(3, list(n.weights), n, online=online) for n in (net, fresh))
        assert here == there
    compute_fisher(3, task(3), list(fresh.weights), None, fresh)
    assert ewc_regularizer(4, list(fresh.weights), fresh) == ewc_regularizer(3, list(net.weights), net)

    whole = torch.nn.Sequential(MainNet(seed=50), torch.nn.Tanh())
    nested = {f"0.{name}": value for name, value in state.items()}
    restore_buffers(whole, nested)
    whole.load_state_dict(nested)
    with pytest.raises(ValueError, match="missing submodule"):
        restore_buffers(whole, {f"5.{name}": value for name, value in state.items()})
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        restore_buffers({}, state)


def test_the_prior_is_counted_once():
    net = MainNet().eval()
    totals = []
    for prior in (None, 5.0):
        for t in range(4):
            options = {"online": True, "proper_scaling": True, "prior_strength": prior}
            compute_fisher(t, task(t), list(net.weights), None, net, **options)
        totals.append([net._buffers[f"ewc_fisher_estimate_weights_{i}"] for i in range(4)])
    assert_close(totals[1], [f + 5.0 for f in totals[0]])


@pytest.mark.parametrize("online", [True, False])
def test_tasks_that_are_missing(learned, online):
    net, _ = learned
    with pytest.raises(ValueError, match=re.escape("compute_fisher must have been called for all tasks before task 1")):
        ewc_regularizer(1, list(MainNet().weights), MainNet(), online=online)
    with pytest.raises(ValueError, match="as many parameters"):
        ewc_regularizer(1, [*net.weights, torch.ones(1)], net, online=online)
    with pytest.raises(ValueError, match="must keep order and shapes"):
        ewc_regularizer(1, list(net.weights)[::-1], net, online=online)
    if not online:
        with pytest.raises(ValueError, match="there are no buffers of task 3"):
            ewc_regularizer(4, list(net.weights), net)
    for bad, error in [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)]:
        with pytest.raises(error, match="task_id"):
            ewc_regularizer(bad, list(net.weights), net)
    with pytest.raises(ValueError, match="gamma"):
        ewc_regularizer(1, list(net.weights), net, online=True, gamma=-0.1)
    with pytest.raises(TypeError, match="hnet or mnet"):
        ewc_regularizer(1, list(net.weights), None)
