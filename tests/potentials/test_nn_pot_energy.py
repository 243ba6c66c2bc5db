"""nn_pot_energy: the formulas, number by number, and the prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from nn_by_hand import (
    assert_is,
    classification_by_hand,
    gaussian_by_hand,
    mlp,
    randn,
    regression_by_hand,
    seeded,
    slope,
    standard_prior,
)
from torch import nn

from hnbayes import log_prob_standard_normal_prior, nn_pot_energy

# --- the formulas, number by number -----------------------------------------------------------------------------------


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
