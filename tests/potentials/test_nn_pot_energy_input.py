"""nn_pot_energy: bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nn_by_hand import (
    mlp,
    randn,
    standard_prior,
)
from torch import nn

from hnbayes import nn_pot_energy


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
