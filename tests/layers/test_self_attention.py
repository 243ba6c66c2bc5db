"""Self-attention against einsum, torch's convolutions and its spectral norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hnbayes.layers import SelfAttnLayer, SelfAttnLayerV2


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_einsum(x, weights, spectral):
    """Equations 1 to 4 of Zhang et al. (2018), with the convolutions torch's own."""
    kernels = list(weights)
    if spectral:
        for at in (0, 2, 4):
            flat = weights[at].detach().flatten(1)
            u, _, v = torch.linalg.svd(flat)
            # Miyato et al. (2018): the vectors are constants, sigma = u^T W v has a gradient.
            kernels[at] = weights[at] / (u[:, 0] @ weights[at].flatten(1) @ v[0])
    f, g, h = (nn.functional.conv2d(x, kernels[at], kernels[at + 1]).flatten(2) for at in (0, 2, 4))
    attention = torch.einsum("bcn,bcm->bnm", f, g).softmax(2)
    return kernels[6] * torch.einsum("bnm,bcm->bcn", attention, h).reshape(x.shape) + x, attention


def weights_for(channels, seed=0):
    shapes = SelfAttnLayerV2(channels, False).weight_shapes
    return [randn(*shape, seed=seed + at) * 0.5 for at, shape in enumerate(shapes)]


def as_first_version(weights, spectral):
    layer = SelfAttnLayer(weights[4].shape[0], spectral).double()
    names = [f"{name}_conv.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")]
    layer.load_state_dict(dict(zip([*names, "gamma"], weights, strict=True)))
    return layer


@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_gradient(channels, spectral, training):
    x = randn(2, channels, 3, 4).requires_grad_()
    weights = [w.requires_grad_() for w in weights_for(channels)]
    expected, attention = by_einsum(x, weights, spectral)
    probe = randn(*x.shape, seed=9)
    gradients = torch.autograd.grad((expected * probe).sum(), [x, *weights])

    first = as_first_version([w.detach() for w in weights], spectral).train(training)
    second = SelfAttnLayerV2(channels, spectral, init_weights=weights).train(training)
    outside = SelfAttnLayerV2(channels, spectral, no_weights=True).train(training)
    for layer, kwargs in ((first, {}), (second, {}), (outside, {"weights": weights})):
        y = layer(x, **kwargs)
        torch.testing.assert_close(y, expected)
        with_map, found = layer(x, ret_attention=True, **kwargs)
        torch.testing.assert_close(with_map, expected)
        torch.testing.assert_close(found, attention)
        torch.testing.assert_close(found.sum(-1), torch.ones(2, 12).double())
    for y in (outside(x, weights=weights), outside(x, True, weights)[0]):
        torch.testing.assert_close(torch.autograd.grad((y * probe).sum(), [x, *weights], retain_graph=True), gradients)


def test_spectral_norm_is_what_torchs_power_iteration_converges_to():
    weights = weights_for(16)
    x = randn(2, 16, 3, 3)
    reference = [nn.Conv2d(16, w.shape[0], 1).double() for w in weights[0:6:2]]
    for conv, kernel, bias in zip(reference, weights[0:6:2], weights[1:6:2], strict=True):
        conv.load_state_dict({"weight": kernel, "bias": bias})
        nn.utils.spectral_norm(conv, n_power_iterations=500)
        conv(x)
    normalised = [tensor for conv in reference for tensor in (conv.weight.detach(), conv.bias)]
    expected, _ = by_einsum(x, [*normalised, weights[6]], spectral=False)
    torch.testing.assert_close(as_first_version(weights, True)(x), expected)


def test_state_of_torchs_spectral_norm_loads():
    stored = dict(SelfAttnLayer(16, True).state_dict())
    for name in ("query", "key", "value"):
        kernel = stored.pop(f"{name}_conv.weight")
        stored |= {f"{name}_conv.weight_orig": kernel + 1, f"{name}_conv.weight_u": kernel[:, 0, 0, 0]}
        stored[f"{name}_conv.weight_v"] = kernel[0, :, 0, 0]
    layer = SelfAttnLayer(16, True)
    layer.load_state_dict(stored)
    torch.testing.assert_close(layer.key_conv.weight.detach(), stored["key_conv.weight_orig"])


