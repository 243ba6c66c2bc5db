"""LocalConv2dLayer against six nested loops, against torch's convolution, and its memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hnbayes.layers import LocalConv2dLayer

SHAPES = {
    "square": ((2, 3, 5, 5, 3), {}),
    "strided and padded": ((2, 3, 5, 6, 3), {"stride": 2, "padding": 1}),
    "all different": ((2, 2, 5, 6, (2, 3)), {"stride": (2, 1), "padding": (0, 2)}),
    "one output pixel": ((3, 2, 4, 4, 4), {}),
    "one pixel in all": ((1, 1, 1, 1, 1), {}),
    "without bias": ((2, 2, 4, 3, 2), {"bias": False}),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(layer, x, filters, bias):
    """The documented formula: each output pixel has its own filter, column y * W + x."""
    (K_h, K_w), (s_h, s_w), (p_h, p_w) = layer.kernel_size, layer.stride, layer.padding
    padded = nn.functional.pad(x, (p_w, p_w, p_h, p_h))
    H, W = layer.out_height, layer.out_width
    output = torch.zeros(len(x), layer.out_channels, H, W, dtype=x.dtype)
    for n, j, y, c in itertools.product(range(len(x)), range(layer.out_channels), range(H), range(W)):
        value = 0.0 if bias is None else bias[j, y * W + c]
        for i, k_h, k_w in itertools.product(range(layer.in_channels), range(K_h), range(K_w)):
            weight = filters[j, (i * K_h + k_h) * K_w + k_w, y * W + c]
            value = value + weight * padded[n, i, y * s_h + k_h, c * s_w + k_w]
        output[n, j, y, c] = value
    return output


@pytest.mark.parametrize(("sizes", "options"), SHAPES.values(), ids=SHAPES.keys())
def test_forward_and_gradient_are_those_of_the_loops(sizes, options):
    layer = LocalConv2dLayer(*sizes, **options).double()
    x = randn(2, sizes[0], sizes[2], sizes[3])
    weights = [w.detach().clone() for w in layer.weights]
    expected = loops(layer, x, weights[0], weights[1] if layer.has_bias else None)
    torch.testing.assert_close(layer(x), expected)
    outside = LocalConv2dLayer(*sizes, **options, no_weights=True)
    assert outside.weights is None
    torch.testing.assert_close(outside(x, weights=weights), expected)

    free = [x.clone().requires_grad_(), *(w.clone().requires_grad_() for w in weights)]
    probe = randn(*expected.shape, seed=3)
    ours = torch.autograd.grad((outside(free[0], weights=free[1:]) * probe).sum(), free)
    looped = loops(layer, free[0], free[1], free[2] if layer.has_bias else None)
    torch.testing.assert_close(ours, torch.autograd.grad((looped * probe).sum(), free))


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), ((1, 2), (2, 0))])
def test_filters_alike_everywhere_are_a_convolution(stride, padding):
    conv = nn.Conv2d(3, 4, (3, 2), stride=stride, padding=padding).double()
    layer = LocalConv2dLayer(3, 4, 7, 6, (3, 2), stride=stride, padding=padding).double()
    x = randn(5, 3, 7, 6)
    pixels = layer.out_height * layer.out_width
    weights = [
        conv.weight.reshape(4, -1, 1).expand(-1, -1, pixels).contiguous(),
        conv.bias[:, None].expand(-1, pixels).contiguous(),
    ]
    assert conv(x).shape[2:] == (layer.out_height, layer.out_width)
    torch.testing.assert_close(layer(x, weights=weights), conv(x))


def test_vmap_over_weights_equals_a_loop():
    layer = LocalConv2dLayer(2, 3, 4, 4, 3, padding=1).double()
    x = randn(3, 2, 4, 4)
    own = {name: torch.stack([p.detach() * k for k in range(1, 5)]) for name, p in layer.named_parameters()}

    def loss(weights):
        return functional_call(layer, weights, (x,)).square().sum()

    batched = vmap(grad(loss))(own)
    for k in range(4):
        one = grad(loss)({name: tensor[k] for name, tensor in own.items()})
        torch.testing.assert_close({name: tensor[k] for name, tensor in batched.items()}, one)


def test_peak_memory_is_far_from_the_broadcast_product():
    """What torch's allocator hands out during a forward pass, measured by its profiler."""
    N, C, size, K = 16, 8, 12, 3
    layer = LocalConv2dLayer(C, C, size, size, K, padding=1)
    x = torch.randn(N, C, size, size)

    def broadcast(x):
        fields = nn.functional.unfold(x, K, padding=1)
        return (fields.unsqueeze(1) * layer.filters).sum(2)

    unfolded = N * C * K * K * size * size
    arrays = [x.numel(), unfolded, layer.filters.numel(), layer.bias.numel(), N * C * size * size]
    budget = 1.5 * 4 * sum(arrays)
    held = 4 * (x.numel() + layer.filters.numel() + layer.bias.numel())
    assert held + peak_bytes(lambda: layer(x)) < budget
    assert held + peak_bytes(lambda: broadcast(x)) > 3 * budget


