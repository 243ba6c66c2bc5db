"""HDeconv: transposed convolutions that generate all weights as one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from hnbayes.hnets.deconv import DeconvGenerator, image_size
from hnbayes.hnets.hypernet import HyperNet, Inputs, target_spec
from hnbayes.hnets.mlp_hnet import announce
from hnbayes.hnets.registry import deconvolutional, register
from hnbayes.mnets.mlp import Activation
from hnbayes.mnets.registry import Config


class HDeconv(HyperNet):
    """A hypernetwork of transposed convolutions: the pixels of the image it draws are the generated weights.

    See `DeconvGenerator` for the layers.

    Args:
        target_shapes: shapes of the tensors to generate.
        hyper_img_shape: width and height of the image, and its channels (1 by default); it must have at least as many
            pixels as there are weights, and those beyond are dropped.
        uncond_in_size: size of unconditional inputs.
        cond_in_size: size of conditional inputs.
        num_layers: layers, the first of which is fully connected.
        num_filters: channels after each layer but the last; None takes 128 at the end and twice as many before each.
        kernel_size: a number or a pair for all transposed convolutions, or a list with one for each.
        sa_units: layers, from 0, that self-attention follows; not the last.
        verbose: print the number of weights.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        no_uncond_weights: whether unconditional weights come from outside.
        no_cond_weights: whether embeddings do.
        num_cond_embs: how many conditions there are, with an embedding each, drawn from N(0, 1).
        use_spectral_norm: divide each weight by its largest singular value.
        use_batch_norm: normalise the hidden layers.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if the image is too small, a number is out of range, or there are no inputs.

    Example:
        >>> hnet = hnbayes.hnets.HDeconv(
        ...     [[4, 3], [4]], (4, 4), num_layers=3, num_filters=(3, 2), kernel_size=3, sa_units=(1,), verbose=False
        ... )
        >>> [tuple(w.shape) for w in hnet(cond_id=0)]
        [(4, 3), (4,)]
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        num_layers: int = 5,
        num_filters: Sequence[int] | None = None,
        kernel_size: Any = 5,
        sa_units: Sequence[int] = (1, 3),
        verbose: bool = True,
        activation_fn: Activation = nn.ReLU(),  # noqa: B008 - stateless
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        inputs = Inputs(uncond_in_size, cond_in_size, no_uncond_weights, no_cond_weights, num_cond_embs)
        inputs.check_any()
        size, channels = image_size(hyper_img_shape)
        pixels, weights = channels * math.prod(size), target_spec(target_shapes).size
        if pixels < weights:
            raise ValueError(
                f"hyper_img_shape must have at least {weights} pixels, the number of weights; "
                f"received {tuple(hyper_img_shape)}, {pixels} pixels."
            )
        generator = DeconvGenerator(
            inputs.size,
            hyper_img_shape,
            num_layers,
            num_filters,
            kernel_size,
            sa_units,
            activation_fn,
            use_bias,
            no_uncond_weights,
            use_batch_norm,
            use_spectral_norm,
        )
        super().__init__(target_shapes, inputs, [generator], [None])
        self._has_bias = use_bias
        self._has_fc_out = self._mask_fc_out = False
        announce(self, verbose)


@register("hdeconv")
def _build(config: Config, target_shapes: Sequence[Sequence[int]], shared: dict[str, Any], _: Any) -> HDeconv:
    return HDeconv(target_shapes, **shared, **deconvolutional(config))
