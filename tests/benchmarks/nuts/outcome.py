"""What every sampler hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nuts.problems import Problem


@dataclass(frozen=True)
class Job:
    """A run to do.

    Attributes:
        problem: the posterior.
        chains, warmup, draws: how long.
        seed: of starts and sampler.
        target_accept: what step sizes are adapted to.
    """

    problem: Problem
    chains: int
    warmup: int
    draws: int
    seed: int
    target_accept: float


@dataclass(frozen=True)
class Outcome:
    """A run that was done.

    Attributes:
        positions: draws after warm-up, (C, S, D).
        wall: seconds from the first call to the draws on the host, with all that a first use costs.
        preparing: the seconds of it in tracing, capturing and compiling.
        gradients: evaluations of one chain's gradient, of all chains and warm-up included.
        draw_gradients: those after warm-up.
        divergences: after warm-up.
        energies: U at the problem's probes.
        extra: what else a sampler knows of itself.
    """

    positions: np.ndarray
    wall: float
    preparing: float
    gradients: int
    draw_gradients: float
    divergences: int
    energies: np.ndarray
    extra: dict[str, Any] = field(default_factory=dict)


Sampler = Callable[[Job], Outcome]
