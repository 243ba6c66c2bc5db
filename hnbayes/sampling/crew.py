"""Crew: the worker processes of a run, started, listened to and ended.

Workers are fresh interpreters, not forks: a fork of a process that has used threads or a GPU may hang or fail, and
whether the caller's process has can't be known. So the potential is pickled (by cloudpickle: functions, lambdas and
classes of scripts and notebooks by value), and the caller's script isn't run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from hnbayes._checks import brief
from hnbayes.potentials.base import Potential
from hnbayes.sampling.callbacks import Callback, Event, StopSampling
from hnbayes.sampling.lots import Lot, Plan
from hnbayes.sampling.signals import StopRequest
from hnbayes.sampling.verdict import warn
from hnbayes.sampling.wire import receive, send

PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hnbayes.sampling.worker import main; main()"
# One thread for each library that computes, so that rounding doesn't depend on the number of workers.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Seconds between looks at what this process was asked to do.
LOOK_EVERY = 0.2


class WorkerDiedError(RuntimeError):
    """A process of a run has ended without a word: killed, or out of memory."""


class InWorkerError(Exception):
    """Where in a worker an error was raised; the cause of the error that the run raises."""

    def __init__(self, where: str) -> None:
        super().__init__(f"\n{where}")


def pickled(potential: Potential) -> bytes:
    """A potential as what workers take.

    Raises:
        ValueError: if it can't be sent to another process.
    """
    try:
        import cloudpickle
    except ImportError:  # then all must be importable by name
        cloudpickle = pickle
    try:
        content: bytes = cloudpickle.dumps(potential.without_graphs())
    except Exception as error:  # whatever an object raises that can't be pickled
        hint = (
            "" if cloudpickle is not pickle else ' pip install "hnbayes[workers]" for functions of scripts and lambdas.'
        )
        raise ValueError(
            "cores needs a potential that can be sent to other processes; pickling it raised "
            f"{brief(error)}. Leave out what it holds of open files, locks, generators "
            f"and the like, or leave cores out.{hint}"
        ) from error
    return content


@dataclass
class Outcome:
    """How the work has ended.

    Attributes:
        stopped_by: the signal that has stopped it, if one has.
        error: what has, if something has; of several the first.
        lost: chains whose processes have died, where the others went on.
        last_dropped: what the last lot has raised that was dropped as a whole.
    """

    stopped_by: str | None = None
    error: BaseException | None = None
    lost: Lot = ()
    last_dropped: BaseException | None = None


class Crew:
    """The workers of a run, which end with the block.

    Args:
        folder: of the run.
        plan: of the run.
        potential: as `pickled` gives it.
        cores: how many workers there may be; no more than lots.
        every: seconds between checkpoints.
        draws: transitions after warm-up in all, if more than the lots were asked for.
        events: see `worker._Report`.
    """

    def __init__(
        self, folder: Path, plan: Plan, potential: bytes, cores: int, every: float, draws: int | None, events: str
    ) -> None:
        self.plan = plan
        count = min(cores, len(plan.lots))
        numbers = [list(range(first, len(plan.lots), count)) for first in range(count)]
        order = {"folder": str(folder.resolve()), "potential": potential, "every": every, "draws": draws}
        order |= {"events": events, "default_dtype": torch.get_default_dtype()}
        self.chains = [tuple(sorted(chain for n in mine for chain in plan.lots[n])) for mine in numbers]
        self.queue: queue.Queue[tuple[int, tuple[Any, ...]]] = queue.Queue()
        self.processes = [_started() for _ in numbers]
        self.threads = [
            threading.Thread(target=self._listen, args=(worker, order | {"lots": mine}), daemon=True)
            for worker, mine in enumerate(numbers)
        ]
        self.busy = set(range(count))
        self.stopping = False

    def __enter__(self) -> Crew:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End what hasn't ended; after an error, at once."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for thread in self.threads:
            thread.join()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def stop(self) -> None:
        """Ask the workers to write a checkpoint and end."""
        if self.stopping:
            return
        self.stopping = True
        for process in self.processes:
            with contextlib.suppress(OSError, ValueError):
                if process.stdin is not None:
                    process.stdin.write(b"s")
                    process.stdin.flush()

    def work(
        self,
        request: StopRequest,
        callbacks: Sequence[Callback],
        tolerant: bool,
        watch: Callable[[], None] | None = None,
    ) -> Outcome:
        """Listen until all workers have ended.

        Args:
            request: of this process, to stop.
            callbacks: told of every completed transition.
            tolerant: whether the others go on when a worker dies.
            watch: called time and again; what it raises ends the run.
        """
        outcome = Outcome()
        told: set[tuple[str, type[Warning]]] = set()
        while self.busy:
            if request.signal is not None:
                outcome.stopped_by = outcome.stopped_by or request.signal
                self.stop()
            try:
                worker, message = self.queue.get(timeout=LOOK_EVERY)
            except queue.Empty:
                worker, message = -1, ()
            try:
                if watch is not None and not self.stopping:
                    watch()
                if message:
                    self._take(worker, message, outcome, callbacks, told, tolerant)
            except StopSampling:
                self.stop()
            except Exception as error:  # of a callback or the watch, or a warning that is to be one
                outcome.error = outcome.error or error
                self.stop()
        return outcome

    def _take(
        self,
        worker: int,
        message: tuple[Any, ...],
        outcome: Outcome,
        callbacks: Sequence[Callback],
        told: set[tuple[str, type[Warning]]],
        tolerant: bool,
    ) -> None:
        kind, *details = message
        if kind == "events":
            events: list[Event] = details[0]
            for event in events:
                for callback in callbacks:
                    callback(event)
        elif kind == "warning":
            text, category = details
            if (text, category) not in told:
                told.add((text, category))
                warn(text, category)
        elif kind == "lot dropped":
            outcome.last_dropped = _revived(details[0], (), "")
        elif kind == "error":
            self.busy.discard(worker)
            outcome.error = outcome.error or _revived(*details)
            self.stop()
        elif kind == "done":
            self.busy.discard(worker)
            if details[0] not in (None, "stop"):  # somebody has sent it a signal
                outcome.stopped_by = outcome.stopped_by or details[0]
                self.stop()
        elif worker in self.busy:  # it has gone without a word
            self.busy.discard(worker)
            self._mourn(worker, details[0], outcome, tolerant)

    def _mourn(self, worker: int, code: int, outcome: Outcome, tolerant: bool) -> None:
        """Deal with a worker that has died."""
        how = f"ended with exit code {code}; standard error says why"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
            how += " (by the system, perhaps, for want of memory)" if code == -9 else ""
        chains = _named(self.chains[worker])
        if tolerant and self.busy and not self.stopping:
            warn(f"the process of {chains} {how}; they were dropped. The other chains go on.")
            outcome.lost = (*outcome.lost, *self.chains[worker])
            return
        outcome.error = outcome.error or WorkerDiedError(
            f"the process of {chains} {how}, so the run has ended. The draws so far, of all chains, are this "
            "error's attribute `draws`; a run with a checkpoint folder can be resumed."
        )
        self.stop()

    def _listen(self, worker: int, order: dict[str, Any]) -> None:
        """Give a worker its order, and pass on what it tells until it ends."""
        process = self.processes[worker]
        if process.stdin is None or process.stdout is None:
            return
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            send(process.stdin, order)
            while True:
                self.queue.put((worker, receive(process.stdout)))
        self.queue.put((worker, ("gone", process.wait())))


def _started() -> subprocess.Popen[bytes]:
    """A worker that waits for its order."""
    if not sys.executable:
        raise ValueError(
            "cores needs sys.executable, the Python that workers run; it is not set here. Leave cores out."
        )
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | dict.fromkeys(THREADS, "1"),
        # Ctrl-C in a terminal is for this process, which asks the workers to stop.
        start_new_session=True,
    )


def _revived(error: bytes | tuple[str, str], chains: Lot, where: str) -> BaseException:
    """The error of a worker, with where it was raised as its cause."""
    if isinstance(error, bytes):
        found: BaseException = pickle.loads(error)
    else:
        found = RuntimeError(f"a worker raised {error[0]}: {error[1]}")
    if chains and type(found) in (ValueError, TypeError, RuntimeError):
        found = type(found)(f"{found} (In the process of {_named(chains)}, which counts from 0.)")
    found.__cause__ = InWorkerError(where)
    return found


def _named(chains: Lot) -> str:
    """Some chains, for messages."""
    return f"chain{'s' if len(chains) > 1 else ''} {', '.join(map(str, chains))}"
