"""DeconvGenerator: transposed convolutions that draw an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.layers import SelfAttnLayerV2
from hnbayes.mnets.bookkeeping import Entry, ParamBook, Weights
from hnbayes.mnets.layered import LayeredNet, LayerPlan, check_vectors
from hnbayes.mnets.mlp import Activation
from hnbayes.mnets.options import BatchNormOptions

SMALLEST = 4
LAST_FILTERS = 128

Size = tuple[int, int]


@dataclass(frozen=True)
class Deconv:
    """One transposed convolution: sizes before and after, kernel."""

    before: Size
    after: Size
    kernel: Size

    @property
    def stride(self) -> Size:
        """2 where the size changes."""
        return tuple(1 if a == b else 2 for b, a in zip(self.before, self.after, strict=True))  # type: ignore[return-value]

    def apply(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The transposed convolution of h, centred, with outputs of exactly the size `after`."""
        excess = [
            (n - 1) * s + k - m for n, s, k, m in zip(self.before, self.stride, self.kernel, self.after, strict=True)
        ]
        padding = [max(e, 0) // 2 for e in excess]
        extra = [max(-e, 0) for e in excess]
        h = nn.functional.conv_transpose2d(h, weight, bias, self.stride, padding, extra)
        return h[:, :, : self.after[0], : self.after[1]]


class DeconvGenerator(LayeredNet):
    """A fully connected layer, then transposed convolutions that double the size, as DCGAN's (Radford et al. 2016).

    Where sizes are small a convolution leaves them: nothing is doubled that is smaller than 4. Between layers come
    batch normalisation, activation and self-attention; outputs are linear. The parameters come in the order: gains and
    offsets of batch normalisation, layers, self-attention.

    Args:
        n_in: number of inputs.
        shape: width, height and channels of the image; its pixels are the outputs.
        num_layers: layers, the fully connected one among them.
        num_filters: channels after each layer but the last; None takes 128 at the end and twice as many before each.
        kernels: kernel size of each transposed convolution.
        attention: layers, from 0, that self-attention follows.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        no_weights: whether all weights come from outside.
        use_batch_norm: normalise the hidden layers.
        spectral: divide each weight by its largest singular value.
    """

    def __init__(
        self,
        n_in: int,
        shape: Sequence[int],
        num_layers: int,
        num_filters: Sequence[int] | None,
        kernels: Any,
        attention: Sequence[int],
        activation_fn: Activation,
        use_bias: bool,
        no_weights: bool,
        use_batch_norm: bool,
        spectral: bool,
    ) -> None:
        size, channels = image_size(shape)
        count = check_count("num_layers", num_layers, 2) - 1
        filters = _filters(num_filters, count)
        deconvs = plan_deconvs(size, _kernels(kernels, count))
        first = deconvs[0].before
        units = filters[0] * math.prod(first)
        plans = [LayerPlan("fc", (units, n_in), (units,) if use_bias else None, norm=filters[0])]
        for i, (before, after) in enumerate(zip(filters, [*filters[1:], channels], strict=True)):
            plans.append(
                LayerPlan(
                    f"deconv{i}",
                    (before, after, *deconvs[i].kernel),
                    (after,) if use_bias else None,
                    norm=after if i < count - 1 else None,
                )
            )
        super().__init__(plans, no_weights=no_weights, norm=BatchNormOptions(use_batch_norm), spectral=spectral)
        self._has_fc_out = self._mask_fc_out = False
        self._n_in, self._first = n_in, (filters[0], *first)
        self._deconvs = deconvs
        self._activation = activation_fn
        at = sorted({_check_attention(i, count) for i in attention})
        self._attention_at = {("fc", *(f"deconv{i}" for i in range(count)))[layer]: i for i, layer in enumerate(at)}
        self._attention = nn.ModuleList(
            SelfAttnLayerV2(filters[layer], spectral, no_weights=no_weights) for layer in at
        )
        self._with_attention()

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Tensor:
        """Draw images.

        Args:
            x: inputs (N, n_in).
            weights: see `MainNetInterface.forward`.
            distilled_params: must be None.
            condition: the statistics to use.

        Returns:
            Pixels (N, width * height * channels), flattened images of shape (channels, width, height).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        x = check_vectors(x, self._n_in)
        tensors = self._book.tensors(weights)
        own = len(tensors) - self._attention_count()
        chosen = self._sort(tensors[:own], weights, distilled_params, condition)
        attention = tensors[own:]
        h = nn.functional.linear(x, *chosen.layers["fc"]).reshape(-1, *self._first)
        h = self._hidden("fc", h, chosen, attention)
        for i, deconv in enumerate(self._deconvs):
            h = deconv.apply(h, *chosen.layers[f"deconv{i}"])
            h = self._hidden(f"deconv{i}", h, chosen, attention) if i < len(self._deconvs) - 1 else h
        return h.flatten(1)

    def _hidden(self, name: str, h: Tensor, tensors: Any, attention: Sequence[Tensor]) -> Tensor:
        h = self._normalise(name, h, tensors)
        h = h if self._activation is None else self._activation(h)
        if name in self._attention_at:
            at = self._attention_at[name]
            layer = cast(SelfAttnLayerV2, self._attention[at])
            each = len(layer.weight_shapes)
            output: Tensor = layer(h, weights=list(attention[at * each : (at + 1) * each]))
            return output
        return h

    def _attention_count(self) -> int:
        return sum(len(cast(SelfAttnLayerV2, layer).weight_shapes) for layer in self._attention)

    def _with_attention(self) -> None:
        """Put the weights of self-attention into the book, behind the layers."""
        entries = list(self._book.entries)
        for number, module in enumerate(self._attention, start=len(entries)):
            layer = cast(SelfAttnLayerV2, module)
            owner = layer.weights if layer.weights is not None else _Outside(len(layer.weight_shapes))
            kinds = ["weight", "bias"] * 3 + [None]
            for i, (shape, kind) in enumerate(zip(layer.weight_shapes, kinds, strict=True)):
                entries.append(Entry(tuple(shape), kind, number, owner, str(i), {"info": "self-attention"}))
        self._book = ParamBook(entries, {"internal_weights": range(len(entries)), "mod_weights": ()})


class _Outside(nn.Module):
    """Places of tensors that come from outside."""

    def __init__(self, count: int) -> None:
        super().__init__()
        for i in range(count):
            self.register_parameter(str(i), None)


def image_size(shape: Sequence[int]) -> tuple[Size, int]:
    """Width, height and channels of an image given as (width, height) or (width, height, channels).

    Raises:
        TypeError: if one is not an integer.
        ValueError: if there are not two or three, or one is below 1.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"hyper_img_shape must be (width, height) or with channels; received {tuple(shape)}.")
    width, height, channels = (check_count("each entry of hyper_img_shape", n) for n in (*shape, 1)[:3])
    return (width, height), channels


