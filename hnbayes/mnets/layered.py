"""LayeredNet: layers with weights, and between them context modulation and batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnbayes._checks import check_floating, describe
from hnbayes.layers import BatchNormLayer, ContextModLayer, init_params
from hnbayes.mnets.bookkeeping import Entry, ParamBook, Weights
from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions
from hnbayes.mnets.stored import take_up

INPUTS = "inputs"


@dataclass(frozen=True)
class LayerPlan:
    """What belongs to one layer.

    Attributes:
        name: how the forward pass refers to it.
        weight: the shape of its weights.
        bias: the shape of its biases, None where it has none.
        norm: channels of its batch normalisation, None where it has none.
        modulated: the shape of its gains and shifts, None where it has none.
    """

    name: str
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None = None
    norm: int | None = None
    modulated: tuple[int, ...] | None = None


class LayerWeights(nn.Module):
    """Weights and biases of one layer, or the places where they would be if they come from outside."""

    def __init__(self, plan: LayerPlan, external: bool) -> None:
        super().__init__()
        self.weight: Tensor | None
        self.bias: Tensor | None
        for name, shape in (("weight", plan.weight), ("bias", plan.bias)):
            external_or_none = external or shape is None
            self.register_parameter(name, None if external_or_none else nn.Parameter(torch.empty(shape or ())))
        if self.weight is not None:
            init_params(self.weight, self.bias)


@dataclass(frozen=True)
class Pass:
    """The tensors of one forward pass, by layer."""

    layers: Mapping[str, tuple[Tensor, Tensor | None]]
    gains: Mapping[str, list[Tensor]]
    norms: Mapping[str, list[Tensor]]
    stats: Mapping[str, tuple[Tensor, Tensor]]
    bn_stats_id: int | None
    cmod_ckpt_id: int | None


class LayeredNet(nn.Module, MainNetInterface):
    """A network that is a table of layers and a forward pass over it.

    The parameters come in the order: gains and shifts, gains and offsets of batch normalisation, projections, layers.

    Args:
        layers: the layers, in order; the last is the output layer.
        projections: layers of shortcut connections, laid out before the others, their batch normalisation behind.
        inputs: the shape of gains and shifts of the inputs.
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        norm: batch normalisation.
        modulation: context modulation.
        spectral: whether each weight is divided by its largest singular value.
    """

    # What a bare integer given as `condition` selects.
    _plain_condition = "bn_stats_id"

    def __init__(
        self,
        layers: Sequence[LayerPlan],
        *,
        projections: Sequence[LayerPlan] = (),
        inputs: tuple[int, ...] | None = None,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        norm: BatchNormOptions | None = None,
        modulation: ContextModOptions | None = None,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        self._norm = norm or BatchNormOptions()
        self._modulation = modulation or ContextModOptions()
        self._spectral = spectral
        self._no_weights = no_weights
        self._cm_at = {plan.name: i for i, plan in enumerate(self._modulated(layers, inputs))}
        self._bn_at = {plan.name: i for i, plan in enumerate(self._normalised([*layers, *projections]))}
        self._layer_names = [plan.name for plan in (*projections, *layers)]
        self._context_mod_layers = nn.ModuleList(self._context_mod(plan) for plan in self._modulated(layers, inputs))
        self._batchnorm_layers = nn.ModuleList(
            BatchNormLayer(plan.norm or 0, affine=not no_weights, track_running_stats=self._norm.track)
            for plan in self._normalised([*layers, *projections])
        )
        self.layers = nn.ModuleList(LayerWeights(plan, no_weights) for plan in (*projections, *layers))
        self._has_bias = any(plan.bias is not None for plan in layers)
        self._book = self._make_book([*projections, *layers])
        if init_weights is not None:
            if no_weights and not self._book.own:
                raise ValueError("a network has initial weights or none; received init_weights and no_weights=True.")
            self.overwrite_internal_params(init_weights)

    def distillation_targets(self) -> list[Tensor] | None:
        """Means and variances of the latest statistics of each batch-norm layer; None where these aren't distilled."""
        if not self._norm.distill:
            return None
        return [tensor for name in self._bn_at for tensor in self._bn_layer(name).get_stats()]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        take_up(self, [self._book.entries[i] for i in self._book.own], state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _begin(self, weights: Weights, distilled: Sequence[Tensor] | None, condition: Any) -> Pass:
        """Choose the tensors of a forward pass."""
        return self._sort(self._book.tensors(weights), weights, distilled, condition)

    def _sort(
        self, tensors: Sequence[Tensor], weights: Weights, distilled: Sequence[Tensor] | None, condition: Any
    ) -> Pass:
        """The tensors of a forward pass by what they are for."""
        remaining = iter(tensors)
        gains = {name: [next(remaining) for _ in self._cm_layer(name).param_shapes] for name in self._cm_at}
        norms = {name: [next(remaining), next(remaining)] for name in self._bn_at}
        rows: dict[str, tuple[Tensor, Tensor | None]] = {}
        for name in self._layer_names:
            rows[name] = next(remaining), next(remaining) if self._biased[name] else None
        if self._spectral:
            rows = {name: (spectrally_normalised(weight), bias) for name, (weight, bias) in rows.items()}
        stats = self._distilled(distilled)
        bn_id, cm_id = self._conditions(condition)
        # Stored modulation replaces the network's own, never what was given.
        stored = cm_id is not None and not self._given_modulation(weights)
        return Pass(rows, {} if stored else gains, norms, stats, bn_id, cm_id)

    def _modulate(self, name: str, h: Tensor, tensors: Pass, bs_dim: int = 0) -> Tensor:
        """Apply the modulation of a layer, where it has one."""
        if name not in self._cm_at:
            return h
        output: Tensor = self._cm_layer(name)(
            h, weights=tensors.gains.get(name), ckpt_id=tensors.cmod_ckpt_id, bs_dim=bs_dim
        )
        return output

    def _normalise(self, name: str, h: Tensor, tensors: Pass) -> Tensor:
        """Apply the batch normalisation of a layer, where it has one."""
        if name not in self._bn_at:
            return h
        scale, shift = tensors.norms[name]
        mean, var = tensors.stats.get(name, (None, None))
        output: Tensor = self._bn_layer(name)(
            h, running_mean=mean, running_var=var, weight=scale, bias=shift, stats_id=tensors.bn_stats_id
        )
        return output

    def _activated(self, name: str, h: Tensor, tensors: Pass, activation: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Modulation, normalisation and activation that follow the computation of a layer; None is no activation."""
        after = self._modulation.post_activation
        h = h if after else self._modulate(name, h, tensors)
        h = self._normalise(name, h, tensors)
        h = h if activation is None else activation(h)
        return self._modulate(name, h, tensors) if after else h

    def _holder(self, name: str) -> LayerWeights:
        return cast(LayerWeights, self.layers[self._layer_names.index(name)])

    def _cm_layer(self, name: str) -> ContextModLayer:
        return cast(ContextModLayer, self._context_mod_layers[self._cm_at[name]])

    def _bn_layer(self, name: str) -> BatchNormLayer:
        return cast(BatchNormLayer, self._batchnorm_layers[self._bn_at[name]])

    def _given_modulation(self, weights: Weights) -> bool:
        """Whether gains and shifts are among given weights."""
        if isinstance(weights, Mapping):
            return "mod_weights" in weights
        return weights is not None and (len(weights) != len(self._book.needed) or self._modulation.no_weights)

    def _conditions(self, condition: Any) -> tuple[int | None, int | None]:
        """The statistics and the modulation that a condition selects."""
        if condition is None:
            return None, None
        if not isinstance(condition, Mapping):
            condition = {self._plain_condition: condition}
        unknown = sorted(set(condition) - {"bn_stats_id", "cmod_ckpt_id"})
        if unknown:
            raise ValueError(
                "condition must be an integer or a dict with the keys bn_stats_id and cmod_ckpt_id; "
                f"received {unknown}."
            )
        return condition.get("bn_stats_id"), condition.get("cmod_ckpt_id")

    def _distilled(self, distilled: Sequence[Tensor] | None) -> dict[str, tuple[Tensor, Tensor]]:
        if distilled is None:
            return {}
        if not self._norm.distill:
            raise ValueError("distilled_params need a network built with distill_bn_stats=True; received some.")
        if len(distilled) != 2 * len(self._bn_at):
            raise ValueError(
                f"distilled_params must be {2 * len(self._bn_at)} tensors, as hyper_shapes_distilled says; "
                f"received {len(distilled)}."
            )
        return {name: (distilled[2 * i], distilled[2 * i + 1]) for name, i in self._bn_at.items()}

    def _modulated(self, layers: Sequence[LayerPlan], inputs: tuple[int, ...] | None) -> list[LayerPlan]:
        """The layers with modulation, the inputs among them."""
        if not self._modulation.use:
            return []
        first = [LayerPlan(INPUTS, (), modulated=inputs)] if self._modulation.inputs and inputs else []
        behind = [plan for plan in layers if plan.modulated is not None]
        return [*first, *(behind[:-1] if self._modulation.not_last else behind)]

    def _normalised(self, layers: Sequence[LayerPlan]) -> list[LayerPlan]:
        return [plan for plan in layers if plan.norm is not None] if self._norm.use else []

    def _context_mod(self, plan: LayerPlan) -> ContextModLayer:
        options = self._modulation
        return ContextModLayer(
            plan.modulated or (),
            no_weights=options.no_weights,
            apply_gain_offset=options.gain_offset,
            apply_gain_softplus=options.gain_softplus,
        )

    def _make_book(self, plans: Sequence[LayerPlan]) -> ParamBook:
        self._biased = {plan.name: plan.bias is not None for plan in plans}
        shown = dict(zip(self._layer_names, self.layers, strict=True))
        # Tensors of one part of one layer share a number.
        parts = [(name, "cm") for name in self._cm_at] + [(name, "bn") for name in self._bn_at]
        numbers = {part: i for i, part in enumerate([*((name, "layer") for name in self._layer_names), *parts])}
        entries = []
        for name in self._cm_at:
            layer = self._cm_layer(name)
            entries += [
                Entry(layer.num_features, f"cm_{kind}", numbers[name, "cm"], layer, attribute)
                for kind, attribute in (("scale", "gain"), ("shift", "shift"))
            ]
        for name in self._bn_at:
            norm = self._bn_layer(name)
            entries += [
                Entry((norm.num_features,), f"bn_{kind}", numbers[name, "bn"], norm, attribute)
                for kind, attribute in (("scale", "scale"), ("shift", "bias"))
            ]
        for plan in plans:
            owner, number = shown[plan.name], numbers[plan.name, "layer"]
            entries.append(Entry(plan.weight, "weight", number, owner, "weight"))
            if plan.bias is not None:
                entries.append(Entry(plan.bias, "bias", number, owner, "bias"))
        modulating = [i for i, entry in enumerate(entries) if entry.modulates]
        others = [i for i in range(len(entries)) if i not in set(modulating)]
        groups = {"internal_weights": others, "mod_weights": modulating}
        return ParamBook(entries, groups, short="mod_weights" if modulating else None)


def spectrally_normalised(weight: Tensor) -> Tensor:
    """A weight tensor (out, ...) over its largest singular value as a matrix (Miyato et al. 2018, eq. 8), exactly.

    Computed, not iterated: a function of the weights alone, in training and evaluation mode alike.
    """
    return weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2)


def check_vectors(x: Any, n_in: int) -> Tensor:
    """Return inputs if they are a batch of vectors (N, n_in).

    Raises:
        TypeError: if they are not a floating-point tensor.
        ValueError: if their shape is another.
    """
    check_floating("x", x)
    if x.ndim < 2 or x.shape[-1] != n_in:
        raise ValueError(f"x must have shape (N, {n_in}); received {describe(x)}.")
    return x
