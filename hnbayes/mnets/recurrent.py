"""Recurrent layers: their table, and how they are run over a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hnbayes.mnets.layered import LayeredNet, LayerPlan
from hnbayes.mnets.mlp import Activation

GATES = 4
State = tuple[Tensor, Tensor]


class RecurrentLayers(LayeredNet):
    """Elman or LSTM layers, step by step; what `SimpleRNN` is made of."""

    _rec: list[int]
    _lstm: bool
    _activation: Activation
    _bptt_depth: int
    # Time steps with modulation of their own (below 1: none); whether in a layer each; whether only the last has any.
    _steps: int
    _separate: bool
    _last_step: bool

    def compute_hidden_states(
        self,
        x: Tensor,
        layer_ind: int,
        int_weights: Sequence[Tensor | None],
        cm_weights: Sequence[Sequence[Tensor]] | None,
        ckpt_id: int | None,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run a recurrent layer over a sequence.

        Args:
            x: its inputs (T, N, size of the layer before).
            layer_ind: which layer.
            int_weights: its weights and biases in turn.
            cm_weights: its gains and shifts, one set or one a time step.
            ckpt_id: unused, as gains and shifts are given.
            h_0: hidden state before the first step, 0 if None.
            c_0: an LSTM's cell state before the first step, 0 if None.

        Returns:
            Its outputs and its inner states (cells of an LSTM, hidden states of an Elman layer), each (T, N, size).
        """
        T, N = x.shape[:2]
        size = self._rec[layer_ind]
        state = (x.new_zeros(N, size) if h_0 is None else h_0, x.new_zeros(N, size) if c_0 is None else c_0)
        step = self.lstm_rnn_step if self._lstm else self.basic_rnn_step
        outputs, inner = [], []
        for t in range(T):
            if self._bptt_depth > 0 and t == T - self._bptt_depth:
                state = state[0].detach(), state[1].detach()
            state = step(layer_ind, t, x[t], state, int_weights, cm_weights, ckpt_id, t == T - 1)
            outputs.append(state[0] if self._lstm else state[1])
            inner.append(state[1] if self._lstm else state[0])
        return torch.stack(outputs), torch.stack(inner)

    def basic_rnn_step(
        self,
        d: int,
        t: int,
        x_t: Tensor,
        h_t: State,
        int_weights: Sequence[Tensor | None],
        cm_weights: Sequence[Sequence[Tensor]] | None,
        ckpt_id: int | None,
        is_last_step: bool,
    ) -> State:
        """One step of an Elman layer.

        Args:
            d: which layer.
            t: the time step, from 0.
            x_t: inputs (N, size before).
            h_t: the last hidden state and output, each (N, size); the output is not used.
            int_weights: as for `compute_hidden_states`.
            cm_weights: as for `compute_hidden_states`.
            ckpt_id: unused.
            is_last_step: whether it is the sequence's last.

        Returns:
            The new hidden state and output.
        """
        w_ih, b_ih, w_hh, b_hh = int_weights[:4]
        h = _linear(x_t, w_ih, b_ih) + _linear(h_t[0], w_hh, b_hh)
        h = self._recurrent_activation(h, d, t, cm_weights, is_last_step)
        y = self.compute_basic_rnn_output(h, int_weights, bool(cm_weights), cm_weights, t, ckpt_id, is_last_step, d)
        return h, y

    def compute_basic_rnn_output(
        self,
        h_t: Tensor,
        int_weights: Sequence[Tensor | None],
        use_cm: bool,
        cm_weights: Sequence[Sequence[Tensor]] | None,
        cm_idx: int,
        ckpt_id: int | None,
        is_last_step: bool,
        d: int = 0,
    ) -> Tensor:
        """The output (N, size) of an Elman layer.

        Args:
            h_t: hidden state (N, size).
            use_cm: whether to modulate.
            cm_idx: the time step, which chooses among sets of gains and shifts.
            d: which layer.
            int_weights: as for `compute_hidden_states`.
            cm_weights: as for `compute_hidden_states`.
            ckpt_id: unused.
            is_last_step: whether it is the sequence's last.
        """
        y = _linear(h_t, int_weights[4], int_weights[5])
        return self._recurrent_activation(y, d, cm_idx, cm_weights if use_cm else None, is_last_step)

    def lstm_rnn_step(
        self,
        d: int,
        t: int,
        x_t: Tensor,
        h_t: State,
        int_weights: Sequence[Tensor | None],
        cm_weights: Sequence[Sequence[Tensor]] | None,
        ckpt_id: int | None,
        is_last_step: bool,
    ) -> State:
        """One step of an LSTM layer.

        Args:
            d: which layer.
            t: the time step, from 0.
            x_t: inputs (N, size before).
            h_t: the last output and cell state, each (N, size).
            int_weights: as for `compute_hidden_states`.
            cm_weights: as for `compute_hidden_states`.
            ckpt_id: unused.
            is_last_step: whether it is the sequence's last.

        Returns:
            The new output and cell state.
        """
        h, c = h_t
        gates = _linear(x_t, int_weights[0], int_weights[1]) + _linear(h, int_weights[2], int_weights[3])
        i, f, g, o = gates.chunk(GATES, dim=-1)
        act = self._activation or (lambda v: v)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        if self._modulation.post_activation:
            return self._step_modulated(o.sigmoid() * act(c), d, t, cm_weights, is_last_step), c
        return o.sigmoid() * act(self._step_modulated(c, d, t, cm_weights, is_last_step)), c

    def _recurrent_activation(
        self, h: Tensor, d: int, t: int, cm_weights: Sequence[Sequence[Tensor]] | None, is_last_step: bool
    ) -> Tensor:
        after = self._modulation.post_activation
        h = h if after else self._step_modulated(h, d, t, cm_weights, is_last_step)
        h = h if self._activation is None else self._activation(h)
        return self._step_modulated(h, d, t, cm_weights, is_last_step) if after else h

    def _step_modulated(
        self, h: Tensor, d: int, t: int, cm_weights: Sequence[Sequence[Tensor]] | None, is_last_step: bool
    ) -> Tensor:
        """Modulate the activations of one time step."""
        if not cm_weights or (self._last_step and not is_last_step):
            return h
        names = self._cm_names(d)
        if self._steps > 0 and not self._separate:
            gain, shift = cm_weights[0]
            modulated: Tensor = h * self._cm_layer(names[0]).preprocess_gain(gain[..., t, :]) + shift[..., t, :]
            return modulated
        at = t if self._separate else 0
        output: Tensor = self._cm_layer(names[at])(h, weights=list(cm_weights[at]))
        return output

    def _cm_names(self, d: int) -> list[str]:
        return [name for name in self._cm_at if name.split("@")[0] == f"rec{d}.ih"]


