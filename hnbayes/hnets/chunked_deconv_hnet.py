"""ChunkedHDeconv: transposed convolutions that generate weights image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from hnbayes.hnets.chunked import ChunkedHyperNet, plan_chunks
from hnbayes.hnets.deconv import DeconvGenerator, image_size
from hnbayes.hnets.hypernet import Inputs
from hnbayes.hnets.mlp_hnet import announce
from hnbayes.hnets.registry import chunked, deconvolutional, register
from hnbayes.mnets.mlp import Activation
from hnbayes.mnets.registry import Config


class ChunkedHDeconv(ChunkedHyperNet):
    """A hypernetwork of transposed convolutions that generates as many weights at a time as its image has pixels.

    Args:
        target_shapes: shapes of the tensors to generate.
        hyper_img_shape: width and height of the image, and its channels (1 by default): a chunk.
        chunk_emb_size: size of a chunk's embedding, drawn from N(0, 1).
        cond_chunk_embs: whether every condition has chunk embeddings of its own.
        uncond_in_size: see `HDeconv`, as for the other arguments.
        cond_in_size: may be 0, as may `uncond_in_size`.
        num_layers: layers, the first of which is fully connected.
        num_filters: channels after each layer but the last.
        kernel_size: a number or a pair for all transposed convolutions, or a list with one for each.
        sa_units: layers, from 0, that self-attention follows.
        verbose: print the number of weights.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        no_uncond_weights: whether unconditional weights come from outside.
        no_cond_weights: whether conditional ones do.
        num_cond_embs: how many conditions there are.
        use_spectral_norm: divide each weight by its largest singular value.
        use_batch_norm: normalise the hidden layers.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a number is out of range.

    Example:
        >>> hnet = hnbayes.hnets.ChunkedHDeconv(
        ...     [[4, 3], [4]], (3, 3), num_layers=3, num_filters=(3, 2), kernel_size=3, sa_units=(1,), verbose=False
        ... )
        >>> hnet.num_chunks, [tuple(w.shape) for w in hnet(cond_id=0)]
        (2, [(4, 3), (4,)])
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
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
        size, channels = image_size(hyper_img_shape)
        chunks = plan_chunks(target_shapes, channels * math.prod(size), chunk_emb_size, cond_chunk_embs)
        generator = DeconvGenerator(
            inputs.size + chunk_emb_size,
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
        super().__init__(target_shapes, inputs, generator, chunks)
        self._has_bias = use_bias
        self._has_fc_out = False
        announce(self, verbose)


@register("chunked_hdeconv")
def _build(config: Config, target_shapes: Sequence[Sequence[int]], shared: dict[str, Any], _: Any) -> ChunkedHDeconv:
    return ChunkedHDeconv(target_shapes, **shared, **chunked(config), **deconvolutional(config))
