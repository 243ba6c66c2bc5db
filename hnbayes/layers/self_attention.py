"""SelfAttnLayer and SelfAttnLayerV2: attention between the pixels of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_floating, check_tensors, describe
from hnbayes.layers.init import init_params

NAMES = ("query_conv", "key_conv", "value_conv")


def attend(x: Tensor, weights: Sequence[Tensor], spectral: bool, with_map: bool) -> Tensor | tuple[Tensor, Tensor]:
    r"""Self-attention of Zhang et al. (2018), "Self-Attention Generative Adversarial Networks", eqs 1 to 4.

    \[y = \gamma\, o + x, \quad o_n = \sum_m \beta_{nm} h(x_m), \quad
    \beta_{n \cdot} = \operatorname{softmax}_m(f(x_n)^\top g(x_m))\]

    with f, g and h convolutions of kernel size 1 (query, key and value).

    Args:
        x: (B, C, W, H).
        weights: kernel and bias of f, g and h, then \(\gamma\).
        spectral: divide each kernel by its largest singular value.
        with_map: also return \(\beta\).

    Returns:
        y, of x's shape, and where it is asked for \(\beta\), (B, W H, W H), whose rows sum to 1.
    """
    kernels = [w.flatten(1) for w in weights[0:6:2]]
    if spectral:
        kernels = [kernel / torch.linalg.matrix_norm(kernel, ord=2) for kernel in kernels]
    pixels = x.flatten(2).mT
    f, g, h = (nn.functional.linear(pixels, kernel, bias) for kernel, bias in zip(kernels, weights[1:6:2], strict=True))
    gamma = weights[6]
    if not with_map:
        o = nn.functional.scaled_dot_product_attention(f, g, h, scale=1.0)
        return gamma * o.mT.reshape(x.shape) + x
    attention = (f @ g.mT).softmax(-1)
    return gamma * (attention @ h).mT.reshape(x.shape) + x, attention


def attention_shapes(in_dim: int) -> list[list[int]]:
    """Shapes of the weights that `attend` takes for C = `in_dim` channels."""
    query = max(1, in_dim // 8)
    return [shape for out in (query, query, in_dim) for shape in ([out, in_dim, 1, 1], [out])] + [[1]]


class SelfAttnLayer(nn.Module):
    r"""Self-attention between pixels, with weights held by three convolutions; see `attend` for the equation.

    \(\gamma\) starts at 0, so a new layer passes its input on. Spectral normalisation divides each kernel by its
    largest singular value, computed exactly rather than by power iteration: the layer is a function of its weights and
    input alone, in training and evaluation mode alike, and works under `torch.func.vmap` over its weights.

    Args:
        in_dim: channels C; queries and keys have max(1, C // 8).
        use_spectral_norm: whether kernels are normalised.

    Raises:
        TypeError: if `in_dim` is not an integer.
        ValueError: if it is below 1.

    Example:
        >>> layer = hnbayes.layers.SelfAttnLayer(16, use_spectral_norm=False)
        >>> x = torch.randn(2, 16, 5, 5)
        >>> y, attention = layer(x, ret_attention=True)
        >>> torch.equal(y, x), attention.shape
        (True, torch.Size([2, 25, 25]))
    """

    def __init__(self, in_dim: int, use_spectral_norm: bool) -> None:
        super().__init__()
        self.in_dim = check_count("in_dim", in_dim)
        self.use_spectral_norm = bool(use_spectral_norm)
        for name, shape in zip(NAMES, attention_shapes(in_dim)[0:6:2], strict=True):
            setattr(self, name, nn.Conv2d(in_dim, shape[0], kernel_size=1))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, ret_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            x: feature maps (B, C, W, H).
            ret_attention: also return the attention map.

        Returns:
            Feature maps of x's shape; where asked for, the map (B, W H, W H) as well, row n for output pixel n.

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if its shape doesn't fit.
        """
        _check_maps(x, self.in_dim)
        convolutions = [getattr(self, name) for name in NAMES]
        weights = [tensor for conv in convolutions for tensor in (conv.weight, conv.bias)]
        return attend(x, [*weights, self.gamma], self.use_spectral_norm, ret_attention)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torch.nn.utils.spectral_norm, as earlier implementations used it, stores a kernel as `weight_orig`.
        for name in NAMES:
            if f"{prefix}{name}.weight_orig" in state_dict:
                state_dict[f"{prefix}{name}.weight"] = state_dict.pop(f"{prefix}{name}.weight_orig")
                for part in "uv":
                    state_dict.pop(f"{prefix}{name}.weight_{part}", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SelfAttnLayerV2(nn.Module):
    r"""`SelfAttnLayer` with its weights as a plain list, which may also come from outside.

    Args:
        in_dim: channels C; queries and keys have max(1, C // 8).
        use_spectral_norm: whether kernels are normalised, wherever they come from.
        no_weights: whether all weights come from outside.
        init_weights: tensors to copy the initial weights from, as `weight_shapes` says.

    Raises:
        TypeError: if `in_dim` is not an integer.
        ValueError: if it is below 1, `init_weights` don't fit, or come with `no_weights`.

    Example:
        >>> layer = hnbayes.layers.SelfAttnLayerV2(16, use_spectral_norm=False, no_weights=True)
        >>> weights = [torch.zeros(shape) for shape in layer.weight_shapes]  # from a hypernetwork, say
        >>> layer(torch.randn(2, 16, 5, 5), weights=weights).shape
        torch.Size([2, 16, 5, 5])
    """

    def __init__(
        self,
        in_dim: int,
        use_spectral_norm: bool,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.in_dim = check_count("in_dim", in_dim)
        self.use_spectral_norm = bool(use_spectral_norm)
        self._weights: nn.ParameterList | None = None
        if no_weights:
            if init_weights is not None:
                raise ValueError("a layer has initial weights or none; received init_weights and no_weights=True.")
            return
        if init_weights is not None:
            check_tensors("init_weights", init_weights, self.weight_shapes)
            copies = [torch.empty(w.shape, dtype=w.dtype, device=w.device).copy_(w.detach()) for w in init_weights]
            self._weights = nn.ParameterList(nn.Parameter(w) for w in copies)
            return
        self._weights = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in self.weight_shapes)
        for at in (0, 2, 4):
            init_params(self._weights[at], self._weights[at + 1])

    @property
    def weight_shapes(self) -> list[list[int]]:
        r"""Shapes of all weights, wherever they come from: kernel and bias of query, key and value, then \(\gamma\)."""
        return attention_shapes(self.in_dim)

    @property
    def weights(self) -> nn.ParameterList | None:
        """The layer's own weights; None where all come from outside."""
        return self._weights

    def forward(
        self,
        x: Tensor,
        ret_attention: bool = False,
        weights: Sequence[Tensor] | nn.ParameterList | None = None,
        dWeights: Sequence[Tensor] | nn.ParameterList | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            x: feature maps (B, C, W, H).
            ret_attention: also return the attention map.
            weights: weights to use instead of the layer's own, as `weight_shapes` says.
            dWeights: what to add to the weights, as `weight_shapes` says.

        Returns:
            As `SelfAttnLayer.forward`.

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if weights are missing, or shapes don't fit.
        """
        _check_maps(x, self.in_dim)
        if weights is not None:
            check_tensors("weights", weights, self.weight_shapes)
        weights = self._weights if weights is None else weights
        if weights is None:
            raise ValueError("weights must be given to a layer built with no_weights=True; received none.")
        used = list(weights)
        if dWeights is not None:
            check_tensors("dWeights", dWeights, self.weight_shapes)
            used = [w + d for w, d in zip(used, dWeights, strict=True)]
        return attend(x, used, self.use_spectral_norm, ret_attention)


def _check_maps(x: Tensor, in_dim: int) -> None:
    check_floating("x", x)
    if x.ndim != 4 or x.shape[1] != in_dim or x.numel() == 0:
        raise ValueError(f"x must have shape (B, {in_dim}, W, H) and not be empty; received {describe(x)}.")