def _linear(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        raise ValueError("a recurrent layer needs its weights; received None.")
    return nn.functional.linear(x, weight, bias)


def recurrent_plans(
    n_in: int,
    sizes: tuple[Sequence[int], Sequence[int], Sequence[int]],
    *,
    gates: int,
    outputs: bool,
    bias: bool,
    steps: int,
) -> list[LayerPlan]:
    """Fully connected layers, recurrent layers, fully connected layers.

    A recurrent layer d is `rec{d}.ih` (from inputs), `rec{d}.hh` (from hidden states) and, where it has outputs of its
    own, `rec{d}.ho`; the first of them carries the layer's modulation.

    Args:
        n_in: number of inputs.
        sizes: of the layers before, of the recurrent layers and of the layers behind.
        gates: rows of a recurrent layer's matrices for each of its units.
        outputs: whether recurrent layers have outputs besides their hidden states.
        bias: whether layers have biases.
        steps: time steps with modulation of their own in one tensor; below 1 there is one for all.
    """

    def plan(name: str, rows: int, before: int, modulated: tuple[int, ...] | None) -> LayerPlan:
        return LayerPlan(name, (rows, before), (rows,) if bias else None, modulated=modulated)

    pre, recurrent, post = sizes
    plans = []
    before = n_in
    for i, n in enumerate(pre):
        plans.append(plan(f"pre{i}", n, before, (n,)))
        before = n
    for d, n in enumerate(recurrent):
        plans.append(plan(f"rec{d}.ih", gates * n, before, (n,) if steps < 1 else (steps, n)))
        plans.append(plan(f"rec{d}.hh", gates * n, n, None))
        if outputs:
            plans.append(plan(f"rec{d}.ho", n, n, None))
        before = n
    for i, n in enumerate(post):
        plans.append(plan(f"post{i}", n, before, (n,)))
        before = n
    return plans


def spread_over_time(plans: Sequence[LayerPlan], steps: int) -> list[LayerPlan]:
    """The modulated layers with `steps` copies of each recurrent one, `name@t` at time step t."""
    spread: list[LayerPlan] = []
    for plan in plans:
        if plan.name.startswith("rec"):
            spread += [replace(plan, name=f"{plan.name}@{t}") for t in range(steps)]
        else:
            spread.append(plan)
    return spread