def peak_bytes(function):
    """The most memory that was allocated at once by a call, above what was there before."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        function()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert peak > 0
    return peak


def test_initial_weights_and_shapes():
    torch.manual_seed(0)
    layer = LocalConv2dLayer(3, 4, 6, 5, 3)
    assert layer.param_shapes == [[4, 27, 12], [4, 12]]
    assert (layer.out_height, layer.out_width) == (4, 3)
    conv = nn.Conv2d(3, 400, 3)
    assert layer.filters.std().item() == pytest.approx(conv.weight.std().item(), rel=0.05)
    assert layer.filters.abs().max().item() <= 27**-0.5
    assert LocalConv2dLayer(3, 4, 6, 5, 3, bias=False).param_shapes == [[4, 27, 12]]
    assert LocalConv2dLayer(3, 4, 6, 5, 3, no_weights=True).param_shapes == layer.param_shapes


def test_state_dict_round_trip_and_that_of_earlier_implementations():
    layer = LocalConv2dLayer(2, 3, 4, 4, 3)
    stored = layer.state_dict()
    fresh = LocalConv2dLayer(2, 3, 4, 4, 3)
    fresh.load_state_dict(dict(stored, **{"_weights.0": stored["filters"], "_weights.1": stored["bias"]}))
    torch.testing.assert_close(fresh.state_dict(), stored)


SMALL = LocalConv2dLayer(2, 3, 4, 4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LocalConv2dLayer(0, 1, 4, 4, 3), ValueError, "in_channels must be at least 1"),
        (lambda: LocalConv2dLayer(1, 1.0, 4, 4, 3), TypeError, "out_channels must be an integer"),
        (lambda: LocalConv2dLayer(1, 1, 4, 4, 5), ValueError, "kernel_size must fit into the padded input, 4 x 4"),
        (lambda: LocalConv2dLayer(1, 1, 4, 4, (2, 2, 2)), ValueError, "one integer or two"),
        (lambda: LocalConv2dLayer(1, 1, 4, 4, 3, stride=0), ValueError, "stride must be at least 1"),
        (lambda: LocalConv2dLayer(1, 1, 4, 4, 3, padding=-1), ValueError, "padding must be at least 0"),
        (lambda: SMALL(torch.ones(1, 2, 4, 5)), ValueError, "x must have shape"),
        (lambda: SMALL(torch.ones(2, 4, 4)), ValueError, "x must have shape"),
        (lambda: SMALL(torch.ones(0, 2, 4, 4)), ValueError, "N at least 1"),
        (lambda: SMALL(torch.ones(1, 2, 4, 4, dtype=torch.int)), TypeError, "floating-point"),
        (lambda: SMALL(torch.ones(1, 2, 4, 4), weights=[SMALL.filters]), ValueError, "list of 2 tensors"),
        (
            lambda: SMALL(torch.ones(1, 2, 4, 4), weights=[SMALL.filters, SMALL.filters]),
            ValueError,
            "weights must have the shapes",
        ),
        (
            lambda: LocalConv2dLayer(2, 3, 4, 4, 3, no_weights=True)(torch.ones(1, 2, 4, 4)),
            ValueError,
            "weights must be given",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