def plan_deconvs(size: Size, kernels: Sequence[Size]) -> list[Deconv]:
    """The transposed convolutions that end in an image of this size, each from half its size, but not below 4."""
    deconvs: list[Deconv] = []
    for kernel in reversed(kernels):
        before = tuple(half if (half := -(-n // 2)) >= SMALLEST else n for n in size)
        deconvs.insert(0, Deconv((before[0], before[1]), size, kernel))
        size = (before[0], before[1])
    return deconvs


def _filters(num_filters: Sequence[int] | None, count: int) -> list[int]:
    if num_filters is None:
        return [LAST_FILTERS * 2**i for i in reversed(range(count))]
    if len(num_filters) != count:
        raise ValueError(f"num_filters must be {count} numbers, one fewer than layers; received {len(num_filters)}.")
    return [check_count("each entry of num_filters", n) for n in num_filters]


def _kernels(kernels: Any, count: int) -> list[Size]:
    """The kernel size of each layer, from a number, a pair, or a list of such."""
    if isinstance(kernels, int):
        listed: list[Any] = [kernels] * count
    elif isinstance(kernels, tuple) and len(kernels) == 2 and all(isinstance(k, int) for k in kernels):
        listed = [kernels] * count
    else:
        listed = list(kernels)
    if len(listed) != count:
        raise ValueError(f"kernel_size must be one, or {count}, one fewer than layers; received {len(listed)}.")
    pairs = [(k, k) if isinstance(k, int) else tuple(k) for k in listed]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"each kernel_size must be a number or a pair; received {kernels}.")
    return [(check_count("kernel_size", a), check_count("kernel_size", b)) for a, b in pairs]


def _check_attention(layer: int, last: int) -> int:
    if check_count("each entry of sa_units", layer, 0) >= last:
        raise ValueError(f"sa_units must lie in 0..{last - 1}, all layers but the last; received {layer}.")
    return layer
