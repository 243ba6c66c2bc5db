"""A worker: the process that samples some lots of a run. Started by `crew.py`.

It has one thread for numbers, so that rounding doesn't depend on how many workers there are. It ends at once when the
process that started it is gone.
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

from hnbayes.sampling.callbacks import Event
from hnbayes.sampling.lots import Lot, Plan
from hnbayes.sampling.shift import Shift
from hnbayes.sampling.signals import StopRequest, stop_requests
from hnbayes.sampling.wire import receive, send

# Seconds between reports of what was completed.
REPORT_EVERY = 0.1


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
        self.shift: Shift | None = None

    def do(self) -> None:
        """Sample; an error is told with the chains that it comes from, when all others are safe."""
        try:
            with warnings.catch_warnings(), contextlib.ExitStack() as held:
                warnings.simplefilter("always")
                warnings.showwarning = self._warn  # type: ignore[assignment]
                self._sample(held)
        except Exception as error:
            send(
                self.outlet,
                ("error", _portable(error), self.shift.chains if self.shift else (), traceback.format_exc()),
            )
        else:
            send(self.outlet, ("done", self.request.signal))

    def _warn(self, message: Warning | str, category: type[Warning], *place: Any) -> None:
        send(self.outlet, ("warning", str(message), category if category.__module__ != "__main__" else UserWarning))

    def _sample(self, held: contextlib.ExitStack) -> None:
        order = self.order
        torch.set_default_dtype(order["default_dtype"])
        self.shift = Shift(self.folder, Plan.read(self.folder), order["lots"], self.request)
        report = _Report(self.outlet, order["events"])
        try:
            self.shift.open(pickle.loads(order["potential"]), held)
            self.shift.work(float(order["every"]), order["draws"], report.of)
        finally:
            report.send()
        for error in self.shift.dropped:
            send(self.outlet, ("lot dropped", _portable(error)))


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


def _portable(error: Exception) -> bytes | tuple[str, str]:
    """An error as it is, if it can be sent, else its kind and text."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # whatever stops it
        return type(error).__name__, str(error)
    return content
