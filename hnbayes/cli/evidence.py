"""Evidence: what the draws of a file say of functions and data, from which verdicts and pictures are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hnbayes.diagnostics import Report, diagnose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class HeldOut:
    """Rows that the sampler has not seen, and what is predicted of them, in the target's own unit.

    Attributes:
        y: (T,): numbers, or class numbers.
        predictive: draws of new observations (C, S, T), for numbers.
        probabilities: of the classes (T, K), for classes.
        log_likelihood: (C, S, T).
    """

    y: Array
    log_likelihood: Array
    predictive: Array | None = None
    probabilities: Array | None = None


@dataclass(frozen=True)
class Slice:
    """The functions along one input, the others at their mean, in the table's own units.

    Attributes:
        x: (N,).
        functions: (C, S, N).
        predictive: (C, S, N).
        prior: functions of the prior (1, P, N), if it can be drawn from.
        column: the input's name.
        observed: inputs and targets of the training rows, where there is one input only.
    """

    x: Array
    functions: Array
    predictive: Array
    column: str
    prior: Array | None = None
    observed: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run; what its file doesn't hold is None.

    Attributes:
        stats: the sampler's statistics, each (C, S).
        functions: the network's outputs at probe inputs (C, S, P) or (C, S, P, K).
        log_likelihood: of the training rows (C, S, N).
        log_prior: (C, S).
        dead_units: as `hnbayes.diagnostics.dead_units` gives them.
        held_out: rows that were not used.
        slice: along the first input.
        scores: name -> value, of the held-out rows.
        facts: label -> text: what was run.
        target: the name of what is predicted.
    """

    stats: Mapping[str, Array]
    functions: Array | None = None
    log_likelihood: Array | None = None
    log_prior: Array | None = None
    dead_units: Mapping[str, Array] = field(default_factory=dict)
    held_out: HeldOut | None = None
    slice: Slice | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    target: str = ""

    def report(self) -> Report:
        """Every check that can be made.

        Raises:
            ValueError: if there is nothing to look at.
        """
        return diagnose(
            functions=self.functions,
            log_likelihood=self.log_likelihood,
            log_prior=self.log_prior,
            stats=self.stats,
            dead_units=self.dead_units,
        )
