"""get_optimizer against torch's optimisers made by hand, the schedule, cutout and the number of iterations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hnbayes.utils.sim_utils import calc_train_iter
from hnbayes.utils.torch_utils import CutoutTransform, get_optimizer, lambda_lr_schedule

CHOICES = {
    "sgd": ({}, lambda p, **k: torch.optim.SGD(p, momentum=0.7, **k)),
    "adam": ({"use_adam": True, "adam_beta1": 0.8}, lambda p, **k: torch.optim.Adam(p, betas=(0.8, 0.999), **k)),
    "rmsprop": ({"use_rmsprop": True}, lambda p, **k: torch.optim.RMSprop(p, momentum=0.7, **k)),
    "adadelta": ({"use_adadelta": True}, torch.optim.Adadelta),
    "adagrad": ({"use_adagrad": True}, torch.optim.Adagrad),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, generator=generator).requires_grad_() for _ in range(2)]


def walk(optimizer, params, steps=4):
    """Where some steps on a quadratic lead."""
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sum() for p in params).backward()
        optimizer.step()
    return torch.cat([p.detach() for p in params])


@pytest.mark.parametrize("name", CHOICES)
def test_steps_are_those_of_torchs_optimiser(name):
    options, by_hand = CHOICES[name]
    ours, theirs = parameters(), parameters()
    optimizer = get_optimizer(ours, 0.05, momentum=0.7, weight_decay=0.1, **options)
    expected = by_hand(theirs, lr=0.05, weight_decay=0.1)
    assert type(optimizer) is type(expected)
    assert torch.equal(walk(optimizer, ours), walk(expected, theirs))


def test_groups_have_settings_of_their_own():
    ours, theirs = parameters(), parameters()
    optimizer = get_optimizer(ours, [0.1, 0.01], momentum=[0.0, 0.9], weight_decay=0.2, pgroup_ids=[1, 0])
    expected = torch.optim.SGD(
        [{"params": [theirs[1]], "lr": 0.1, "momentum": 0.0}, {"params": [theirs[0]], "lr": 0.01, "momentum": 0.9}],
        lr=1.0,
        weight_decay=0.2,
    )
    assert torch.equal(walk(optimizer, ours), walk(expected, theirs))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_adam": True, "use_rmsprop": True}, ValueError, "at most one optimiser"),
        ({"params": []}, ValueError, "at least one parameter"),
        ({"lr": [0.1, 0.2]}, ValueError, "only where pgroup_ids"),
        ({"pgroup_ids": [0]}, ValueError, "an entry a parameter"),
        ({"pgroup_ids": [0, 2]}, ValueError, "every group"),
        ({"pgroup_ids": [0, 1], "lr": [0.1]}, ValueError, "an entry a group"),
        ({"lr": float("nan")}, ValueError, "finite"),
        ({"lr": "fast"}, TypeError, "lr must be a number"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        get_optimizer(**({"params": parameters(), "lr": 0.1} | options))


def test_schedule():
    epochs = [0, 80, 81, 120, 121, 160, 161, 180, 181, 500]
    expected = [1, 1, 1e-1, 1e-1, 1e-2, 1e-2, 1e-3, 1e-3, 0.5e-3, 0.5e-3]
    assert [lambda_lr_schedule(e) for e in epochs] == expected
    for wrong, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="epoch"):
            lambda_lr_schedule(wrong)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_cutout_is_a_square_at_every_place(length):
    torch.manual_seed(0)
    image = torch.ones(2, 9, 8)
    corners = set()
    for _ in range(3000):
        masked = CutoutTransform(1, length)(image)
        assert torch.equal(masked[0], masked[1])
        rows, columns = (np.flatnonzero((masked[0] == 0).any(axis).numpy()) for axis in (1, 0))
        if len(rows) * len(columns):
            assert int((masked[0] == 0).sum()) == len(rows) * len(columns)
            assert max(len(rows), len(columns)) <= length
            corners.add((rows[-1], columns[-1]))
    # The centre may be any pixel: as many squares as pixels, cut off at the edges.
    assert len(corners) >= 9 * 8 - (length - 1) * (9 + 8)
    assert torch.equal(image, torch.ones(2, 9, 8))


def test_cutout_of_an_inner_place_has_its_whole_length():
    torch.manual_seed(1)
    sizes = {int((CutoutTransform(1, 3)(torch.ones(1, 20, 20)) == 0).sum()) for _ in range(300)}
    assert max(sizes) == 9
    several = (CutoutTransform(8, 3)(torch.ones(1, 60, 60)) == 0).sum()
    assert 9 < int(several) <= 72


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CutoutTransform(0, 3), ValueError, "n_holes must be at least 1"),
        (lambda: CutoutTransform(1, 2.5), TypeError, "length must be an integer"),
        (lambda: CutoutTransform(1, 2)(np.ones((1, 3, 3))), TypeError, "img must be a tensor"),
        (lambda: CutoutTransform(1, 2)(torch.ones(3)), ValueError, "img must have shape"),
    ],
)
def test_bad_cutout(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_train_samples": 10, "batch_size": 3, "epochs": 2}, (8, 4)),
        ({"num_train_samples": 9, "batch_size": 3, "epochs": 5, "num_iter": 7}, (15, 3)),
        ({"num_train_samples": 2, "batch_size": 3, "epochs": 1}, (1, 1)),
        ({"num_train_samples": 10, "batch_size": 3, "num_iter": 7}, (7, -1)),
    ],
)
def test_iterations(arguments, expected):
    assert calc_train_iter(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((0, 3, 5), ValueError), ((10, 0, 5), ValueError), ((10, 3), ValueError), ((10, 3, -4), ValueError),
     ((10, 3, 1, 0), ValueError), ((10, 2.5, 1), TypeError)],
)  # fmt: skip
def test_bad_iterations(arguments, error):
    with pytest.raises(error, match="must be"):
        calc_train_iter(*arguments)
