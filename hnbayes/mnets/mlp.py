"""MLP: the multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.layered import INPUTS, LayeredNet, LayerPlan, check_vectors
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions, check_dropout
from hnbayes.mnets.registry import Config, Shape, flat_size, register

Activation = Callable[[Tensor], Tensor] | None


class MLP(LayeredNet):
    """A multilayer perceptron with linear outputs: each hidden layer is linear, modulated, normalised, activated.

    Args:
        n_in: number of inputs.
        n_out: number of outputs.
        hidden_layers: sizes of the hidden layers.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        dropout_rate: rate after each hidden layer's activation, -1 for none.
        use_spectral_norm: divide each weight matrix by its largest singular value.
        use_batch_norm: normalise the hidden layers.
        bn_track_stats: track statistics; otherwise the batch's are used in evaluation mode too. For statistics of
            several tasks call `checkpoint_stats` of each of `batchnorm_layers`, and pass the number as `condition`.
        distill_bn_stats: offer these statistics as `distillation_targets`.
        use_context_mod: modulate every layer.
        context_mod_inputs: modulate the inputs too.
        no_last_layer_context_mod: don't modulate the output layer.
        context_mod_no_weights: gains and shifts come from outside, whatever `no_weights` says.
        context_mod_post_activation: modulate hidden layers after their activation.
        context_mod_gain_offset: gains are 1 + g.
        context_mod_gain_softplus: gains go through a softplus.
        out_fn: function of the outputs; the network then returns it and the outputs before it.
        verbose: print the number of weights.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a number is out of range, options exclude one another or `init_weights` don't fit.

    Example:
        >>> net = hnbayes.mnets.MLP(n_in=2, n_out=1, hidden_layers=(10,), verbose=False)
        >>> net.param_shapes
        [[10, 2], [10], [1, 10], [1]]
        >>> weights = [torch.zeros(shape) for shape in net.param_shapes]
        >>> net(torch.randn(5, 2), weights=weights).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        n_in: int = 1,
        n_out: int = 1,
        hidden_layers: Sequence[int] = (10, 10),
        activation_fn: Activation = nn.ReLU(),  # noqa: B008 - stateless
        use_bias: bool = True,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        use_context_mod: bool = False,
        context_mod_inputs: bool = False,
        no_last_layer_context_mod: bool = False,
        context_mod_no_weights: bool = False,
        context_mod_post_activation: bool = False,
        context_mod_gain_offset: bool = False,
        context_mod_gain_softplus: bool = False,
        out_fn: Callable[[Tensor], Tensor] | None = None,
        verbose: bool = True,
    ) -> None:
        sizes = layer_sizes(n_in, n_out, hidden_layers)
        plans = dense_plans(sizes, use_bias)
        rate = check_dropout(dropout_rate)
        super().__init__(
            plans,
            inputs=(n_in,),
            no_weights=no_weights,
            init_weights=init_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            modulation=ContextModOptions(
                use_context_mod,
                context_mod_inputs,
                no_last_layer_context_mod,
                context_mod_no_weights,
                context_mod_post_activation,
                context_mod_gain_offset,
                context_mod_gain_softplus,
            ),
            spectral=use_spectral_norm,
        )
        self._n_in = n_in
        self._names = [plan.name for plan in plans]
        self._activation = activation_fn
        self._out_fn = out_fn
        self._has_linear_out = out_fn is None
        self._dropout = nn.Dropout(rate)
        announce(self, verbose)

    @staticmethod
    def weight_shapes(
        n_in: int = 1, n_out: int = 1, hidden_layers: Sequence[int] = (10, 10), use_bias: bool = True
    ) -> list[list[int]]:
        """Shapes of weights and biases of a multilayer perceptron, layer by layer.

        Args:
            n_in: number of inputs.
            n_out: number of outputs.
            hidden_layers: sizes of the hidden layers.
            use_bias: whether layers have biases.

        Returns:
            The shapes.
        """
        plans = dense_plans(layer_sizes(n_in, n_out, hidden_layers), use_bias)
        return [list(shape) for plan in plans for shape in (plan.weight, plan.bias) if shape is not None]

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Any:
        """Compute the outputs.

        Args:
            x: inputs (N, n_in).
            weights: see `MainNetInterface.forward`.
            distilled_params: statistics for batch normalisation.
            condition: the statistics to use, or a dict with the keys `bn_stats_id` and `cmod_ckpt_id`.

        Returns:
            Outputs (N, n_out); with `out_fn`, what it gives and the outputs before it.

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        h = check_vectors(x, self._n_in)
        tensors = self._begin(weights, distilled_params, condition)
        h = self._modulate(INPUTS, h, tensors)
        for name in self._names[:-1]:
            h = nn.functional.linear(h, *tensors.layers[name])
            h = self._dropout(self._activated(name, h, tensors, self._activation))
        h = nn.functional.linear(h, *tensors.layers[self._names[-1]])
        h = self._modulate(self._names[-1], h, tensors)
        return h if self._out_fn is None else (self._out_fn(h), h)


def layer_sizes(n_in: int, n_out: int, hidden: Sequence[int]) -> list[int]:
    """Sizes of inputs, hidden layers and outputs, checked."""
    check_count("n_in", n_in)
    check_count("n_out", n_out)
    return [n_in, *(check_count("each entry of hidden_layers", size) for size in hidden), n_out]


def dense_plans(sizes: Sequence[int], use_bias: bool, prefix: str = "", norm: bool = True) -> list[LayerPlan]:
    """Fully connected layers between these sizes; all but the last may be normalised."""
    return [
        LayerPlan(
            f"{prefix}{i}",
            (n, before),
            (n,) if use_bias else None,
            norm=n if norm and i < len(sizes) - 2 else None,
            modulated=(n,),
        )
        for i, (before, n) in enumerate(itertools.pairwise(sizes))
    ]


def announce(net: LayeredNet, verbose: bool) -> None:
    """Print how many weights a network has, where that is wanted."""
    if verbose:
        given = sum(1 for _ in net.hyper_shapes_learned or ())
        outside = f", {given} of its tensors from outside" if given else ""
        print(f"{type(net).__name__} with {net.num_params} weights{outside}.")


@register("mlp")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> MLP:
    read: dict[str, Any] = {
        "n_in": flat_size("in_shape", in_shape),
        "n_out": flat_size("out_shape", out_shape),
        "hidden_layers": config.ints("mlp_arch", "100,100"),
        "activation_fn": config.activation(),
        "use_bias": not config.get("no_bias", False),
        "dropout_rate": config.get("dropout_rate", -1),
        "use_spectral_norm": config.get("specnorm", False),
        **config.batch_norm(),
    }
    return MLP(**{**read, **kwargs})
