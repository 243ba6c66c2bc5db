"""ContextModLayer against explicit loops, its checkpoints and its initialisation."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, vmap

from hnbayes.layers import ContextModLayer


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gain_of(raw, options):
    """The documented transformation, element by element."""
    if options.get("apply_gain_offset"):
        return 1 + raw
    if options.get("apply_gain_softplus"):
        s = options.get("softplus_scale", 1.0)
        return (1 + (raw * s).exp()).log() / s
    return raw


GAINS = [{}, {"apply_gain_offset": True}, {"apply_gain_softplus": True, "softplus_scale": 2.5}]
PARTS = [{}, {"no_gains": True}, {"no_shifts": True}]


@pytest.mark.parametrize(("gains", "parts"), [(a, b) for a in GAINS for b in PARTS])
@pytest.mark.parametrize(
    ("features", "x_shape"), [(4, (5, 4)), ((4, 1, 1), (5, 4, 3, 2)), ((1, 4, 1, 1), (5, 4, 3, 2))]
)
def test_modulation(gains, parts, features, x_shape):
    options = gains | parts
    layer = ContextModLayer(features, **options).double()
    x = randn(*x_shape)
    new = [randn(*shape, seed=at) for at, shape in enumerate(layer.param_shapes)]
    with torch.no_grad():
        for own, value in zip(layer.weights, new, strict=True):
            own.copy_(value)
    named = dict(zip(layer.param_shapes_meta, new, strict=True))
    y = x.clone()
    for index in itertools.product(*map(range, x_shape)):
        c = index[1]
        if "gain" in named:
            y[index] = y[index] * gain_of(named["gain"].flatten()[c], options)
        if "shift" in named:
            y[index] = y[index] + named["shift"].flatten()[c]
    torch.testing.assert_close(layer(x), y)
    outside = ContextModLayer(features, no_weights=True, **options)
    torch.testing.assert_close(outside(x, weights=new), y)
    free = [w.requires_grad_() for w in new]
    assert torch.autograd.gradcheck(lambda x, *w: outside(x, weights=list(w)), [x.requires_grad_(), *free])


@pytest.mark.parametrize("options", GAINS)
@pytest.mark.parametrize(
    ("features", "per_sample", "x_shape", "bs_dim"),
    [
        ((4,), (5, 4), (5, 4), 0),
        ((4,), (5, 4), (5, 7, 4), 0),
        ((4,), (5, 4), (7, 5, 4), 1),
        ((4,), (5, 4), (7, 5, 4), -2),
        ((4,), (4, 4), (4, 4), 0),
        ((4, 1, 1), (5, 4, 1, 1), (5, 4, 3, 2), 0),
        ((1, 4, 1, 1), (5, 4, 1, 1), (5, 4, 3, 2), 0),
        ((4, 3, 2), (5, 4, 3, 2), (5, 4, 3, 2), 0),
        ((4, 1, 1), (5, 4, 1, 1), (6, 5, 4, 3, 2), 1),
        ((1, 1, 4), (1, 5, 4), (7, 5, 4), 1),
    ],
)
def test_a_set_of_weights_a_sample_is_a_loop_over_samples(features, per_sample, x_shape, bs_dim, options):
    layer = ContextModLayer(features, **options).double()
    x = randn(*x_shape)
    weights = [randn(*per_sample, seed=1), randn(*per_sample, seed=2)]
    dim = per_sample.index(5) if 5 in per_sample else 0
    rows = []
    for n in range(x_shape[bs_dim]):
        one = [w.select(dim, n).reshape(features) for w in weights]
        rows.append(layer(x.select(bs_dim, n).unsqueeze(bs_dim if bs_dim >= 0 else 1), weights=one, bs_dim=bs_dim))
    torch.testing.assert_close(layer(x, weights=weights, bs_dim=bs_dim), torch.cat(rows, bs_dim))


def test_time_series_modulate_each_sample_alike_at_every_step():
    x = randn(6, 5, 4)
    gain, shift = randn(5, 4, seed=1), randn(5, 4, seed=2)
    y = ContextModLayer(4, no_weights=True)(x, weights=[gain, shift], bs_dim=1)
    torch.testing.assert_close(y, torch.einsum("tnd,nd->tnd", x, gain) + shift.expand(6, 5, 4))


@pytest.mark.parametrize("options", [a | b for a in GAINS for b in PARTS])
def test_checkpoints(options):
    layer = ContextModLayer(3, **options).double()
    x = randn(4, 3)
    start = layer(x)
    if not options.get("apply_gain_softplus"):
        torch.testing.assert_close(start, x)
    for at in range(2):
        layer.normal_init()
        modulated = layer(x)
        assert not torch.allclose(modulated, start)
        layer.checkpoint_weights(no_reinit=at == 1)
        torch.testing.assert_close(layer(x, ckpt_id=at), modulated)
        torch.testing.assert_close(layer(x), modulated if at == 1 else start)
    assert layer.num_ckpts == 2
    assert all(a is b for a, b in zip(layer.get_weights(2), layer.get_weights(), strict=True))
    assert len(list(layer.parameters())) == len(layer.param_shapes)
    given = [randn(3, seed=8) for _ in layer.param_shapes]
    torch.testing.assert_close(layer(x, weights=given, ckpt_id=55), layer(x, weights=given))

    fresh = nn.Sequential(ContextModLayer(3, **options).double())
    fresh.load_state_dict({f"0.{name}": tensor for name, tensor in layer.state_dict().items()})
    assert fresh[0].num_ckpts == 2
    torch.testing.assert_close(fresh[0].state_dict(), layer.state_dict())
    fresh[0].load_state_dict(ContextModLayer(3, **options).double().state_dict())
    assert fresh[0].num_ckpts == 0


def test_a_checkpoint_is_a_copy():
    layer = ContextModLayer(3)
    layer.checkpoint_weights(no_reinit=True)
    with torch.no_grad():
        layer.gain += 5
    torch.testing.assert_close(layer.get_weights(0)[0], torch.ones(3))
    assert not layer.get_weights(0)[0].requires_grad


@pytest.mark.parametrize("options", GAINS)
def test_initialisation(options):
    torch.manual_seed(0)
    layer = ContextModLayer(4000, **options)
    centre = 0.0 if options.get("apply_gain_offset") else 1.0
    layer.normal_init(0.3)
    for weight, mean in zip(layer.weights, (centre, 0.0), strict=True):
        assert stats.kstest(weight.detach().numpy(), stats.norm(mean, 0.3).cdf).pvalue > 1e-3
    layer.uniform_init(0.5)
    for weight, mean in zip(layer.weights, (centre, 0.0), strict=True):
        assert stats.kstest(weight.detach().numpy(), stats.uniform(mean - 0.5, 1.0).cdf).pvalue > 1e-3
        # A wrong centre is rejected.
        assert stats.kstest(weight.detach().numpy(), stats.uniform(mean - 0.4, 1.0).cdf).pvalue < 1e-6
    layer.sparse_init(0.3)
    assert (layer.gain == centre - 1).sum() == 1200
    assert (layer.gain == centre).sum() == 2800
    assert not layer.shift.any()
    layer.sparse_init(0.3)
    first = layer.gain.detach().clone()
    layer.sparse_init(0.3)
    assert not torch.equal(first, layer.gain)
    layer.uniform_init(0)
    assert (layer.gain == centre).all()


def test_sparse_initialisation_of_a_shape():
    layer = ContextModLayer((2, 5, 5))
    layer.sparse_init(0.5)
    assert layer.gain.sum() == 25


def test_vmap_over_weights_equals_a_loop():
    layer = ContextModLayer((3, 1, 1), apply_gain_softplus=True).double()
    x = randn(4, 3, 2, 2)
    weights = {"gain": randn(6, 3, 1, 1, seed=1), "shift": randn(6, 3, 1, 1, seed=2)}

    def loss(own):
        return functional_call(layer, own, (x,)).square().sum()

    batched = vmap(grad(loss))(weights)
    for k in range(6):
        one = grad(loss)({name: tensor[k] for name, tensor in weights.items()})
        torch.testing.assert_close({name: tensor[k] for name, tensor in batched.items()}, one)
    samples = randn(6, 4, 3, 1, 1, seed=3)
    outputs = vmap(lambda gain, shift: layer(x, weights=[gain, shift]))(samples, samples)
    torch.testing.assert_close(outputs[2], layer(x, weights=[samples[2], samples[2]]))


def test_properties():
    layer = ContextModLayer((3, 1), no_shifts=True, apply_gain_offset=True)
    assert (layer.has_gains, layer.has_shifts) == (True, False)
    assert (layer.gain_offset_applied, layer.gain_softplus_applied) == (True, False)
    assert layer.param_shapes == [[3, 1]]
    assert layer.param_shapes_meta == ["gain"]
    assert layer.get_weights()[1] is None
    outside = ContextModLayer(3, no_weights=True)
    assert outside.weights is None
    assert outside.param_shapes == [[3], [3]]


def weights(*shapes):
    return [torch.ones(shape) for shape in shapes]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ContextModLayer(3, no_gains=True, no_shifts=True), "gains or shifts"),
        (lambda: ContextModLayer(3, apply_gain_offset=True, apply_gain_softplus=True), "offset or sent"),
        (lambda: ContextModLayer(0), "num_features must be at least 1"),
        (lambda: ContextModLayer(()), "at least one size"),
        (lambda: ContextModLayer(3, softplus_scale=0), "softplus_scale"),
        (lambda: ContextModLayer(3, softplus_scale=float("inf")), "softplus_scale"),
        (lambda: ContextModLayer(3, no_weights=True)(torch.ones(2, 3)), "weights must be given"),
        (lambda: ContextModLayer(3, no_weights=True).checkpoint_weights(), "nothing to checkpoint"),
        (lambda: ContextModLayer(3, no_weights=True).normal_init(), "nothing to initialise"),
        (lambda: ContextModLayer(3).normal_init(-1), "std"),
        (lambda: ContextModLayer(3).uniform_init(float("nan")), "width"),
        (lambda: ContextModLayer(3).sparse_init(1.1), "sparsity must lie in 0..1"),
        (lambda: ContextModLayer(3).get_weights(1), r"ckpt_id must lie in 0\.\.0"),
        (lambda: ContextModLayer(3).get_weights(-1), "ckpt_id must be at least 0"),
        (lambda: ContextModLayer(3)(torch.ones(2, 4)), "must broadcast over x without changing its shape"),
        (lambda: ContextModLayer((3, 1, 1))(torch.ones(2, 3)), "must broadcast over x"),
        (lambda: ContextModLayer((3, 1))(torch.ones(3)), "must broadcast over x"),
        (lambda: ContextModLayer(3)(torch.ones(2, 1)), "must broadcast over x"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=weights(3)), "list of gain and shift"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=torch.ones(2, 3)), "list of gain and shift"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=weights(3, 4)), "the shift must have shape"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=weights((5, 3), (5, 3))), "the gain must have shape"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=[1, 2]), "floating-point tensor"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), bs_dim=2), "bs_dim must be a dimension"),
        (lambda: ContextModLayer(3)(torch.ones(2, 3), weights=weights((3, 3), (3, 3)), bs_dim=1), "after its samples'"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types():
    with pytest.raises(TypeError, match="x must be a tensor"):
        ContextModLayer(3)([1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="num_features must be an integer"):
        ContextModLayer("3")
