"""Classifier: networks for images whose outputs are logits of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_floating, check_positive, describe
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.layered import INPUTS, LayeredNet, Pass


class Classifier(LayeredNet):
    """A layered network from images to one logit a class, and losses on such logits."""

    # What a network sets in its constructor: height, width and channels of images, and how these come.
    _in_shape: tuple[int, int, int]
    _channels_first = False
    _num_classes: int

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Any:
        """Compute logits.

        Args:
            x: flattened images (N, H W C), or (N, H, W, C); with `chw_input_format` (N, C, H, W).
            weights: see `MainNetInterface.forward`.
            distilled_params: statistics for batch normalisation, of a network with `distill_bn_stats`; else None.
            condition: the statistics to use (without batch normalisation, the stored modulation), or a dict with the
                keys `bn_stats_id` and `cmod_ckpt_id`.

        Returns:
            Logits (N, num_classes).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        return self._logits(*self._entered(x, weights, distilled_params, condition))

    def _entered(
        self, x: Tensor, weights: Weights, distilled: Sequence[Tensor] | None, condition: Any
    ) -> tuple[Tensor, Pass]:
        """Images as the first layer sees them (N, C, H, W), and the tensors of the pass."""
        tensors = self._begin(weights, distilled, condition)
        return self._modulate(INPUTS, as_images(x, self._in_shape, self._channels_first), tensors), tensors

    @abstractmethod
    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""

    @property
    def num_classes(self) -> int:
        """How many classes there are, one output unit each."""
        return self._num_classes

    @staticmethod
    def logit_cross_entropy_loss(h: Tensor, t: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy of logits (N, K) and the labels that are the largest entries of `t` (N, K)."""
        return nn.functional.cross_entropy(h, t.argmax(-1), reduction=reduction)

    @staticmethod
    def softmax_and_cross_entropy(h: Tensor, t: Tensor, reduction_sum: bool = False) -> Tensor:
        """Cross-entropy of logits (N, K) and target probabilities (N, K), averaged or summed over N."""
        return nn.functional.cross_entropy(h, t, reduction="sum" if reduction_sum else "mean")

    @staticmethod
    def accuracy(y: Tensor, t: Tensor) -> Tensor:
        """The part of samples whose largest output is at the largest target; both (N, K)."""
        return (y.argmax(-1) == t.argmax(-1)).to(y.dtype).mean()

    @staticmethod
    def knowledge_distillation_loss(
        logits: Tensor,
        target_logits: Tensor,
        target_mapping: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        T: float = 2.0,
    ) -> Tensor:
        r"""Distillation loss of Hinton et al. (2015), \(-T^2 \sum_k p_k \log q_k\); p and q are softmaxes at T.

        Args:
            logits: (N, K).
            target_logits: (N, K'), not detached.
            target_mapping: which K' of the K logits have a target; the others have the target 0.
            device: unused; targets are taken to the logits' device.
            T: temperature.

        Returns:
            The mean over N.
        """
        T = check_positive("T", T)
        targets = (target_logits.to(logits.device) / T).softmax(-1)
        if target_mapping is not None:
            full = torch.zeros_like(logits)
            full[:, list(target_mapping)] = targets
            targets = full
        return nn.functional.cross_entropy(logits / T, targets) * T**2


def check_image_shape(in_shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels of an image.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if there are not three of them, or one is below 1.
    """
    if len(in_shape) != 3:
        raise ValueError(f"in_shape must be (height, width, channels); received {tuple(in_shape)}.")
    height, width, channels = (check_count("each entry of in_shape", n) for n in in_shape)
    return height, width, channels


def as_images(x: Tensor, in_shape: tuple[int, int, int], channels_first: bool = False) -> Tensor:
    """A batch of images as (N, C, H, W).

    Args:
        x: flattened images (N, H W C), images (N, H, W, C), or with `channels_first` images (N, C, H, W).
        in_shape: (H, W, C).
        channels_first: which.

    Raises:
        TypeError: if x is no floating-point tensor.
        ValueError: if its shape doesn't fit.
    """
    check_floating("x", x)
    H, W, C = in_shape
    expected = [(C, H, W)] if channels_first else [(H * W * C,), (H, W, C)]
    if tuple(x.shape[1:]) not in expected or len(x) == 0:
        wanted = " or ".join(str(("N", *shape)) for shape in expected)
        raise ValueError(f"x must have shape {wanted}, N at least 1; received {describe(x)}.")
    return x if channels_first else x.reshape(-1, H, W, C).permute(0, 3, 1, 2)
