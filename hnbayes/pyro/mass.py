"""Mass matrices as Pyro lays them out, by tuples of site names, and Pyro's own adapters in place of ours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import describe
from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Array, Host, Vectors
from hnbayes.kernels.kernel import State
from hnbayes.kernels.metrics import Metric
from hnbayes.params import ParamSpec

FullMass = bool | Sequence[tuple[str, ...]]
Shapes = OrderedDict[tuple[str, ...], tuple[int, ...]]


def block_shapes(full_mass: FullMass, spec: ParamSpec) -> Shapes:
    """The blocks of a mass matrix: {site names: (size, size) if dense, (size,) if diagonal}, as in Pyro.

    Args:
        full_mass: True for one dense block, False for a diagonal, or tuples of the sites that share a dense block,
            the others being diagonal.
        spec: the sites.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a site is unknown or in two blocks.
    """
    if isinstance(full_mass, bool):
        dense = [tuple(sorted(spec.names))] if full_mass else []
    else:
        listed = isinstance(full_mass, (list, tuple)) and all(isinstance(names, tuple) and names for names in full_mass)
        if not listed:
            raise TypeError(f"full_mass must be a bool or a list of tuples of sites; received {describe(full_mass)}.")
        dense = list(full_mass)
    named = [name for names in dense for name in names]
    if len(set(named)) < len(named) or not set(named) <= set(spec.names):
        raise ValueError(
            f"full_mass must name each site at most once, of {', '.join(spec.names)}; received {full_mass!r}."
        )
    size = {names: sum(len(spec.indices(name)) for name in names) for names in dense}
    shapes: Shapes = OrderedDict((names, (size[names], size[names])) for names in dense)
    rest = tuple(sorted(set(spec.names) - set(named)))
    if rest:
        shapes[rest] = (sum(len(spec.indices(name)) for name in rest),)
    return shapes


def split_blocks(inverse: Host, shapes: Shapes, spec: ParamSpec) -> dict[tuple[str, ...], Tensor]:
    """An inverse mass matrix, (D,) or (D, D), as Pyro's kernels show it: {site names: block}."""
    blocks = {}
    for names, shape in shapes.items():
        at = indices(spec, names)
        diagonal = inverse if inverse.ndim == 1 else inverse.diagonal()
        if len(shape) == 1:
            block = diagonal[at]
        else:
            block = inverse[np.ix_(at, at)] if inverse.ndim == 2 else np.diag(diagonal[at])
        blocks[names] = torch.from_numpy(np.array(block))
    return blocks


def indices(spec: ParamSpec, names: Sequence[str]) -> list[int]:
    """Where some sites stand in the flat position, in the order in which they are named."""
    return [at for name in names for at in spec.indices(name)]


class AdapterMetric(Metric):
    """The metric of a mass-matrix adapter of Pyro's (`ArrowheadMassMatrix`, `BlockMassMatrix`), for one chain.

    Args:
        adapter: configured for the sites.
        spec: the sites.
        vectors: where vectors live.
    """

    def __init__(self, adapter: Any, spec: ParamSpec, vectors: Vectors) -> None:
        self.adapter = adapter
        self.spec = spec
        self.vectors = vectors

    def _load(self, inverse: Host) -> None:
        raise NotImplementedError("the adapter sets its own mass matrix.")

    @property
    def inverse(self) -> Array:
        """M^-1, shape (1, D, D)."""
        size = self.spec.size
        inverse = torch.zeros(size, size)
        for names, block in self.adapter.inverse_mass_matrix.items():
            at = torch.tensor(indices(self.spec, names))
            inverse[at[:, None], at] = (torch.diag(block) if block.ndim == 1 else block).to(inverse)
        return self.vectors.from_host(inverse.numpy())[None]

    def velocity(self, p: Array, ix: Any = None) -> Array:
        """M^-1 p, shape (R, D)."""
        return self._apply(lambda named: self.adapter.kinetic_grad(named), p)

    def momentum(self, z: Array, ix: Any = None) -> Array:
        """M^(1/2) z, shape (R, D)."""
        return self._apply(self._scale, z)

    def displacement(self, z: Array, ix: Any = None) -> Array:
        """M^(-1/2) z, shape (R, D)."""
        return self.velocity(self.momentum(z, ix), ix)

    def select(self, rows: Host) -> Metric:
        """The same metric: there is one chain."""
        return self

    def _scale(self, z: dict[str, Tensor]) -> dict[str, Tensor]:
        unscaled = {
            names: torch.cat([z[name].reshape(-1) for name in names]) for names in self.adapter.mass_matrix_size
        }
        scaled: dict[str, Tensor] = self.adapter.scale(unscaled, z)
        return scaled

    def _apply(self, function: Any, rows: Array) -> Array:
        tensor = self.vectors.tensor(np.ascontiguousarray(rows) if isinstance(rows, np.ndarray) else rows)
        results = [self.spec.flatten(function(self.spec.unflatten(row))) for row in tensor]
        return self.vectors.array(torch.stack(results)) if results else rows


class AdapterAdaptation(Adaptation):
    """Warm-up in which a mass-matrix adapter of Pyro's learns in our windows, beside our step size.

    Args:
        state: with an `AdapterMetric`.
        warmup, target, step_size: see `Adaptation`.
        learn: whether the adapter learns.
    """

    def __init__(self, state: State, warmup: int, target: float, step_size: bool, learn: bool) -> None:
        super().__init__(state, warmup, target, step_size, metric=None)
        self.learn = learn

    def update(self, state: State, rows: Host, chains: Host, done: Host, acceptance: Host) -> None:
        """See `Adaptation.update`."""
        super().update(state, rows, chains, done, acceptance)
        if not (self.learn and self.windows.ends) or not isinstance(state.metric, AdapterMetric):
            return
        spec, adapter = state.metric.spec, state.metric.adapter
        if self.windows.begin < done[0] <= self.windows.ends[-1]:
            gradient = state.vectors.tensor(state.gradient)[0].clone()
            adapter.update(spec.unflatten(state.positions_tensor()[0].clone()), spec.unflatten(gradient))
        if done[0] in self.windows.ends:
            adapter.end_adaptation()
            if self.averaging is not None:
                self.averaging.restart(chains, state.step_size[rows])
