"""The mirror of a run that is divided in lots: one for all chains, written by the process that started the others."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from hnbayes.sampling.array_file import DamagedFileError
from hnbayes.sampling.callbacks import Event
from hnbayes.sampling.lots import Lot, Plan, files_of, reached
from hnbayes.sampling.mirror import Mirror

# Seconds between looks at the lots' checkpoints, at least: each look reads them.
LEAST = 0.2


class LotsMirror:
    """What writes the mirror of all chains, as far as the checkpoints of all lots have come.

    Args:
        folder: of the run.
        plan: of the run.
        every: seconds between checkpoints.

    Raises:
        ValueError: if a parameter has a name that an array can't have.
    """

    def __init__(self, folder: Path, plan: Plan, every: float) -> None:
        self.folder, self.plan, self.every = folder, plan, max(every, LEAST)
        self.mirror = self._new()
        self._due: float | None = None

    def _new(self) -> Mirror:
        chains, dimension = self.plan.positions.shape
        return Mirror(self.folder, self.plan.settings, self.plan.kernel, self.plan.spec, chains, dimension)

    def __call__(self) -> None:
        """Bring the mirror to the lots' checkpoints, if that is due; at first to all that they have."""
        if self._due is not None and time.monotonic() < self._due:
            return
        # Of draws that are damaged the lots will say so, or go on from before them.
        with contextlib.suppress(DamagedFileError):
            self.bring(whole=self._due is None)
        self._due = time.monotonic() + self.every

    def told(self, event: Event) -> None:
        """The same as a callback of a run in this process."""
        self()

    def bring(self, whole: bool = False, lost: Lot = ()) -> None:
        """Bring the mirror to the lots' checkpoints; see `Mirror.bring_to`."""
        so_far = reached(self.folder, self.plan, lost)
        phases = {}
        for phase, prefix in (("draws", ""), ("warmup", "warmup_")):
            if phase in so_far.counts:
                phases[prefix] = files_of(self.folder, self.plan, phase)
                phases[prefix].counts = so_far.counts[phase]
        self.mirror.bring_to(phases, so_far.dropped, so_far.metadata, whole)

    def finish(self, lost: Lot = ()) -> None:
        """Bring the mirror to the end of the run, and compare all of it.

        A lot whose newest checkpoint was damaged has gone on from the one before, when more was in the mirror already.
        """
        self.mirror = self._new()
        self.bring(True, lost)
