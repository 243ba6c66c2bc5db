"""One thread for arrays that are too small to share: torch's own threads and those of NumPy's BLAS."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import numpy as np
import torch

# What OpenBLAS calls its functions: as NumPy's wheels have it, with indices of 64 and of 32 bits, and as packagers do.
NAMES = (
    *("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads"),
    *("openblas_{}_num_threads64_", "openblas_{}_num_threads"),
)


class Blas:
    """The threads of the BLAS that NumPy is linked with, if it is an OpenBLAS.

    Attributes:
        get: gives their number; None if there is no such BLAS.
        set: takes it.
    """

    def __init__(self) -> None:
        self.get: Callable[[], int] | None = None
        self.set: Callable[[int], None] | None = None
        self._lock = threading.Lock()
        self._users, self._before = 0, 1
        try:
            # Names are looked for in what a library is linked with, too (but not on Windows).
            library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
        except (AttributeError, OSError, TypeError):
            return
        for name in NAMES:
            if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                self.get, self.set = library[name.format("get")], library[name.format("set")]
                return

    def limit(self) -> None:
        """One thread, until `release` has been called as often as this. The number is one for the whole process."""
        if self.get is None or self.set is None:
            return
        with self._lock:
            if self._users == 0:
                self._before = self.get()
                if self._before > 1:
                    self.set(1)
            self._users += 1

    def release(self) -> None:
        """The number from before, if nobody else wants one."""
        if self.set is None:
            return
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._before > 1:
                self.set(self._before)


BLAS = Blas()


class OneThread:
    """A block in which torch and NumPy's BLAS use one thread; what was set before it is restored.

    Where operations of both alternate, their threads, which spin for a while after each, get into each other's way.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        # torch keeps a number for each thread of Python, which sets its own only.
        self._before = torch.get_num_threads()
        if self._before > 1:
            torch.set_num_threads(1)
        BLAS.limit()

    def __exit__(self, *error: object) -> None:
        BLAS.release()
        if self._before > 1:
            torch.set_num_threads(self._before)
