"""Schedules: how the step size goes in the course of a run, and when draws are kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from hnbayes._checks import check_choice, check_count, check_fraction, check_positive, describe


@dataclass(frozen=True)
class Stage:
    """What a step is.

    Attributes:
        scale: its size, as a share of `step_size`.
        explores: whether it goes down without noise, and isn't kept.

    Example:
        >>> hnbayes.minibatch.Stage(0.5)
        Stage(scale=0.5, explores=False)
    """

    scale: float
    explores: bool = False


class Schedule(ABC):
    """The stage of every step.

    Example:
        >>> class Halving(hnbayes.minibatch.Schedule):
        ...     def at(self, step, warmup, steps):
        ...         return hnbayes.minibatch.Stage(0.5 ** (step // 100))
        >>> Halving().at(200, warmup=0, steps=1000).scale
        0.25
    """

    @abstractmethod
    def at(self, step: int, warmup: int, steps: int) -> Stage:
        """The stage of a step.

        Args:
            step: its number from 0 on, those of warm-up included.
            warmup: steps of warm-up.
            steps: steps after it.
        """


class Constant(Schedule):
    """All steps have the same size.

    Example:
        >>> hnbayes.minibatch.Constant().at(7, warmup=5, steps=10)
        Stage(scale=1.0, explores=False)
    """

    def at(self, step: int, warmup: int, steps: int) -> Stage:
        """See `Schedule.at`."""
        return Stage(1.0)


class Cyclical(Schedule):
    r"""Cosine cycles: large steps find another mode, small ones sample it (Zhang et al. 2020, eq. 1 and algorithm 1).

    Step k of a cycle of L has the size \(\frac{\epsilon_0}2 (\cos(\pi k / L) + 1)\). The first part of a cycle goes
    down without noise; draws are kept from the rest. Every mode counts by the cycles that end in it, not by its mass.

    Args:
        cycles: into how many the steps after warm-up are divided.
        exploration: the share of a cycle without noise; 0 has noise all the time.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> cycles = hnbayes.minibatch.Cyclical(cycles=2, exploration=0.5)
        >>> [round(cycles.at(step, warmup=0, steps=8).scale, 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 1.0]
    """

    def __init__(self, cycles: int = 4, exploration: float = 0.8) -> None:
        self.cycles = check_count("cycles", cycles)
        self.exploration = 0.0 if exploration == 0 else check_fraction("exploration", exploration)

    def at(self, step: int, warmup: int, steps: int) -> Stage:
        """See `Schedule.at`."""
        if step < warmup:
            return Stage(1.0)
        length = math.ceil(steps / self.cycles)
        share = ((step - warmup) % length) / length
        return Stage(0.5 * (math.cos(math.pi * share) + 1), share < self.exploration)


class Custom(Schedule):
    """A function's sizes.

    Args:
        function: from the number of a step, from 0 on and with those of warm-up, to a positive number, by which
            `step_size` is multiplied. Draws count alike, whatever the size of the step that they come from.

    Raises:
        TypeError: if it is no function.

    Example:
        >>> hnbayes.minibatch.Custom(lambda step: 1 / (1 + step)).at(3, warmup=0, steps=10).scale
        0.25
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        if not callable(function):
            raise TypeError(f"function must be one of the number of a step; received {describe(function)}.")
        self.function = function

    def at(self, step: int, warmup: int, steps: int) -> Stage:
        """See `Schedule.at`."""
        return Stage(check_positive(f"schedule({step})", self.function(step)))


def as_schedule(schedule: str | Schedule | Callable[[int], float]) -> Schedule:
    """A schedule from what a user gives.

    Raises:
        TypeError: if it is neither a name, a schedule nor a function.
        ValueError: if the name is unknown.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        return {"constant": Constant, "cyclical": Cyclical}[
            check_choice("schedule", schedule, ("constant", "cyclical"))
        ]()
    if callable(schedule) and not isinstance(schedule, type):
        return Custom(schedule)
    raise TypeError(
        f"schedule must be 'constant', 'cyclical', a Schedule or a function of the number of a step; received "
        f"{describe(schedule)}."
    )
