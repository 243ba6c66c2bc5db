"""One chain of the engine, stepped from outside, and what is reported of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from hnbayes.kernels.adaptation import Adaptation, find_step_size
from hnbayes.kernels.arrays import Host, vectors_like
from hnbayes.kernels.kernel import Kernel, State, new_state
from hnbayes.kernels.metrics import Metric, as_metric, identity_metric
from hnbayes.potentials.base import Potential
from hnbayes.pyro.mass import AdapterAdaptation, AdapterMetric, FullMass, block_shapes
from hnbayes.pyro.potentials import spec_of
from hnbayes.rng import chain_streams
from hnbayes.sampling.arguments import ASSUMED_STEPS, block_structure

ONLY_CHAIN = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Settings:
    """How a chain is to be sampled.

    Attributes:
        transition: the engine's kernel.
        step_size: where the step size starts.
        adapt_step_size, adapt_mass_matrix: what warm-up adapts.
        full_mass: see `hnbayes.pyro.mass.block_shapes`.
        target_accept: the mean acceptance aimed at.
        step_limits: bounds on the step size that the search may find.
        adapter: a mass-matrix adapter of Pyro's to use, if any.
    """

    transition: Kernel
    step_size: float
    adapt_step_size: bool
    adapt_mass_matrix: bool
    full_mass: FullMass
    target_accept: float
    step_limits: tuple[float, float] = (0.0, np.inf)
    adapter: Any = None


class SingleChain:
    """A chain that takes a transition at each call of `step`; the first of them are its warm-up.

    Args:
        potential: U, with a spec.
        position: where it starts, (D,).
        settings: how to sample.
        warmup: transitions of warm-up.
        seed: of its random stream.
    """

    def __init__(self, potential: Potential, position: Tensor, settings: Settings, warmup: int, seed: int) -> None:
        self.settings = settings
        self.spec = spec_of(potential)
        self.warmup = warmup
        self.done = 0
        self.mean_acceptance = 0.0
        self.stats: dict[str, list[Any]] = {name: [] for name in settings.transition.stats}
        positions = position.detach()[None]
        transition = settings.transition
        if transition.uses_gradient:
            potential.prepare(positions, (warmup + 1) * ASSUMED_STEPS)
        metric, kind = self._first_metric(positions)
        streams = chain_streams(seed, [0])
        self.state: State = transition.init(potential, positions, streams, settings.step_size, metric)
        if settings.adapt_step_size and transition.uses_gradient:
            self.state.step_size[:] = np.clip(find_step_size(transition, self.state), *settings.step_limits)
        self.adaptation = self._adaptation(kind)

    @property
    def step_size(self) -> float:
        """The present step size."""
        return float(self.state.step_size[0])

    @property
    def inverse_mass(self) -> Host:
        """The present inverse mass matrix, (D,) or (D, D)."""
        inverse = self.state.metric.host_inverse()[0]
        return np.broadcast_to(inverse, self.state.position.shape[1]) if inverse.size == 1 else inverse

    def step(self) -> Tensor:
        """Take a transition.

        Returns:
            The new position (D,).
        """
        finished = None
        while finished is None:
            self.state, finished = self.settings.transition.advance(self.state)
        self.done += 1
        acceptance = finished.info["acceptance_rate"]
        if self.done <= self.warmup:
            self.adaptation.update(self.state, ONLY_CHAIN, ONLY_CHAIN, np.array([self.done]), acceptance)
        else:
            for name, values in finished.info.items():
                self.stats[name].append(values[0])
        count = self.done if self.done <= self.warmup else self.done - self.warmup
        self.mean_acceptance += (float(acceptance[0]) - self.mean_acceptance) / count
        return self.state.positions_tensor()[0].clone()

    def move(self, position: Tensor, value: Tensor | None = None, gradient: Tensor | None = None) -> None:
        """Go on from elsewhere.

        Args:
            position: (D,).
            value: U there, if it is known.
            gradient: its gradient there, (D,), if it is known.
        """
        state, positions = self.state, position.detach()[None]
        if value is None or gradient is None:
            self.state = self.settings.transition.init(
                state.potential, positions, state.streams, state.step_size, state.metric
            )
            return
        self.state = new_state(
            state.potential, positions, value[None], gradient[None], state.streams, state.step_size, state.metric
        )

    def _first_metric(self, positions: Tensor) -> tuple[Metric, Literal["diag", "dense"] | None]:
        """The metric to start with, and the kind that our adaptation learns, if any."""
        settings, dimension, vectors = self.settings, positions.shape[1], vectors_like(positions)
        if settings.adapter is not None:
            shapes = block_shapes(settings.full_mass, self.spec)
            options = {"dtype": positions.dtype, "device": positions.device}
            settings.adapter.configure(shapes, settings.adapt_mass_matrix, options=options)
            return AdapterMetric(settings.adapter, self.spec, vectors), None
        if not settings.adapt_mass_matrix:
            return as_metric(1.0, dimension, vectors), None
        kind: Literal["diag", "dense"] = "dense" if settings.full_mass else "diag"
        return identity_metric(kind, 1, dimension, vectors), kind

    def _adaptation(self, kind: Literal["diag", "dense"] | None) -> Adaptation:
        settings = self.settings
        if settings.adapter is not None:
            return AdapterAdaptation(
                self.state, self.warmup, settings.target_accept, settings.adapt_step_size, settings.adapt_mass_matrix
            )
        blocks = None if isinstance(settings.full_mass, bool) else list(settings.full_mass)
        structure = block_structure(blocks, self.spec) if blocks and kind is not None else None
        return Adaptation(
            self.state, self.warmup, settings.target_accept, settings.adapt_step_size, kind, structure=structure
        )


def report(stats: Mapping[str, Any], step_size: float) -> dict[str, Any]:
    """What `diagnostics()` says of a chain: Pyro's entries, its step size, and the statistics of each draw.

    Args:
        stats: name -> one value a draw.
        step_size: after warm-up.
    """
    arrays = {name: np.asarray(values) for name, values in stats.items()}
    # A proposal of Metropolis without density is a rejection like any other; only trajectories diverge.
    diverging = arrays.get("diverging", np.zeros(0, bool)) if "energy" in arrays else np.zeros(0, bool)
    acceptance = arrays.get("acceptance_rate", np.zeros(0))
    return {
        "divergences": np.flatnonzero(diverging).tolist(),
        "acceptance rate": float(acceptance.mean()) if acceptance.size else float("nan"),
        "step size": step_size,
        "sample_stats": arrays,
    }
