"""Draws: what a run of several chains leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.kernels.arrays import Host
from hnbayes.params import ParamSpec


@dataclass(frozen=True)
class Draws:
    """Draws of C chains, S kept draws each, of D numbers.

    Attributes:
        positions: (C, S, D), on the CPU.
        stats: what the kernel reports, under ArviZ's names, each (C, S).
        warmup_positions, warmup_stats: the same of the warm-up, if it was kept.
        step_size: each chain's step size after warm-up, (C,).
        inverse_metric: each chain's inverse mass matrix after warm-up, (C, D) or (C, D, D).
        spec: names and shapes of what a position is made of, if known.
        metadata: how the run was made: kernel, seed, times.
        ragged_positions: after an interrupt, every draw of each chain, (S_c, D); `positions` then holds as many of each
            chain as the shortest has.

    Example:
        >>> draws = hnbayes.sample_potential(
        ...     lambda q: 0.5 * (q**2).sum(), torch.zeros(4, 3), warmup=20, draws=20, seed=0, progress=False
        ... )
        >>> draws.positions.shape, draws.step_size.shape
        (torch.Size([4, 20, 3]), torch.Size([4]))
        >>> draws.stats["acceptance_rate"].shape
        torch.Size([4, 20])
    """

    positions: Tensor
    stats: dict[str, Tensor]
    step_size: Tensor
    inverse_metric: Tensor
    warmup_positions: Tensor | None = None
    warmup_stats: dict[str, Tensor] | None = None
    spec: ParamSpec | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    ragged_positions: tuple[Tensor, ...] | None = None

    @property
    def chains(self) -> int:
        """C, the number of chains."""
        return self.positions.shape[0]

    @property
    def num_draws(self) -> int:
        """S, the number of draws kept of each chain."""
        return self.positions.shape[1]

    def __repr__(self) -> str:
        chains, draws, dimension = self.positions.shape
        return f"Draws({chains} chains x {draws} draws x {dimension} dimensions, {self.metadata.get('kernel')})"

    def params(self) -> dict[str, Tensor]:
        """The draws as named parameters, name -> (C, S, *shape), without copying.

        Raises:
            ValueError: if names and shapes are not known.
        """
        if self.spec is None:
            raise ValueError(
                "the draws must know the parameters' names; received draws of a plain function. Use "
                "nn_pot_energy, or Potential(function, spec=ParamSpec(names, shapes))."
            )
        return self.spec.unflatten(self.positions)

    def to_inference_data(self, **kwargs: Any) -> Any:
        """The draws as ArviZ data (InferenceData on 0.x, DataTree on 1.x); see `hnbayes.to_inference_data`."""
        from hnbayes.inference_data import to_inference_data

        return to_inference_data(self, **kwargs)


def remaining(chains: int, dropped: Collection[int]) -> Host:
    """The numbers of the chains that weren't dropped; of all, if all were: an error has their draws then."""
    everyone = np.arange(chains)
    kept = np.setdiff1d(everyone, list(dropped)).astype(np.int64)
    return kept if len(kept) else everyone


class Recorder:
    """Room for one phase of a run, filled chain by chain.

    Args:
        chains: C.
        draws: S.
        dimension: D.
        dtype: of the positions.
        stats: name -> NumPy dtype.
    """

    def __init__(self, chains: int, draws: int, dimension: int, dtype: torch.dtype, stats: Mapping[str, Any]) -> None:
        self.positions = torch.empty((chains, draws, dimension), dtype=dtype)
        self.stats = {name: np.zeros((chains, draws), kind) for name, kind in stats.items()}
        self.counts = np.zeros(chains, np.int64)
        self._array = self.positions.numpy()

    def store(self, chains: Host, positions: Host, info: Mapping[str, Host]) -> None:
        """Keep a draw (R, D) of some chains and what was reported of it."""
        at = self.counts[chains]
        self._array[chains, at] = positions
        for name, values in self.stats.items():
            values[chains, at] = info[name]
        # Last, so that an interrupt leaves no half-written draw among those that count.
        self.counts[chains] += 1

    def complete(self, kept: Host | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Positions and stats of as many draws as every chain has.

        Args:
            kept: numbers of the chains to look at; None looks at all.
        """
        if kept is not None:
            stats = {name: torch.from_numpy(values[kept]) for name, values in self.stats.items()}
            shortest = int(self.counts[kept].min())
            return self.positions[kept, :shortest], {name: values[:, :shortest] for name, values in stats.items()}
        shortest = int(self.counts.min())
        stats = {name: torch.from_numpy(values)[:, :shortest] for name, values in self.stats.items()}
        return self.positions[:, :shortest], stats

    def ragged(self, kept: Host | None = None) -> tuple[Tensor, ...] | None:
        """Every draw of each chain, if they have not equally many."""
        chains = range(len(self.counts)) if kept is None else kept.tolist()
        if len({int(self.counts[chain]) for chain in chains}) == 1:
            return None
        return tuple(self.positions[chain, : self.counts[chain]] for chain in chains)
