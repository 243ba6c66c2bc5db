"""ChunkSqueezer: a multilayer perceptron behind another that squeezes its inputs chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.bookkeeping import Entry, ParamBook, Weights
from hnbayes.mnets.layered import LayeredNet, LayerPlan, Pass, check_vectors
from hnbayes.mnets.mlp import Activation, announce, dense_plans, layer_sizes
from hnbayes.mnets.options import BatchNormOptions, check_dropout
from hnbayes.mnets.registry import Config, Shape, flat_size, register


class ChunkSqueezer(LayeredNet):
    """Inputs are split into chunks, each squeezed by the same reducer network; what it gives is the input of a second.

    The reducer knows which chunk it sees from a learned embedding, which is a part of its input or, with
    `dynamic_biases`, a bias of some of its layers through a matrix each. The parameters come in the order: gains and
    offsets of batch normalisation, embeddings, those matrices, reducer, second network.

    Args:
        n_in: number of inputs; zeros fill up the last chunk.
        n_out: number of outputs.
        inp_chunk_dim: inputs a chunk.
        out_chunk_dim: what a chunk is squeezed to.
        cemb_size: size of a chunk's embedding.
        cemb_init_std: standard deviation of the embeddings at the start.
        red_layers: sizes of the reducer's hidden layers.
        net_layers: sizes of the second network's hidden layers.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        dynamic_biases: layers of the reducer, from 0 to `len(red_layers)`, that get embeddings as biases.
        no_weights: whether all weights come from outside.
        init_weights: values for the network's own parameters, copied.
        dropout_rate: rate after each hidden layer's activation, -1 for none.
        use_spectral_norm: divide each weight matrix by its largest singular value.
        use_batch_norm: normalise the hidden layers; in the reducer over samples and chunks.
        bn_track_stats: track statistics; otherwise the batch's are used in evaluation mode too.
        distill_bn_stats: offer these statistics as `distillation_targets`.
        verbose: print the number of weights.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a number is out of range, or options exclude one another.

    Example:
        >>> net = hnbayes.mnets.ChunkSqueezer(
        ...     250, 3, inp_chunk_dim=100, out_chunk_dim=10, red_layers=(10,), net_layers=(10,), verbose=False
        ... )
        >>> net(torch.randn(5, 250)).shape  # three chunks of 100, the last with 50 zeros
        torch.Size([5, 3])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int = 1,
        inp_chunk_dim: int = 100,
        out_chunk_dim: int = 10,
        cemb_size: int = 8,
        cemb_init_std: float = 1.0,
        red_layers: Sequence[int] = (10, 10),
        net_layers: Sequence[int] = (10, 10),
        activation_fn: Activation = nn.ReLU(),  # noqa: B008 - stateless
        use_bias: bool = True,
        dynamic_biases: Sequence[int] | None = None,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        verbose: bool = True,
    ) -> None:
        check_count("n_in", n_in)
        chunk = check_count("inp_chunk_dim", inp_chunk_dim)
        check_count("cemb_size", cemb_size)
        self._n_in, self._chunk = n_in, chunk
        self._chunks = -(-n_in // chunk)
        reducer = layer_sizes(chunk + (cemb_size if dynamic_biases is None else 0), out_chunk_dim, red_layers)
        second = layer_sizes(self._chunks * out_chunk_dim, n_out, net_layers)
        self._dynamic = [_check_layer(i, len(red_layers)) for i in dynamic_biases or ()]
        first, last = dense_plans(reducer, use_bias, "reducer"), dense_plans(second, use_bias, "net")
        embedded = [LayerPlan(f"dynamic{i}", (reducer[i + 1], cemb_size)) for i in self._dynamic]
        self._reducer, self._second = [plan.name for plan in first], [plan.name for plan in last]
        super().__init__(
            [*first, *last],
            projections=embedded,
            no_weights=no_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            spectral=use_spectral_norm,
        )
        self._activation = activation_fn
        shape = (self._chunks, cemb_size)
        self._cembs: Tensor | None
        self.register_parameter("_cembs", None if no_weights else nn.Parameter(torch.randn(shape) * cemb_init_std))
        self._with_embeddings(shape)
        self._dropout = nn.Dropout(check_dropout(dropout_rate))
        if init_weights is not None:
            self.overwrite_internal_params(init_weights)
        announce(self, verbose)

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Tensor:
        """Compute the outputs.

        Args:
            x: inputs (N, n_in).
            weights: see `MainNetInterface.forward`.
            distilled_params: statistics for batch normalisation.
            condition: the statistics to use, or a dict with the key `bn_stats_id`.

        Returns:
            Outputs (N, n_out).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        x = check_vectors(x, self._n_in)
        tensors = self._book.tensors(weights)
        at = 2 * len(self._bn_at)
        embeddings = tensors[at]
        chosen = self._sort(tensors[:at] + tensors[at + 1 :], weights, distilled_params, condition)
        N = len(x)
        h = nn.functional.pad(x, (0, self._chunks * self._chunk - self._n_in)).reshape(N, self._chunks, self._chunk)
        if not self._dynamic:
            h = torch.cat([h, embeddings.expand(N, -1, -1)], dim=-1)
        h = h.flatten(0, 1)
        for i, name in enumerate(self._reducer):
            h = nn.functional.linear(h, *chosen.layers[name])
            if i in self._dynamic:
                biases = nn.functional.linear(embeddings, chosen.layers[f"dynamic{i}"][0])
                h = (h.reshape(N, self._chunks, -1) + biases).flatten(0, 1)
            h = self._hidden(name, h, chosen) if name != self._reducer[-1] else h
        h = h.reshape(N, -1)
        for name in self._second:
            h = nn.functional.linear(h, *chosen.layers[name])
            h = self._hidden(name, h, chosen) if name != self._second[-1] else h
        return h

    def _hidden(self, name: str, h: Tensor, tensors: Pass) -> Tensor:
        h = self._normalise(name, h, tensors)
        h = h if self._activation is None else self._activation(h)
        output: Tensor = self._dropout(h)
        return output

    def _with_embeddings(self, shape: tuple[int, int]) -> None:
        """Put the embeddings into the book, behind batch normalisation."""
        entries = list(self._book.entries)
        entries.insert(2 * len(self._bn_at), Entry(shape, "embedding", -1, self, "_cembs"))
        self._book = ParamBook(entries, {"internal_weights": range(len(entries)), "mod_weights": ()})


def _check_layer(index: int, last: int) -> int:
    if check_count("each entry of dynamic_biases", index, 0) > last:
        raise ValueError(f"dynamic_biases must lie in 0..{last}, the reducer's layers; received {index}.")
    return index


@register("chunked_mlp")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> ChunkSqueezer:
    read: dict[str, Any] = {
        "n_in": flat_size("in_shape", in_shape),
        "n_out": flat_size("out_shape", out_shape),
        "inp_chunk_dim": config.get("cmlp_in_cdim", 100),
        "out_chunk_dim": config.get("cmlp_out_cdim", 10),
        "cemb_size": config.get("cmlp_cemb_dim", 8),
        "red_layers": config.ints("cmlp_chunk_arch", "10,10"),
        "net_layers": config.ints("cmlp_arch", "10,10"),
        "activation_fn": config.activation(),
        "use_bias": not config.get("no_bias", False),
        "dropout_rate": config.get("dropout_rate", -1),
        "use_spectral_norm": config.get("specnorm", False),
        **config.batch_norm(),
    }
    return ChunkSqueezer(**{**read, **kwargs})
