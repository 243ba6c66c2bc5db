"""A worker: the process that samples some lots of a run. Started by `crew.py`.

It has one thread for numbers, so that rounding doesn't depend on how many workers there are. Its lots take turns, one
evaluation each. It ends at once when the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from hnbayes.potentials.base import Potential
from hnbayes.sampling.beginning import begin
from hnbayes.sampling.callbacks import Event, StopSampling
from hnbayes.sampling.engine import Run
from hnbayes.sampling.isolation import Isolated
from hnbayes.sampling.loop import Stepper
from hnbayes.sampling.lots import LOT, Lot, Plan
from hnbayes.sampling.resume import run_of
from hnbayes.sampling.run_folder import HeldError, RunFolder, numbers_of_checkpoints, read_start
from hnbayes.sampling.signals import StopRequest, stop_requests
from hnbayes.sampling.wire import receive, send

# Seconds between reports of what was completed.
REPORT_EVERY = 0.1
# Seconds that the workers of a run that was killed are given to notice it.
PATIENCE = 15.0


def main() -> None:
    """Do what the other end of standard input asks for, and tell of it on what was standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that has started this one takes it
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what the potential prints must not get among the messages
    torch.set_num_threads(1)
    with stop_requests() as request:
        work = _Work(receive(inlet), outlet, request)
        threading.Thread(target=_obey, args=(inlet, request), daemon=True).start()
        work.do()
    outlet.close()


def _obey(inlet: IO[bytes], request: StopRequest) -> None:
    """Take a request to stop from the process that has started this one; end with it."""
    if inlet.read(1):
        request.signal = request.signal or "stop"
        inlet.read(1)
    os._exit(1)


class _Work:
    """The lots of this process, from their begin or their checkpoints to their end."""

    def __init__(self, order: dict[str, Any], outlet: IO[bytes], request: StopRequest) -> None:
        self.order, self.outlet, self.request = order, outlet, request
        self.folder = Path(order["folder"])
        self.chains: Lot = ()

    def do(self) -> None:
        """Sample; an error is told with the chains that it comes from, when all others are safe."""
        try:
            with warnings.catch_warnings(), contextlib.ExitStack() as held:
                warnings.simplefilter("always")
                warnings.showwarning = self._warn  # type: ignore[assignment]
                self._sample(held)
        except Exception as error:
            send(self.outlet, ("error", _portable(error), self.chains, traceback.format_exc()))
        else:
            send(self.outlet, ("done", self.request.signal))

    def _warn(self, message: Warning | str, category: type[Warning], *place: Any) -> None:
        send(self.outlet, ("warning", str(message), category if category.__module__ != "__main__" else UserWarning))

    def _sample(self, held: contextlib.ExitStack) -> None:
        torch.set_default_dtype(self.order["default_dtype"])
        plan = Plan.read(self.folder)
        self.chains = tuple(chain for number in self.order["lots"] for chain in plan.lots[number])
        U: Potential = pickle.loads(self.order["potential"])
        if len(plan.lots[0]) == 1:
            # All lots share a graph, which must not depend on which of them this process has.
            first = plan.positions[:1]
            if plan.kernel.uses_gradient:
                U.prepare(first, plan.settings.evaluations)
            else:
                U.value(first)
        runs = []
        for number in self.order["lots"]:
            self.chains = plan.lots[number]
            runs.append((self.chains, self._open(plan, number, U, held)))
        self._take_turns(runs)

    def _open(self, plan: Plan, number: int, U: Potential, held: contextlib.ExitStack) -> Run:
        """A lot at its begin, or where its newest checkpoint is."""
        lot, path, share = plan.lots[number], self.folder / LOT.format(number), plan.share(self.folder, number)
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
        else:
            folder = held.enter_context(_patiently(lambda: RunFolder(path, "create", share)))
            positions, metric = plan.positions[list(lot)], plan.metric_of(lot)
            settings = plan.settings_of(lot)
            run = begin(U, plan.kernel, positions, settings, plan.step_size, metric, plan.structure, folder)
            run.progress.numbers = lot
        return run

    def _take_turns(self, runs: list[tuple[Lot, Run]]) -> None:
        every = float(self.order["every"])
        report = _Report(self.outlet, self.order["events"])
        going_on: list[tuple[Lot, Run, Stepper]] = [
            (lot, run, run.stepper(report.of(lot), self.request, every)) for lot, run in runs
        ]
        try:
            while going_on:
                for entry in tuple(going_on):
                    lot, run, stepper = entry
                    self.chains = lot
                    if self._step(run, stepper):
                        continue
                    going_on.remove(entry)
                    target = self.order["draws"]
                    if target is not None and target > run.draws and not self.request.signal:
                        run.add_draws(target)
                        run.save()
                        going_on.append((lot, run, run.stepper(report.of(lot), self.request, every)))
        except Exception:
            # The chain that has raised it is where it was; the others go on from here.
            for lot, run, _ in going_on:
                if lot != self.chains:
                    run.save()
            raise
        finally:
            report.send()

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
            send(self.outlet, ("lot dropped", _portable(error)))
        if stepper.ended:
            run.save()
        return not stepper.ended


class _Report:
    """Tells of completed transitions, many at once.

    Args:
        outlet: where to.
        events: "all" tells all, "progress" leaves the positions out, "none" tells nothing.
    """

    def __init__(self, outlet: IO[bytes], events: str) -> None:
        self.outlet, self.events = outlet, events
        self.kept: list[Event] = []
        self._due = 0.0

    def of(self, lot: Lot) -> list[Callable[[Event], None]]:
        """The callbacks of a lot."""
        numbers = np.array(lot)

        def tell(event: Event) -> None:
            positions = event.positions.copy() if self.events == "all" else event.positions[:, :0]
            self.kept.append(
                Event(numbers[event.chains], event.done.copy(), event.warmup, event.total, positions, event.info)
            )
            if time.monotonic() >= self._due:
                self.send()

        return [] if self.events == "none" else [tell]

    def send(self) -> None:
        """Tell what has yet to be told."""
        if self.kept:
            send(self.outlet, ("events", self.kept))
        self.kept = []
        self._due = time.monotonic() + REPORT_EVERY


def _patiently(take: Callable[[], RunFolder]) -> RunFolder:
    """A folder, as soon as a worker that is about to end has let go of it."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            return take()
        except HeldError:
            if time.monotonic() > last:
                raise
            time.sleep(0.05)


def _portable(error: Exception) -> bytes | tuple[str, str]:
    """An error as it is, if it can be sent, else its kind and text."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # whatever stops it
        return type(error).__name__, str(error)
    return content
