"""Ctrl-C and SIGTERM as requests that a run grants between two evaluations."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the process has been asked to stop, and by which signal; asked twice, it stops at once.

    Attributes:
        signal: "SIGINT", "SIGTERM", or None.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self.signal is None:
            self.signal = signal.Signals(number).name
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_requests(sigterm: bool = True) -> Iterator[StopRequest]:
    """Collects signals during a block, where they would otherwise end the process.

    A program's own handlers stay, and so does everything in threads other than the main one, which Python doesn't
    deliver signals to.

    Args:
        sigterm: whether SIGTERM is among them.
    """
    request = StopRequest()
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        if not sigterm:
            del usual[signal.SIGTERM]
        for number, handler in usual.items():
            if signal.getsignal(number) == handler:
                replaced[number] = signal.signal(number, request)
    try:
        yield request
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)
