"""Fans and initial weights: closed forms, torch's own layers, and the laws they claim."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from hnbayes.layers import calc_fan_in_and_out, init_params, xavier_fan_in_


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (7, 2, 3, 3), (2, 3, 1, 2, 4)])
def test_fans_are_torchs(shape):
    expected = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert calc_fan_in_and_out(list(shape)) == expected
    assert calc_fan_in_and_out(torch.Size(shape)) == expected


def test_xavier_by_fan_in():
    torch.manual_seed(0)
    weights = torch.empty(300, 20, 3)
    assert xavier_fan_in_(weights) is weights
    bound = math.sqrt(3 / 60)
    uniform = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(weights.flatten().numpy(), uniform.cdf).pvalue > 1e-3
    assert weights.var().item() == pytest.approx(1 / 60, rel=0.03)
    # Torch's own, by the mean of both fans, follows another law.
    assert stats.kstest(nn.init.xavier_uniform_(weights).flatten().numpy(), uniform.cdf).pvalue < 1e-6


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(12, 400), lambda: nn.Conv2d(6, 300, 3), lambda: nn.ConvTranspose2d(300, 6, 3)]
)
def test_init_params_is_torchs_default(make):
    torch.manual_seed(0)
    layer = make()
    theirs = [layer.weight.detach().clone(), layer.bias.detach().clone()]
    weights, bias = torch.empty_like(layer.weight), torch.empty(300)
    init_params(weights, bias)
    assert stats.ks_2samp(weights.flatten().numpy(), theirs[0].flatten().numpy()).pvalue > 1e-3
    assert weights.abs().max().item() == pytest.approx(theirs[0].abs().max().item(), rel=0.01)
    assert bias.abs().max().item() == pytest.approx(theirs[0].abs().max().item(), rel=0.05)


def test_parameters_stay_leaves():
    layer = nn.Linear(3, 4)
    init_params(layer.weight, layer.bias)
    xavier_fan_in_(layer.weight)
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: calc_fan_in_and_out([3]), ValueError, "at least 2 entries"),
        (lambda: calc_fan_in_and_out([3, 0]), ValueError, "at least 1"),
        (lambda: calc_fan_in_and_out([3, 2.5]), TypeError, "integer"),
        (lambda: xavier_fan_in_(torch.empty(3)), ValueError, "two dimensions"),
        (lambda: xavier_fan_in_(torch.empty(3, 0)), ValueError, "not be empty"),
        (lambda: xavier_fan_in_(torch.ones(3, 2, dtype=torch.long)), TypeError, "floating-point"),
        (lambda: init_params([1, 2]), TypeError, "weights must be a floating-point tensor"),
        (lambda: init_params(torch.empty(3, 2), 1.0), TypeError, "bias must be a floating-point tensor"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
