"""The time that JAX spends on tracing, lowering and compiling."""

from __future__ import annotations

import time
from typing import Any

import jax

COMPILING = "/jax/core/compile/"


class CompilingTime:
    """Listens to JAX's own events while it is alive; events within events count once."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._take)

    def _take(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith(COMPILING):
            now = time.perf_counter()
            self.intervals.append((now - duration, now))

    def seconds(self, began: float, ended: float) -> float:
        """The length of the union of the events between two times."""
        total, reached = 0.0, began
        for start, end in sorted(self.intervals):
            end = min(end, ended)
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total
