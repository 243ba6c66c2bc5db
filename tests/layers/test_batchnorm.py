"""BatchNormLayer: every row of both documented tables against plain arithmetic and torch's own layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from hnbayes.layers import BatchNormLayer

C = 3
MODES = {
    "track": {},
    "frozen": {"track_running_stats": False, "frozen_stats": True},
    "learnable": {"track_running_stats": False, "learnable_stats": True},
    "none": {"track_running_stats": False},
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(**options):
    made = BatchNormLayer(C, **options).double()
    with torch.no_grad():
        for at, name in enumerate(("scale", "bias")):
            if getattr(made, name) is not None:
                getattr(made, name).copy_(randn(C, seed=10 + at))
        if made.num_stats and not made.frozen_stats:
            made.mean_0.copy_(randn(C, seed=12))
            made.var_0.copy_(randn(C, seed=13).square() + 0.5)
    return made


def over(x):
    return [d for d in range(x.ndim) if d != 1]


def expected(x, mean, var, gain, offset):
    shape = (1, C, *[1] * (x.ndim - 2))
    mean, var, gain, offset = (t.reshape(shape) for t in (mean, var, gain, offset))
    return (x - mean) / (var + 1e-5).sqrt() * gain + offset


def batch_stats(x):
    return x.mean(over(x)), x.var(over(x), unbiased=False)


@pytest.mark.parametrize("shape", [(7, C), (4, C, 5), (4, C, 5, 2), (2, C, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("row", ["given", "given with gradients", *MODES])
def test_every_row_of_both_tables(row, training, shape):
    """Forward, which statistics change and how, and all gradients by finite differences."""
    bn = layer(**MODES.get(row, {})).train(training)
    x = randn(*shape).requires_grad_()
    given = {}
    if row.startswith("given"):
        given = {"running_mean": randn(C, seed=4), "running_var": randn(C, seed=5).square() + 0.3}
        if row == "given with gradients":
            given = {name: t.requires_grad_() for name, t in given.items()}
        stats = tuple(given.values())
    else:
        stats = bn.get_stats() if bn.num_stats else ()
    before = [t.detach().clone() for t in stats]
    internal = copy.deepcopy(bn.state_dict())

    y = bn(x, **given)

    mean, var = batch_stats(x.detach())
    if row == "frozen":
        used = torch.zeros(C).double(), torch.ones(C).double()
    elif training or row == "none":
        used = mean, var
    else:
        used = before
    torch.testing.assert_close(y, expected(x, *used, bn.scale, bn.bias))
    updates = training and row in ("given", "track", "learnable")
    n = x.numel() // C
    for at, (now, then, batch) in enumerate(zip(stats, before, (mean, var * n / (n - 1)), strict=False)):
        wanted = 0.9 * then + 0.1 * batch if updates else then
        torch.testing.assert_close(now.detach(), wanted, msg=f"statistic {at}")
    if row.startswith("given"):
        torch.testing.assert_close(bn.state_dict(), internal)

    def run(x, gain, offset, *learned):
        names = ("running_mean", "running_var") if row.startswith("given") else ("mean_0", "var_0")
        tensors = dict(zip(names, learned, strict=False))
        if row.startswith("given"):
            kwargs = dict(weight=gain, bias=offset, **{k: v.clone() for k, v in (tensors or given).items()})
            return functional_call(bn, {}, (x,), kwargs)
        detached = {} if tensors else {k: v.clone() for k, v in bn.state_dict().items()}
        return functional_call(bn, {**detached, **tensors, "scale": gain, "bias": offset}, (x,))

    learned = row in ("given with gradients", "learnable") and not training
    extra = [t.detach().clone().requires_grad_() for t in stats] if learned else []
    inputs = [x, bn.scale.detach().clone().requires_grad_(), bn.bias.detach().clone().requires_grad_(), *extra]
    assert torch.autograd.gradcheck(run, inputs)


def test_given_statistics_with_gradients_stay_as_they_are_in_training():
    bn = layer()
    mean = randn(C, seed=4).requires_grad_() * 1
    var = (randn(C, seed=5).square() + 1).requires_grad_()
    kept = mean.detach().clone(), var.detach().clone()
    bn(randn(8, C), running_mean=mean, running_var=var).sum().backward()
    torch.testing.assert_close((mean.detach(), var.detach()), kept)


@pytest.mark.parametrize("momentum", [0.1, 0.7, 0.0, 1.0, None])
def test_running_statistics_follow_torch(momentum):
    ours, theirs = BatchNormLayer(C, momentum=momentum).double(), nn.BatchNorm2d(C, momentum=momentum).double()
    for seed in range(4):
        x = randn(4, C, 3, 2, seed=seed) * (seed + 1)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.get_stats(), (theirs.running_mean, theirs.running_var))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("weight", [None, randn(C, seed=1)])
@pytest.mark.parametrize("bias", [None, randn(C, seed=2)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_external_gains_and_offsets(weight, bias, affine, training):
    bn = layer(affine=affine).train(training)
    x = randn(6, C)
    used = batch_stats(x) if training else [t.clone() for t in bn.get_stats()]
    gain = weight if weight is not None else (bn.scale if affine else torch.ones(C).double())
    offset = bias if bias is not None else (bn.bias if affine else torch.zeros(C).double())
    torch.testing.assert_close(bn(x, weight=weight, bias=bias), expected(x, *used, gain, offset))


def test_statistics_per_task():
    bn = layer()
    bn.checkpoint_stats()
    bn.checkpoint_stats()
    assert bn.num_stats == 3
    assert isinstance(bn.num_stats, int)
    kept = [t.clone() for t in bn.get_stats(0)]
    torch.testing.assert_close(bn.get_stats(), (torch.zeros(C).double(), torch.ones(C).double()))
    x = randn(9, C)
    bn(x, stats_id=1)
    torch.testing.assert_close(bn.get_stats(0), tuple(kept))
    torch.testing.assert_close(bn.get_stats(2), (torch.zeros(C).double(), torch.ones(C).double()))
    torch.testing.assert_close(bn.get_stats(1)[0], 0.1 * x.mean(0))
    bn.eval()
    for at in range(3):
        torch.testing.assert_close(bn(x, stats_id=at), expected(x, *bn.get_stats(at), bn.scale, bn.bias))
    with pytest.raises(ValueError, match="stats_id must say which"):
        bn(x)
    given = {"running_mean": torch.zeros(C).double(), "running_var": torch.ones(C).double()}
    torch.testing.assert_close(
        bn(x, **given, stats_id=77), expected(x, *given.values(), bn.scale, bn.bias), msg="stats_id is ignored"
    )


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("sets_before", [1, 4])
def test_state_dict_round_trip(momentum, learnable, sets_before):
    options = {"momentum": momentum, "track_running_stats": not learnable, "learnable_stats": learnable}
    bn = layer(**options)
    bn.checkpoint_stats()
    bn.checkpoint_stats()
    for at in range(3):
        bn(randn(5, C, seed=at), stats_id=at)
    fresh = nn.Sequential(BatchNormLayer(C, **options).double())
    for _ in range(sets_before - 1):
        fresh[0].checkpoint_stats()
    stored = {f"0.{name}": tensor.clone() for name, tensor in bn.state_dict().items()}
    keys = set(stored)
    fresh.load_state_dict(stored)
    assert set(stored) == keys
    assert fresh[0].num_stats == 3
    torch.testing.assert_close(fresh[0].state_dict(), bn.state_dict())
    assert len(list(fresh.parameters())) == (8 if learnable else 2)
    if momentum is None:
        assert fresh[0].num_batches_2 == 1


def test_weights_of_earlier_implementations_load():
    stored = {"scale": randn(C), "bias": randn(C, seed=1), "_num_stats": torch.tensor(2)}
    stored |= {f"{name}_{at}": randn(C, seed=at).exp() for at in range(2) for name in ("mean", "var")}
    stored |= {"_weights.0": stored["scale"], "_weights.1": stored["bias"]}
    bn = BatchNormLayer(C).double()
    bn.load_state_dict(stored)
    assert bn.num_stats == 2
    torch.testing.assert_close(bn.get_stats(1)[1], stored["var_1"])


def test_shapes_and_weights():
    assert BatchNormLayer(C).hyper_shapes is None
    assert BatchNormLayer(C, affine=False).hyper_shapes == [[C], [C]]
    assert BatchNormLayer(C, affine=False).weights is None
    bn = layer(**MODES["learnable"])
    assert [tuple(w.shape) for w in bn.weights] == [(C,), (C,)]
    assert bn.weights[0] is bn.scale
    assert bn.param_shapes == [[C]] * 4
    assert BatchNormLayer(C, affine=False).param_shapes == [[C]] * 2
    assert {name for name, _ in bn.named_parameters()} == {"scale", "bias", "mean_0", "var_0"}
    assert [BatchNormLayer(C, **MODES[mode]).num_stats for mode in MODES] == [1, 1, 1, 0]


@pytest.mark.parametrize("mode", MODES)
def test_vmap_over_everything_a_hypernetwork_could_make(mode):
    bn = layer(**MODES[mode]).eval()
    x = randn(4, C, 2, 2)
    tensors = {name: torch.stack([t.detach() + k * 0.3 for k in range(5)]) for name, t in bn.state_dict().items()}
    batched = vmap(lambda own: functional_call(bn, own, (x,)))(tensors)
    looped = torch.stack([functional_call(bn, {n: t[k] for n, t in tensors.items()}, (x,)) for k in range(5)])
    torch.testing.assert_close(batched, looped)
    assert not torch.allclose(batched[0], batched[1])


def test_large_means_keep_float32_digits():
    """As torch's own evaluation mode."""
    ours, theirs = BatchNormLayer(C).eval(), nn.BatchNorm1d(C).eval()
    x = randn(50, C).float() + 1000
    with torch.no_grad():
        for stats in (ours.get_stats(), (theirs.running_mean, theirs.running_var)):
            stats[0].fill_(1000)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BatchNormLayer(0), ValueError, "num_features must be at least 1"),
        (lambda: BatchNormLayer(2.0), TypeError, "num_features must be an integer"),
        (lambda: BatchNormLayer(C, momentum=1.5), ValueError, "momentum must lie in 0..1"),
        (lambda: BatchNormLayer(C, momentum=-0.1), ValueError, "momentum must be finite"),
        (lambda: BatchNormLayer(C, momentum=float("nan")), ValueError, "momentum must be finite"),
        (lambda: BatchNormLayer(C, momentum="x"), TypeError, "momentum must be a positive number"),
        (lambda: BatchNormLayer(C, frozen_stats=True), ValueError, "frozen_stats=True needs track_running_stats"),
        (lambda: BatchNormLayer(C, learnable_stats=True), ValueError, "learnable_stats=True needs"),
        (lambda: BatchNormLayer(C, 0.1, True, False, True, True), ValueError, "frozen or learnable"),
        (lambda: layer()(randn(4, C), running_mean=randn(C)), ValueError, "given together; received running_mean"),
        (lambda: layer()(randn(4, C), running_var=randn(C)), ValueError, "given together; received running_var"),
        (lambda: layer()(randn(4, C + 1)), ValueError, r"inputs must have shape \(N, 3\)"),
        (lambda: layer()(randn(C)), ValueError, "inputs must have shape"),
        (lambda: layer()(randn(0, C)), ValueError, "must not be empty"),
        (lambda: layer()(torch.ones(4, C, dtype=torch.long)), TypeError, "floating-point"),
        (lambda: layer()(randn(4, C), weight=randn(C, 1)), ValueError, "weight must be a tensor of shape"),
        (lambda: layer()(randn(4, C), bias=2.0), ValueError, "bias must be a tensor of shape"),
        (lambda: layer()(randn(1, C)), ValueError, "Expected more than 1 value per channel"),
        (lambda: layer().get_stats(1), ValueError, "stats_id must lie in 0..0"),
        (lambda: layer().get_stats(-1), ValueError, "stats_id must be at least 0"),
        (lambda: layer().get_stats(0.0), TypeError, "stats_id must be an integer"),
        (lambda: layer(**MODES["none"]).get_stats(), ValueError, "keeps no statistics"),
        (lambda: layer(**MODES["frozen"]).checkpoint_stats(), ValueError, "received one with frozen statistics"),
        (lambda: layer(**MODES["none"]).checkpoint_stats(), ValueError, "received one with no statistics"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
