"""SimpleRNN: stacked Elman or LSTM layers between fully connected ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count, check_floating, describe
from hnbayes.layers import init_params
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.layered import INPUTS, LayerPlan
from hnbayes.mnets.mlp import Activation, announce
from hnbayes.mnets.options import ContextModOptions
from hnbayes.mnets.recurrent import GATES, RecurrentLayers, recurrent_plans, spread_over_time
from hnbayes.mnets.registry import Config, Shape, flat_size, register


class SimpleRNN(RecurrentLayers):
    r"""A recurrent network: fully connected layers, Elman or LSTM layers, fully connected layers.

    An Elman layer has hidden states and outputs of its own (Elman 1990), \(h_t = \phi(W_{ih} x_t + b_{ih} + W_{hh}
    h_{t-1} + b_{hh})\) and \(y_t = \phi(W_{ho} h_t + b_{ho})\). An LSTM layer is torch.nn.LSTM's (Hochreiter and
    Schmidhuber 1997, with forget gates), gates in the order input, forget, cell, output. The last layer is linear if it
    is fully connected.

    Modulation of an Elman layer applies to hidden states and outputs alike, with the same weights; that of an LSTM
    layer to its cell state where this enters the output.

    Args:
        n_in: number of inputs.
        rnn_layers: sizes of the recurrent layers, at least one.
        fc_layers_pre: sizes of the fully connected layers before.
        fc_layers: sizes of the fully connected layers behind.
        activation: nonlinearity of hidden layers; in an LSTM layer of the cell state where this enters the output.
        use_lstm: whether recurrent layers are LSTM layers.
        use_bias: whether layers have biases.
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        kaiming_rnn_init: draw recurrent weights by their fan-in; otherwise as torch.nn.RNN does, by the layer's size.
        context_mod_last_step: modulate recurrent layers at the last time step only.
        context_mod_num_ts: number of time steps that have gains and shifts of their own, -1 for the same at all.
        context_mod_separate_layers_per_ts: one context-mod layer a time step, instead of one whose weights have time
            as their first dimension; needed where the network has the weights itself.
        verbose: print the number of weights.
        **kwargs: context modulation, as for `MLP`.

    Raises:
        TypeError: if a size is not an integer, or there is another keyword argument.
        ValueError: if a size is out of range, or options exclude one another.

    Example:
        >>> net = hnbayes.mnets.SimpleRNN(n_in=4, rnn_layers=(8,), fc_layers=(2,), use_lstm=True, verbose=False)
        >>> net(torch.randn(7, 5, 4)).shape  # 7 time steps of 5 sequences
        torch.Size([7, 5, 2])
    """

    _plain_condition = "cmod_ckpt_id"

    def __init__(
        self,
        n_in: int = 1,
        rnn_layers: Sequence[int] = (10,),
        fc_layers_pre: Sequence[int] = (),
        fc_layers: Sequence[int] = (1,),
        activation: Activation = nn.Tanh(),  # noqa: B008 - stateless
        use_lstm: bool = False,
        use_bias: bool = True,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        kaiming_rnn_init: bool = False,
        context_mod_last_step: bool = False,
        context_mod_num_ts: int = -1,
        context_mod_separate_layers_per_ts: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        self._n_in = check_count("n_in", n_in)
        self._rec = [check_count("each entry of rnn_layers", n) for n in rnn_layers]
        self._pre = [check_count("each entry of fc_layers_pre", n) for n in fc_layers_pre]
        self._post = [check_count("each entry of fc_layers", n) for n in fc_layers]
        if not self._rec:
            raise ValueError("rnn_layers must name at least one layer; received none.")
        options = ContextModOptions.from_kwargs("SimpleRNN", kwargs)
        self._steps = context_mod_num_ts if options.use else -1
        self._separate = context_mod_separate_layers_per_ts and self._steps > 0
        self._last_step = context_mod_last_step
        if self._steps > 0 and not self._separate and not options.no_weights:
            raise ValueError(
                "gains and shifts a time step that the network has itself need a layer each: set "
                "context_mod_separate_layers_per_ts=True, or context_mod_no_weights=True."
            )
        if self._steps > 0 and context_mod_last_step:
            raise ValueError("context_mod_num_ts and context_mod_last_step exclude one another; received both.")
        self._lstm, self._biased_layers = use_lstm, use_bias
        self._bptt_depth = -1
        super().__init__(
            recurrent_plans(
                n_in,
                (self._pre, self._rec, self._post),
                gates=GATES if use_lstm else 1,
                outputs=not use_lstm,
                bias=use_bias,
                steps=0 if self._separate else self._steps,
            ),
            inputs=(n_in,),
            no_weights=no_weights,
            init_weights=None,
            modulation=options,
        )
        self._has_bias = use_bias
        self._activation = activation
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = bool(self._post)
        if not no_weights:
            self._init_recurrent(kaiming_rnn_init)
        if init_weights is not None:
            self.overwrite_internal_params(init_weights)
        announce(self, verbose)

    @property
    def bptt_depth(self) -> int:
        """How many of the last time steps gradients go through; -1 means all. Can be set."""
        return self._bptt_depth

    @bptt_depth.setter
    def bptt_depth(self, value: int) -> None:
        self._bptt_depth = -1 if value == -1 else check_count("bptt_depth", value)

    @property
    def num_rec_layers(self) -> int:
        """How many recurrent layers there are."""
        return len(self._rec)

    @property
    def use_lstm(self) -> bool:
        """Whether they are LSTM layers."""
        return self._lstm

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        return_hidden: bool = False,
        return_hidden_int: bool = False,
    ) -> Any:
        """Compute the outputs at all time steps.

        Args:
            x: inputs (T, N, n_in).
            weights: see `MainNetInterface.forward`.
            distilled_params: must be None.
            condition: the stored modulation to use.
            return_hidden: also return the outputs of all hidden layers.
            return_hidden_int: also return the inner states of the recurrent layers (an LSTM's cells, an Elman layer's
                hidden states), None for other layers.

        Returns:
            Outputs (T, N, n_out), and where asked for lists of tensors (T, N, size).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        check_floating("x", x)
        if x.ndim != 3 or x.shape[-1] != self._n_in or x.shape[0] == 0:
            raise ValueError(f"x must have shape (T, N, {self._n_in}), T at least 1; received {describe(x)}.")
        self._distilled(distilled_params)
        _, ckpt_id = self._conditions(condition)
        int_weights, cm_weights = self.split_weights(weights)
        if ckpt_id is not None and not self._given_modulation(weights):
            cm_weights = self._stored_modulation(ckpt_id)
        pre_w, pre_b, rec, post_w, post_b = self.split_internal_weights(int_weights)
        cm_in, cm_pre, cm_rec, cm_post, _, _ = self.split_cm_weights(cm_weights, condition, len(x))
        hidden: list[Tensor] = []
        inner: list[Tensor | None] = []
        h = x if cm_in is None else self._cm_layer(INPUTS)(x, weights=cm_in, bs_dim=1)
        hidden, h = self.compute_fc_outputs(h, pre_w, pre_b, len(cm_pre or ()), cm_pre, 0, ckpt_id, False, hidden)
        inner += [None] * len(pre_w)
        for d, own in enumerate(rec):
            h, state = self.compute_hidden_states(h, d, own, cm_rec[d] if cm_rec else None, ckpt_id)
            hidden.append(h)
            inner.append(state)
        hidden, h = self.compute_fc_outputs(h, post_w, post_b, len(cm_post or ()), cm_post, 0, ckpt_id, True, hidden)
        inner += [None] * len(post_w)
        if not (return_hidden or return_hidden_int):
            return h
        # The last layer gives the output, which is not hidden.
        extra = [hidden[:-1]] * return_hidden + [inner[:-1]] * return_hidden_int
        return (h, *extra)

    def split_weights(self, weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors for a pass: all but gains and shifts, and gains and shifts.

        Args:
            weights: see `MainNetInterface.forward`.

        Returns:
            Two lists, in the order of `param_shapes`.

        Raises:
            ValueError: if weights are missing, or shapes don't fit.
        """
        tensors = self._book.tensors(weights)
        inside, modulating = (self._book.groups[name] for name in ("internal_weights", "mod_weights"))
        return [tensors[i] for i in inside], [tensors[i] for i in modulating]

    def split_internal_weights(
        self, int_weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor | None], list[list[Tensor | None]], list[Tensor], list[Tensor | None]]:
        """Weights by layer.

        Args:
            int_weights: the first list of `split_weights`.

        Returns:
            Weights and biases (None where there are none) of the layers before; for each recurrent layer a list of its
            weights and biases in turn; weights and biases of the layers behind.
        """
        remaining = iter(int_weights)

        def rows(count: int) -> list[tuple[Tensor, Tensor | None]]:
            return [(next(remaining), next(remaining) if self._biased_layers else None) for _ in range(count)]

        before = rows(len(self._pre))
        parts = 2 if self._lstm else 3
        recurrent = [[tensor for row in rows(parts) for tensor in row] for _ in self._rec]
        behind = rows(len(self._post))
        return [w for w, _ in before], [b for _, b in before], recurrent, [w for w, _ in behind], [b for _, b in behind]

    def split_cm_weights(
        self, cm_weights: Sequence[Tensor], condition: Any, num_ts: int = 0
    ) -> tuple[list[Tensor] | None, list[list[Tensor]], list[list[list[Tensor]]], list[list[Tensor]], int, Any]:
        """Gains and shifts by layer.

        Args:
            cm_weights: the second list of `split_weights`.
            condition: passed on.
            num_ts: number of time steps of the inputs; no more than `context_mod_num_ts`, where that was given.

        Returns:
            Those of the inputs (None where there are none), of the layers before, of the recurrent layers (for each one
            set, or one a time step), and of the layers behind; the number of context-mod layers for recurrent layers;
            the condition.

        Raises:
            ValueError: if there are more time steps than gains and shifts.
        """
        if self._steps > 0 and num_ts > self._steps:
            raise ValueError(f"x must have at most context_mod_num_ts={self._steps} time steps; received {num_ts}.")
        if not cm_weights:
            return None, [], [], [], 0, condition
        remaining = iter(cm_weights)
        sets = {name: [next(remaining) for _ in self._cm_layer(name).param_shapes] for name in self._cm_at}
        pre = [sets[f"pre{i}"] for i in range(len(self._pre))]
        recurrent = [[sets[name] for name in self._cm_names(d)] for d in range(len(self._rec))]
        post = [sets[f"post{i}"] for i in range(len(self._post)) if f"post{i}" in sets]
        return sets.get(INPUTS), pre, recurrent, post, sum(map(len, recurrent)), condition

    def compute_fc_outputs(
        self,
        h: Tensor,
        fc_w_weights: Sequence[Tensor],
        fc_b_weights: Sequence[Tensor | None],
        num_fc_cm_layers: int,
        cm_fc_layer_weights: Sequence[Sequence[Tensor]] | None,
        cm_offset: int,
        cmod_cond: Any,
        is_post_fc: bool,
        ret_hidden: list[Tensor] | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Apply the fully connected layers before or behind the recurrent ones.

        Args:
            h: activations (T, N, size).
            fc_w_weights: their weights.
            fc_b_weights: their biases.
            num_fc_cm_layers: how many of them are modulated.
            cm_fc_layer_weights: gains and shifts of these.
            cm_offset: the first of `cm_fc_layer_weights` to use.
            cmod_cond: unused, as gains and shifts are given.
            is_post_fc: whether they are the last, which end with a linear layer.
            ret_hidden: where to append activations.

        Returns:
            `ret_hidden` with the activations, and the last of them.
        """
        collected = [] if ret_hidden is None else ret_hidden
        for i, (w, b) in enumerate(zip(fc_w_weights, fc_b_weights, strict=True)):
            h = nn.functional.linear(h, w, b)
            linear = is_post_fc and i == len(fc_w_weights) - 1
            gains = (cm_fc_layer_weights or [])[cm_offset + i] if i < num_fc_cm_layers else None
            after = self._modulation.post_activation and not linear
            layer = self._cm_layer(f"{'post' if is_post_fc else 'pre'}{i}") if gains is not None else None
            if layer is not None and not after:
                h = layer(h, weights=gains, bs_dim=1)
            h = h if linear or self._activation is None else self._activation(h)
            if layer is not None and after:
                h = layer(h, weights=gains, bs_dim=1)
            collected.append(h)
        return collected, h

    def get_output_weight_mask(
        self, out_inds: Sequence[int] | None = None, device: torch.device | str | None = None
    ) -> list[Tensor | None]:
        """Masks for the weights that lead to output units; see `MainNetInterface.get_output_weight_mask`.

        Where the last layer is recurrent, its tensors with a row an output unit are masked: those of an Elman layer's
        output, all of an LSTM layer's, whose unit k has row k of each gate.
        """
        if self._has_fc_out:
            return super().get_output_weight_mask(out_inds, device)
        parts = (4 if self._lstm else 2) if self._biased_layers else (2 if self._lstm else 1)
        last = len(self._book.entries)
        size = self._rec[-1]
        rows = out_inds
        if self._lstm and out_inds is not None:
            for unit in out_inds:
                if check_count("each entry of out_inds", unit, 0) >= size:
                    raise ValueError(f"out_inds must lie in 0..{size - 1}, the output units; received {unit}.")
            rows = [gate * size + unit for gate in range(GATES) for unit in out_inds]
        return self._row_masks(range(last - parts, last), rows, device)

    def get_cm_weights(self) -> list[Tensor]:
        """The network's own gains and shifts."""
        return [own for own in (self._book.entries[i].own for i in self.get_cm_inds()) if own is not None]

    def get_non_cm_weights(self) -> list[Tensor]:
        """The network's own parameters but gains and shifts."""
        entries = (self._book.entries[i] for i in self._book.groups["internal_weights"])
        return [own for own in (entry.own for entry in entries) if own is not None]

    def get_cm_inds(self) -> list[int]:
        """The indices into `param_shapes` of gains and shifts."""
        return list(self._book.groups["mod_weights"])

    def init_hh_weights_orthogonal(self) -> None:
        """Make hidden-to-hidden matrices orthogonal (Saxe et al. 2014), each gate's of an LSTM by itself."""
        for d in range(len(self._rec)):
            weight = self._holder(f"rec{d}.hh").weight
            for part in () if weight is None else weight.detach().chunk(GATES if self._lstm else 1):
                nn.init.orthogonal_(part)

    def _modulated(self, layers: Sequence[LayerPlan], inputs: tuple[int, ...] | None) -> list[LayerPlan]:
        plans = super()._modulated(layers, inputs)
        return spread_over_time(plans, self._steps) if self._separate else plans

    def _stored_modulation(self, ckpt_id: int) -> list[Tensor]:
        stored = (self._cm_layer(name).get_weights(ckpt_id) for name in self._cm_at)
        return [tensor for pair in stored for tensor in pair if tensor is not None]

    @torch.no_grad()
    def _init_recurrent(self, kaiming: bool) -> None:
        for d, size in enumerate(self._rec):
            for part in ("ih", "hh") if self._lstm else ("ih", "hh", "ho"):
                holder = self._holder(f"rec{d}.{part}")
                if holder.weight is not None and kaiming:
                    init_params(holder.weight, holder.bias)
                for tensor in () if kaiming else (holder.weight, holder.bias):
                    if tensor is not None:
                        tensor.uniform_(-(size**-0.5), size**-0.5)


@register("simple_rnn")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> SimpleRNN:
    rnn_layers, fc_layers = config.ints("srnn_rec_layers", "10"), config.ints("srnn_post_fc_layers")
    n_out = flat_size("out_shape", out_shape)
    rec_type = check_choice("srnn_rec_type", config.get("srnn_rec_type", "lstm"), ("lstm", "elman"))
    if not config.get("srnn_no_fc_out", False):
        fc_layers = [*fc_layers, n_out]
    elif fc_layers:
        raise ValueError("srnn_no_fc_out makes the last layer recurrent; received srnn_post_fc_layers as well.")
    else:
        rnn_layers = [*rnn_layers, n_out]
    read: dict[str, Any] = {
        "n_in": flat_size("in_shape", in_shape),
        "rnn_layers": rnn_layers,
        "fc_layers_pre": config.ints("srnn_pre_fc_layers"),
        "fc_layers": fc_layers,
        "activation": config.activation(default="tanh"),
        "use_lstm": rec_type == "lstm",
        "use_bias": not config.get("no_bias", False),
    }
    return SimpleRNN(**{**read, **kwargs})
