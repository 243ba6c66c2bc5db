"""LocalConv2dLayer: a convolution whose filters differ from pixel to pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_floating, check_tensors, describe
from hnbayes.layers.stored_sets import drop_leftovers

Pair = int | Sequence[int]


class LocalConv2dLayer(nn.Module):
    r"""A locally connected layer: a 2-d convolution without shared weights.

    \[G^{(j)}_{yx} = B^{(j)}_{yx} + \sum_i \langle W^{(i, j)}_{yx}, \hat F^{(i)}(y, x) \rangle_F\]

    where \(\hat F^{(i)}(y, x)\) is the receptive field of output pixel (y, x) in input channel i. Filters have shape
    (C_out, C_in K_h K_w, H W), biases (C_out, H W); output pixel (y, x) is their column y W + x, as of
    `torch.nn.functional.unfold`. The layer works under `torch.func.vmap` over its weights.

    The product is one batched matrix product over pixels: besides filters and fields, copied so that pixels come
    first, nothing larger than the output is made.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        in_height: height of the inputs, before padding.
        in_width: width of the inputs, before padding.
        kernel_size: K, or (K_h, K_w).
        stride: a number, or (vertical, horizontal).
        padding: zeros added on both sides: a number, or (vertical, horizontal).
        bias: whether there are biases.
        no_weights: whether all weights come from outside.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is out of range, or the kernel is larger than the padded input.

    Example:
        >>> layer = hnbayes.layers.LocalConv2dLayer(3, 8, in_height=10, in_width=10, kernel_size=3, stride=2)
        >>> layer(torch.randn(5, 3, 10, 10)).shape
        torch.Size([5, 8, 4, 4])
        >>> [tuple(w.shape) for w in layer.parameters()]  # a filter of its own for each of 4 x 4 pixels
        [(8, 27, 16), (8, 16)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_height: int,
        in_width: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        bias: bool = True,
        no_weights: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        self.in_height = check_count("in_height", in_height)
        self.in_width = check_count("in_width", in_width)
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.stride = _pair("stride", stride)
        self.padding = _pair("padding", padding, minimum=0)
        self.has_bias = bias
        padded = [n + 2 * p for n, p in zip((self.in_height, self.in_width), self.padding, strict=True)]
        if any(k > n for k, n in zip(self.kernel_size, padded, strict=True)):
            raise ValueError(
                f"kernel_size must fit into the padded input, {padded[0]} x {padded[1]}; received {self.kernel_size}."
            )
        self._out_height, self._out_width = (
            (n - k) // s + 1 for n, k, s in zip(padded, self.kernel_size, self.stride, strict=True)
        )
        self.filters: Tensor | None
        self.bias: Tensor | None
        shapes: list[list[int] | None] = [*self.param_shapes] if not no_weights else [None]
        for name, shape in zip(("filters", "bias"), [*shapes, None], strict=False):
            self.register_parameter(name, None if shape is None else nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the layer's own weights as a `torch.nn.Conv2d` does: from U(-a, a), a = 1 / sqrt(C_in K_h K_w)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        for weight in (self.filters, self.bias):
            if weight is not None:
                weight.uniform_(-bound, bound)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        size = f"{self.in_channels} x {self.in_height} x {self.in_width}"
        return f"{size} -> {self.out_channels} x {self.out_height} x {self.out_width}, kernel_size={self.kernel_size}"

    @property
    def weights(self) -> nn.ParameterList | None:
        """Filters and, where there are any, biases; None where all come from outside."""
        return None if self.filters is None else nn.ParameterList(w for w in (self.filters, self.bias) if w is not None)

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of filters and, where there are any, biases, wherever they come from."""
        pixels = self.out_height * self.out_width
        shapes = [[self.out_channels, self.in_channels * math.prod(self.kernel_size), pixels]]
        return [*shapes, [self.out_channels, pixels]] if self.has_bias else shapes

    @property
    def out_height(self) -> int:
        """Height of the output, H."""
        return self._out_height

    @property
    def out_width(self) -> int:
        """Width of the output, W."""
        return self._out_width

    def forward(self, x: Tensor, weights: Sequence[Tensor] | nn.ParameterList | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: images (N, C_in, H_in, W_in).
            weights: weights to use instead of the layer's own, as `param_shapes` says.

        Returns:
            Feature maps (N, C_out, H, W).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if weights are missing, or shapes don't fit.
        """
        expected = (self.in_channels, self.in_height, self.in_width)
        check_floating("x", x)
        if x.ndim != 4 or x.shape[1:] != expected or len(x) == 0:
            raise ValueError(f"x must have shape {('N', *expected)}, N at least 1; received {describe(x)}.")
        filters, bias = self._chosen(weights)
        (K_h, K_w), (s_h, s_w), (p_h, p_w) = self.kernel_size, self.stride, self.padding
        N, H, W = len(x), self.out_height, self.out_width

        # F.unfold, unlike Tensor.unfold, has a batching rule for its gradient, which sampling all chains at once needs.
        fields = nn.functional.unfold(x, (K_h, K_w), padding=(p_h, p_w), stride=(s_h, s_w)).permute(2, 0, 1)
        by_pixel = filters.permute(2, 1, 0)
        offset = None if bias is None else bias.mT.unsqueeze(1)
        output = torch.bmm(fields, by_pixel) if offset is None else torch.baddbmm(offset, fields, by_pixel)
        return output.permute(1, 2, 0).reshape(N, self.out_channels, H, W)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        drop_leftovers(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _chosen(self, weights: Sequence[Tensor] | nn.ParameterList | None) -> tuple[Tensor, Tensor | None]:
        if weights is None:
            if self.filters is None:
                raise ValueError("weights must be given to a layer built with no_weights=True; received none.")
            return self.filters, self.bias
        given = check_tensors("weights", weights, self.param_shapes)
        return given[0], given[1] if self.has_bias else None


def _pair(name: str, value: Pair, minimum: int = 1) -> tuple[int, int]:
    sizes = value if isinstance(value, (tuple, list)) else (value, value)
    if len(sizes) != 2:
        raise ValueError(f"{name} must be one integer or two; received {describe(value)}.")
    first, second = (check_count(name, size, minimum) for size in sizes)
    return first, second
