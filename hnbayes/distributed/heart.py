"""Heart: each rank shows that it lives, and sees whether the others do."""

from __future__ import annotations

import threading
import time
from typing import Any

from hnbayes.sampling.signals import StopRequest

# Seconds between beats.
BEAT_EVERY = 1.0


class Heart:
    """A thread that writes a number to the group's store, again and again, and reads those of the others.

    Collective operations can't tell a rank that is slow from one that is gone before their time-out, half an hour.

    Args:
        store: of the group.
        run: a name that no other run in this store has.
        rank, world: of this process, and how many there are.
        request: gets a reason to stop when a rank is gone or has failed.
        patience: seconds without a beat after which a rank is gone.

    Attributes:
        gone: what has happened to another rank, if something has.
    """

    def __init__(self, store: Any, run: str, rank: int, world: int, request: StopRequest, patience: float) -> None:
        self.store, self.run, self.rank, self.world = store, run, rank, world
        self.request, self.patience = request, patience
        self.gone: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._told: set[int] = set()

    def start(self) -> None:
        """Begin; all ranks must have called `show` before, so that there is something to read."""
        self._thread.start()

    def show(self, what: str = "lives", value: str = "0") -> None:
        """Write something about this rank."""
        self.store.set(self._key(what, self.rank), value)

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join()

    def wait_for_all(self) -> None:
        """Wait until all ranks have shown that they are done, or one of them is gone."""
        self.show("done", "1")
        while self.gone is None and not self.request.signal:
            if self.store.check([self._key("done", rank) for rank in range(self.world)]):
                return
            time.sleep(0.1)

    def _key(self, what: str, rank: int) -> str:
        return f"{self.run}/{what}/{rank}"

    def _beat(self) -> None:
        others = [rank for rank in range(self.world) if rank != self.rank]
        seen = {rank: (b"", time.monotonic()) for rank in others}
        count = 0
        while not self._ended.wait(BEAT_EVERY):
            count += 1
            try:
                self.show("lives", str(count))
                for rank in others:
                    if self.store.check([self._key("failed", rank)]):
                        self._lost(f"rank {rank} has failed: {self.store.get(self._key('failed', rank)).decode()}")
                    last = self.store.get(self._key("lives", rank))
                    if last != seen[rank][0]:
                        seen[rank] = (last, time.monotonic())
                    elif time.monotonic() - seen[rank][1] > self.patience:
                        self._lost(f"rank {rank} has given no sign for {self.patience:g} s")
            except RuntimeError as error:  # the store has ended with the process that keeps it
                if not self._ended.is_set():
                    self._lost(f"the store of the group can't be reached ({type(error).__name__})")
                return

    def _lost(self, what: str) -> None:
        self.gone = self.gone or what
        self.request.signal = self.request.signal or "a rank is gone"
