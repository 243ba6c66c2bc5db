"""Shift: the lots that one process samples, in turns, from their begin or their checkpoints to their end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hnbayes.potentials.base import Potential
from hnbayes.sampling.beginning import begin
from hnbayes.sampling.callbacks import Callback, StopSampling
from hnbayes.sampling.engine import Run
from hnbayes.sampling.isolation import Isolated
from hnbayes.sampling.loop import Stepper
from hnbayes.sampling.lots import LOT, Lot, Plan
from hnbayes.sampling.resume import run_of
from hnbayes.sampling.run_folder import HeldError, RunFolder, Share, numbers_of_checkpoints, read_start
from hnbayes.sampling.signals import StopRequest

# Seconds that the processes of a run that was killed are given to notice it.
PATIENCE = 15.0


class Shift:
    """Some lots of a run, in this process.

    Args:
        folder: of the run.
        plan: of the run.
        numbers: of the lots.
        request: looked at after every evaluation.

    Attributes:
        chains: those that are being dealt with, for messages.
        dropped: what lots have raised all of whose chains were dropped.
        runs: the lots that were opened.
    """

    def __init__(self, folder: Path, plan: Plan, numbers: Sequence[int], request: StopRequest) -> None:
        self.folder, self.plan, self.numbers, self.request = folder, plan, numbers, request
        self.chains: Lot = tuple(chain for number in numbers for chain in plan.lots[number])
        self.dropped: list[Exception] = []
        self.runs: list[tuple[Lot, Run]] = []

    def open(self, U: Potential, held: contextlib.ExitStack) -> None:
        """Bring each lot to its begin, or to its newest checkpoint.

        Args:
            U: the potential.
            held: lets go of the lots' folders.
        """
        plan = self.plan
        if len(plan.lots[0]) == 1:
            # All lots share a graph, which must not depend on which of them this process has.
            first = plan.positions[:1]
            if plan.kernel.uses_gradient:
                U.prepare(first, plan.settings.evaluations)
            else:
                U.value(first)
        for number in self.numbers:
            self.chains = plan.lots[number]
            run = self._run(self.folder / LOT.format(number), plan.share(self.folder, number), U, held)
            self.runs.append((self.chains, run))

    def _run(self, path: Path, share: Share | None, U: Potential, held: contextlib.ExitStack) -> Run:
        lot, plan = self.chains, self.plan
        if len(lot) > 1:
            U = U.without_graphs()
        if plan.settings.on_error == "drop":
            U = Isolated(U)
        if numbers_of_checkpoints(path):
            folder = held.enter_context(_patiently(lambda: RunFolder(path, "resume", share)))
            start, record = read_start(path)
            run = run_of(folder, start, record, U)
            run.progress.numbers = lot
            folder.newest(run.restore)
            return run
        folder = held.enter_context(_patiently(lambda: RunFolder(path, "create", share)))
        positions, metric = plan.positions[list(lot)], plan.metric_of(lot)
        settings = plan.settings_of(lot)
        run = begin(U, plan.kernel, positions, settings, plan.step_size, metric, plan.structure, folder)
        run.progress.numbers = lot
        return run

    def work(self, every: float, draws: int | None, callbacks: Callable[[Lot], Sequence[Callback]]) -> None:
        """Take turns, one evaluation each, until all have ended or somebody stops them.

        Args:
            every: seconds between checkpoints.
            draws: transitions after warm-up in all, if more than the lots were asked for.
            callbacks: of a lot.

        Raises:
            Exception: of a lot; the others have written a checkpoint.
        """
        going_on = [(lot, run, run.stepper(callbacks(lot), self.request, every)) for lot, run in self.runs]
        try:
            while going_on:
                for entry in tuple(going_on):
                    lot, run, stepper = entry
                    self.chains = lot
                    if self._step(run, stepper):
                        continue
                    going_on.remove(entry)
                    if draws is not None and draws > run.draws and not self.request.signal:
                        run.add_draws(draws)
                        run.save()
                        going_on.append((lot, run, run.stepper(callbacks(lot), self.request, every)))
        except Exception:
            # The chain that has raised it is where it was; the others go on from here.
            for lot, run, _ in going_on:
                if lot != self.chains:
                    run.save()
            raise

    def _step(self, run: Run, stepper: Stepper) -> bool:
        """One evaluation of a lot; says whether it goes on."""
        try:
            if not stepper.ended:
                stepper.step()
        except StopSampling:
            stepper.cut_short(torn=False)
            run.save()
            return False
        except Exception as error:
            if len(run.progress.dropped) < len(run.progress.done):
                raise
            # All chains of the lot were dropped; it is the run's end only if all others are.
            stepper.leave()
            self.dropped.append(error)
        if stepper.ended:
            run.save()
        return not stepper.ended


def _patiently(take: Callable[[], RunFolder]) -> RunFolder:
    """A folder, as soon as a process that is about to end has let go of it."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            return take()
        except HeldError:
            if time.monotonic() > last:
                raise
            time.sleep(0.05)
