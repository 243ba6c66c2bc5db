"""Hyper-fan initialisation: generated weights with the variance of He's or Xavier's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice
from hnbayes.layers import calc_fan_in_and_out
from hnbayes.mnets.layered import LayeredNet
from hnbayes.mnets.mlp import MLP
from hnbayes.mnets.mnet_interface import MainNetInterface

# Kinds of tensors whose generated values are 1 at the start, and those drawn from N(0, 1).
GAINS = ("bn_scale", "cm_scale")
DRAWN = ("embedding",)


class Targets:
    """What the generated tensors are, and the variance that they should have.

    Args:
        shapes: their shapes.
        mnet: the main network they belong to, if it is known.
        method: "in", "out" or "harmonic".
        use_xavier: Xavier's rule instead of He's.

    Raises:
        ValueError: if the method is unknown, or the network has other tensors.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], mnet: MainNetInterface | None, method: str, use_xavier: bool
    ) -> None:
        check_choice("method", method, ("in", "out", "harmonic"))
        self.shapes = [list(shape) for shape in shapes]
        self.kinds = _kinds(self.shapes, mnet)
        self._method = method
        self._gain = 1.0 if use_xavier else 2.0

    def weight_variance(self, at: int) -> float:
        """The variance of a generated weight: gain / fan."""
        fan_in, fan_out = calc_fan_in_and_out(self.shapes[at])
        by_in, by_out = self._gain / fan_in, self._gain / fan_out
        if self._method == "harmonic":
            return 2 / (1 / by_in + 1 / by_out)
        return by_in if self._method == "in" else by_out

    def bias_variance(self, at: int) -> float:
        """The variance of a new torch.nn.Linear's bias, 1 / (3 fan-in), from the weights before it."""
        before = [i for i in range(at) if self.kinds[i] == "weight"]
        if not before:
            raise ValueError(f"generated tensor {at} is a bias, but there are no weights before it to take a fan from.")
        return 1 / (3 * calc_fan_in_and_out(self.shapes[before[-1]])[0])

    def choose(self, name: str, values: Any, at: int, default: float) -> float:
        """The value for a tensor from a list, or a dict by kind, of such values."""
        if isinstance(values, Mapping):
            chosen = values.get(self.kinds[at])
        elif values is None:
            chosen = None
        else:
            if len(values) != len(self.shapes):
                raise ValueError(f"{name} must be {len(self.shapes)} values, one a tensor; received {len(values)}.")
            chosen = values[at]
        chosen = default if chosen is None else float(chosen)
        if name.endswith(("var", "vars")) and not chosen >= 0:
            raise ValueError(f"{name} must hold variances, at least 0; received {chosen}.")
        return chosen

    @torch.no_grad()
    def init_heads(self, body: MLP, second_moment: float, **given: Any) -> None:
        """Initialise the rows of the last layer for each generated tensor.

        Args:
            body: the generator.
            second_moment: E[h^2] of the last layer's inputs.
            **given: w_val, w_var, b_val and b_var.
        """
        weight, bias = last_layer(body)
        sizes = [MainNetInterface.shapes_to_num_weights([shape]) for shape in self.shapes]
        biases = [None] * len(sizes) if bias is None else list(torch.split(bias, sizes))
        fan = weight.shape[1]
        for at, (rows, row_bias) in enumerate(zip(torch.split(weight, sizes), biases, strict=True)):
            kind = self.kinds[at]
            wanted = self.weight_variance(at) / (fan * second_moment) if kind == "weight" else 0.0
            _draw(rows, self.choose("w_val", given["w_val"], at, 0.0), self.choose("w_var", given["w_var"], at, wanted))
            if row_bias is None:
                continue
            mean = self.choose("b_val", given["b_val"], at, 1.0 if kind in GAINS else 0.0)
            _draw(row_bias, mean, self.choose("b_var", given["b_var"], at, 1.0 if kind in DRAWN else 0.0))


@torch.no_grad()
def init_generator(body: MLP, variance: float, *, keep_last: bool) -> float:
    """Initialise a generator so that every layer's outputs, before activation, have the variance of its inputs.

    Args:
        body: the generator.
        variance: the mean variance of its inputs.
        keep_last: leave the last layer as it is.

    Returns:
        E[h^2] of the last layer's inputs.

    Raises:
        ValueError: if the weights come from outside.
    """
    if body.internal_params is None:
        raise ValueError("a network whose weights come from outside can't be initialised.")
    weights, biases = list(body.layer_weight_tensors), list(body.layer_bias_vectors)
    # A ReLU halves the second moment of a symmetric input (He et al. 2015, eq. 8).
    halved = isinstance(body._activation, nn.ReLU)
    second_moment = variance
    for i, weight in enumerate(weights):
        if i == len(weights) - 1 and keep_last:
            break
        wanted = variance / (weight.shape[1] * second_moment) if second_moment else 0.0
        _draw(weight, 0.0, wanted)
        if i < len(weights) - 1:
            second_moment = variance / 2 if halved else variance
    for bias in biases[:-1] if keep_last else biases:
        nn.init.zeros_(bias)
    return second_moment


def last_layer(body: LayeredNet) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of the output layer."""
    own = [body._book.entries[i].own for i in body._output_entries()]
    if own[0] is None:
        raise ValueError("a network whose weights come from outside can't be initialised.")
    return own[0], own[1] if len(own) > 1 else None


def _draw(tensor: Tensor, mean: float, variance: float) -> None:
    """Fill a tensor uniformly around a mean."""
    half = (3 * variance) ** 0.5
    tensor.uniform_(mean - half, mean + half)


def _kinds(shapes: list[list[int]], mnet: MainNetInterface | None) -> list[str]:
    if mnet is None:
        return ["weight" if len(shape) > 1 else "bias" for shape in shapes]
    meta = mnet.param_shapes_meta
    for indices in (range(len(meta)), mnet.hyper_shapes_learned_ref or ()):
        if [mnet.param_shapes[i] for i in indices] == shapes:
            return [str(meta[i]["name"]) for i in indices]
    raise ValueError(
        "mnet must have the generated tensors as its param_shapes or hyper_shapes_learned; received a network with "
        "other shapes."
    )