def test_a_new_layer_is_the_identity():
    x = torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(SelfAttnLayer(16, False)(x), x)
    torch.testing.assert_close(SelfAttnLayerV2(16, True)(x), x)


def test_changes_are_added_to_either_kind_of_weights():
    x = randn(2, 8, 2, 2)
    weights, changes, other = weights_for(8), weights_for(8, seed=50), weights_for(8, seed=90)
    layer = SelfAttnLayerV2(8, False, init_weights=weights)
    total = [w + d for w, d in zip(weights, changes, strict=True)]
    torch.testing.assert_close(layer(x, dWeights=changes), by_einsum(x, total, False)[0])
    total = [w + d for w, d in zip(other, changes, strict=True)]
    torch.testing.assert_close(layer(x, weights=other, dWeights=changes), by_einsum(x, total, False)[0])


def test_initial_weights_are_copies():
    weights = weights_for(8)
    layer = SelfAttnLayerV2(8, False, init_weights=weights)
    weights[0].add_(1)
    torch.testing.assert_close(layer.weights[0].detach() + 1, weights[0])


@pytest.mark.parametrize("spectral", [True, False])
def test_vmap_over_weights_equals_a_loop(spectral):
    layer = as_first_version(weights_for(8), spectral)
    x = randn(3, 8, 2, 2)
    own = {name: torch.stack([p.detach() * k for k in (1, 2, 3)]) for name, p in layer.named_parameters()}

    def loss(weights):
        return functional_call(layer, weights, (x,)).square().sum()

    batched = vmap(grad(loss))(own)
    for k in range(3):
        one = grad(loss)({name: tensor[k] for name, tensor in own.items()})
        torch.testing.assert_close({name: tensor[k] for name, tensor in batched.items()}, one)


def test_shapes():
    assert SelfAttnLayerV2(16, False).weight_shapes == [[2, 16, 1, 1], [2]] * 2 + [[16, 16, 1, 1], [16], [1]]
    assert SelfAttnLayerV2(3, False).weight_shapes[0] == [1, 3, 1, 1]
    assert SelfAttnLayerV2(16, False, no_weights=True).weights is None
    assert [list(w.shape) for w in SelfAttnLayerV2(9, True).weights] == SelfAttnLayerV2(9, True).weight_shapes


V2 = SelfAttnLayerV2(8, False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SelfAttnLayer(0, False), ValueError, "in_dim must be at least 1"),
        (lambda: SelfAttnLayerV2(1.5, False), TypeError, "in_dim must be an integer"),
        (lambda: SelfAttnLayer(8, False)(torch.ones(1, 7, 2, 2)), ValueError, r"x must have shape \(B, 8, W, H\)"),
        (lambda: V2(torch.ones(8, 2, 2)), ValueError, "x must have shape"),
        (lambda: V2(torch.ones(0, 8, 2, 2)), ValueError, "not be empty"),
        (lambda: V2(torch.ones(1, 8, 2, 2, dtype=torch.int)), TypeError, "floating-point"),
        (lambda: V2(torch.ones(1, 8, 2, 2), weights=[]), ValueError, "weights must be a list of 7 tensors"),
        (lambda: V2(torch.ones(1, 8, 2, 2), dWeights=weights_for(16)), ValueError, "dWeights must have the shapes"),
        (lambda: SelfAttnLayerV2(8, False, init_weights=[1] * 7), ValueError, "init_weights must have the shapes"),
        (lambda: SelfAttnLayerV2(8, False, True, weights_for(8)), ValueError, "initial weights or none"),
        (
            lambda: SelfAttnLayerV2(8, False, no_weights=True)(torch.ones(1, 8, 2, 2)),
            ValueError,
            "weights must be given",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
