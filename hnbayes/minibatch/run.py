"""Run: the steps of all chains, from their starts to a posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from hnbayes._version import __version__
from hnbayes.minibatch.kernels import MinibatchKernel, StepTerms
from hnbayes.minibatch.schedules import Schedule
from hnbayes.posterior import Model, Posterior
from hnbayes.posterior.ensemble import captured
from hnbayes.rng import Stream
from hnbayes.sampling import Draws
from hnbayes.sampling.callbacks import Callback, Event, StopSampling
from hnbayes.sampling.draws import Recorder

STATS = {"lp": np.float64, "step_size": np.float64, "diverging": np.bool_}


@dataclass(frozen=True)
class Plan:
    """What each step of a run is.

    Attributes:
        warmup: how many come before those that may be kept.
        sizes: their step sizes.
        temperatures: likewise, 0 for those without noise.
        kept: whether the step's end is a draw.
    """

    warmup: int
    sizes: list[float]
    temperatures: list[float]
    kept: list[bool]

    @classmethod
    def of(cls, schedule: Schedule, step_size: float, temperature: float, warmup: int, draws: int, thin: int) -> Plan:
        """The plan of a schedule; see `sample_minibatch` for the arguments.

        Raises:
            ValueError: if no draw would be kept.
        """
        stages = [schedule.at(step, warmup, draws) for step in range(warmup + draws)]
        kept = [
            step >= warmup and (step - warmup + 1) % thin == 0 and not stage.explores
            for step, stage in enumerate(stages)
        ]
        if not any(kept):
            raise ValueError(
                f"draws must be enough for one to be kept; received {draws}, of which one in {thin} is, and none where "
                "a cycle explores. Ask for more."
            )
        sizes = [step_size * stage.scale for stage in stages]
        return cls(warmup, sizes, [0.0 if stage.explores else temperature for stage in stages], kept)


@dataclass
class Run:
    """A run between two steps.

    Attributes:
        model: what is sampled.
        X, y: all data.
        kernel: how steps go.
        plan: how large they are.
        q: positions, (C, D).
        batches: inputs (C, n, ...) and data (C, n, ...), without end.
        streams: of the chains' noise.
        metadata: how the run is made.
    """

    model: Model
    X: Tensor
    y: Tensor
    kernel: MinibatchKernel
    plan: Plan
    q: Tensor
    batches: Iterator[tuple[Tensor, Tensor]]
    streams: Sequence[Stream]
    metadata: dict[str, Any]
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        chains, dimension = self.q.shape
        self.recorder = Recorder(chains, sum(self.plan.kept), dimension, self.q.dtype, STATS)
        self.memory = self.kernel.begin(self.q)
        self.gradients = Gradients(self.model, len(self.X))
        self.noise = torch.empty(self.q.shape, dtype=self.q.dtype)

    def go(self, callbacks: Sequence[Callback]) -> Posterior:
        """Make all steps, unless somebody stops it.

        Raises:
            ValueError: if a chain leaves the numbers; see `sample_minibatch`.
        """
        try:
            for step in range(len(self.plan.sizes)):
                event = self.step(step)
                for callback in callbacks:
                    callback(event)
        except (KeyboardInterrupt, StopSampling):
            return self.posterior(interrupted=True)
        except Exception as error:
            error.posterior = self.posterior(interrupted=True)  # type: ignore[attr-defined]
            raise
        return self.posterior(interrupted=False)

    def step(self, number: int) -> Event:
        """Make a step of every chain, and keep what is to be kept."""
        plan, chains = self.plan, np.arange(len(self.q))
        size = plan.sizes[number]
        energy, gradient = self.gradients(self.q, *next(self.batches))
        values = energy.double().cpu().numpy()
        if not np.isfinite(values).all():
            chain = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"step_size must be small enough for chains to stay where U is finite; received {size:.3g}, with which "
                f"chain {chain} left it before step {number}. Lower it."
            )
        for row, stream in zip(self.noise.numpy(), self.streams, strict=True):
            stream.standard_normal(dtype=row.dtype, out=row)
        terms = StepTerms(
            gradient,
            self.noise.to(self.q.device),
            step_size=size,
            data=len(self.X),
            temperature=plan.temperatures[number],
            warming_up=number < plan.warmup,
        )
        self.q = self.kernel.step(self.q, self.memory, terms)
        positions = self.q.cpu().numpy()
        info = {"lp": -values, "step_size": np.full(len(chains), size), "diverging": np.zeros(len(chains), bool)}
        if plan.kept[number]:
            self.recorder.store(chains, positions, info)
        return Event(chains, np.full(len(chains), number + 1), plan.warmup, len(plan.sizes), positions, info)

    def posterior(self, interrupted: bool) -> Posterior:
        """The draws so far."""
        positions, stats = self.recorder.complete()
        made = {"version": __version__, "sampling_time": time.monotonic() - self._began}
        draws = Draws(
            positions=positions,
            stats=stats,
            step_size=torch.full((len(self.q),), self.plan.sizes[-1], dtype=torch.float64),
            inverse_metric=torch.ones(self.q.shape, dtype=torch.float64),
            spec=self.model.spec,
            metadata={**self.metadata, **made, "interrupted": int(interrupted)},
        )
        return Posterior(self.model, draws, self.X, self.y)


class Gradients:
    """U of each chain, estimated from its batch, and its gradient; a captured graph for each size of batch."""

    def __init__(self, model: Model, data: int) -> None:
        self.model, self.data = model, data
        self.functions: dict[int, Callable[..., Tensor]] = {}

    def __call__(self, q: Tensor, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Values (C,) and gradients (C, D)."""
        size = X.shape[1]
        if size not in self.functions:
            self.functions[size] = captured(vmap(self._of(size)), q, X, y)
        both = self.functions[size](q, X, y)
        return both[:, 0], both[:, 1:]

    def _of(self, size: int) -> Callable[..., Tensor]:
        share = self.data / size

        def energy(q: Tensor, X: Tensor, y: Tensor) -> Tensor:
            log_prior, log_likelihood = self.model.log_terms(q, X, y)
            return -(log_prior + share * log_likelihood)

        def both(q: Tensor, X: Tensor, y: Tensor) -> Tensor:
            gradient, value = grad_and_value(energy)(q, X, y)
            return torch.cat((value[None], gradient))

        return both
