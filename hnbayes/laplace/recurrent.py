"""torch's RNN, LSTM and GRU step by step: the fused ones hide their linear layers, and `vmap` refuses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

State = tuple[Tensor, ...]
# (W_ih x + b_ih, state, [W_hh, b_hh, W_hr as far as they are there], whether there are biases) -> state
Cell = Callable[[Tensor, State, Sequence[Tensor], bool], State]


class UnrolledRecurrence(TorchFunctionMode):
    """While it is active, recurrent layers run as a loop over time steps of plain operations.

    They compute what the fused ones do, but for rounding. Those with dropout in training, and those applied to packed
    sequences, are left as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cell = _CELLS.get(getattr(func, "__name__", ""))
        # A packed sequence has the batch sizes as a further argument, so that the fourth is the list of weights.
        if cell is None or len(args) != 9 or not isinstance(args[3], bool):
            return func(*args, **(kwargs or {}))
        x, states, weights, biases, layers, dropout, training, both, batch_first = args
        if dropout and training:
            return func(*args, **(kwargs or {}))
        states = (states,) if isinstance(states, Tensor) else tuple(states)
        steps = x.transpose(0, 1) if batch_first else x
        output, last = _unroll(cell, steps, states, weights, biases, layers, 2 if both else 1)
        return (output.transpose(0, 1) if batch_first else output, *last)


def _unroll(
    cell: Cell,
    steps: Tensor,
    states: State,
    weights: Sequence[Tensor],
    biases: bool,
    layers: int,
    directions: int,
) -> tuple[Tensor, State]:
    """All layers and directions over a sequence (S, N, F): outputs (S, N, F') and the last states (layers, N, H)."""
    size = len(weights) // (layers * directions)
    last: list[State] = []
    for layer in range(layers):
        outputs = []
        for backwards in range(directions):
            at = layer * directions + backwards
            own = weights[at * size : (at + 1) * size]
            rest = [own[1], *own[3:]] if biases else list(own[1:])
            state: State = tuple(s[at] for s in states)
            seen = []
            # A step at a time, so that each product is one of samples alone, as `LinearLayers` wants it.
            for row in steps.flip(0) if backwards else steps:
                state = cell(linear(row, own[0], own[2] if biases else None), state, rest, biases)
                seen.append(state[0])
            outputs.append(torch.stack(seen[::-1] if backwards else seen))
            last.append(state)
        steps = torch.cat(outputs, dim=-1)
    return steps, tuple(torch.stack([state[k] for state in last]) for k in range(len(states)))


def _hidden(h: Tensor, weights: Sequence[Tensor], biases: bool) -> Tensor:
    return linear(h, weights[0], weights[1] if biases else None)


def _tanh(x: Tensor, state: State, weights: Sequence[Tensor], biases: bool) -> State:
    return (torch.tanh(x + _hidden(state[0], weights, biases)),)


def _relu(x: Tensor, state: State, weights: Sequence[Tensor], biases: bool) -> State:
    return (torch.relu(x + _hidden(state[0], weights, biases)),)


def _lstm(x: Tensor, state: State, weights: Sequence[Tensor], biases: bool) -> State:
    enter, keep, new, leave = (x + _hidden(state[0], weights, biases)).chunk(4, dim=-1)
    c = torch.sigmoid(keep) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    h = torch.sigmoid(leave) * torch.tanh(c)
    projected = len(weights) == (3 if biases else 2)
    return (linear(h, weights[-1]) if projected else h), c


def _gru(x: Tensor, state: State, weights: Sequence[Tensor], biases: bool) -> State:
    (x_reset, x_keep, x_new), hidden = x.chunk(3, dim=-1), _hidden(state[0], weights, biases)
    h_reset, h_keep, h_new = hidden.chunk(3, dim=-1)
    keep = torch.sigmoid(x_keep + h_keep)
    new = torch.tanh(x_new + torch.sigmoid(x_reset + h_reset) * h_new)
    return ((1 - keep) * new + keep * state[0],)


_CELLS: dict[str, Cell] = {"rnn_tanh": _tanh, "rnn_relu": _relu, "lstm": _lstm, "gru": _gru}
