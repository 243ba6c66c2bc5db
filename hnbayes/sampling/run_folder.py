"""The folder of a run: how it was begun, its draws, and its two newest checkpoints.

All names in it are fixed, so nothing that a file says can lead out of the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from hnbayes._checks import describe
from hnbayes._files import remove_abandoned
from hnbayes.kernels.arrays import Host
from hnbayes.sampling.array_file import DamagedFileError, read_arrays, write_arrays

if sys.platform != "win32":  # there a second process isn't noticed
    import fcntl

START = "run.start"
CHECKPOINT = "checkpoint-{:08d}"
LOTS = "run.lots"
LOCK = "run.lock"
KEPT = 2
# How often a reader looks again for a checkpoint that was replaced while it looked.
ATTEMPTS = 20
Arrays = dict[str, Host]
Found = TypeVar("Found")


class HeldError(ValueError):
    """Another process holds the folder of a run."""


@dataclass(frozen=True)
class Share:
    """The part of a run that some of its chains are.

    Attributes:
        path: the folder with the draws of all chains.
        chains: C, of the run.
        members: numbers of the chains of this part.
    """

    path: Path
    chains: int
    members: tuple[int, ...]


class RunFolder:
    """A run on the disk, held by this process alone until the block ends.

    Args:
        path: the folder.
        share: where the draws go, of a part of a run; None is a run of its own.
        use: "create" for a new run, "resume" to go on with one, "read" to look at one that another may be writing.

    Raises:
        TypeError: if the path is none.
        ValueError: if a run is there that shouldn't be, or isn't there that should, or another process holds it.
    """

    def __init__(self, path: Any, use: Literal["create", "resume", "read"], share: Share | None = None) -> None:
        self.path = folder_of(path)
        self.share = share
        self._good: list[int] = []
        # What ends with the block: the lock, and files of draws.
        self.held = contextlib.ExitStack()
        if use == "create":
            self.path.mkdir(parents=True, exist_ok=True)
            refuse_run(self.path)
        elif not numbers_of_checkpoints(self.path):
            raise ValueError(f"{self.path} must hold a run with a checkpoint; there is none. Sample anew.")
        if use != "read":
            self.held.callback(lock(self.path))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *details: object) -> None:
        """Let go of the folder."""
        self.held.close()

    def write_start(self, arrays: Mapping[str, Host], record: Mapping[str, Any]) -> None:
        """Write how the run was begun."""
        write_arrays(self.path / START, arrays, record)

    def save(self, arrays: Mapping[str, Host], record: Mapping[str, Any]) -> None:
        """Write a checkpoint; then remove those before the last one."""
        number = max(numbers_of_checkpoints(self.path), default=0) + 1
        write_arrays(self.path / CHECKPOINT.format(number), arrays, record)
        self._good = [*self._good, number][-KEPT:]
        for old in set(numbers_of_checkpoints(self.path)) - set(self._good):
            (self.path / CHECKPOINT.format(old)).unlink(missing_ok=True)
        remove_abandoned(self.path, r"checkpoint-\d+")

    def newest(self, use: Callable[[Arrays, dict[str, Any]], Found]) -> Found:
        """What `use` makes of the newest checkpoint that isn't damaged.

        Args:
            use: a function of its arrays and its record; raises DamagedFileError where what belongs to it is damaged.

        Raises:
            ValueError: if there is none.
        """
        for _ in range(ATTEMPTS):
            causes = []
            for number in reversed(numbers_of_checkpoints(self.path)):
                try:
                    found = use(*read_arrays(self.path / CHECKPOINT.format(number)))
                except FileNotFoundError:
                    break  # a run that goes on has written newer ones since they were listed
                except (DamagedFileError, OSError) as error:
                    causes.append(str(error))
                    continue
                if causes:
                    warnings.warn(
                        f"the newest checkpoint can't be used, so the run goes on from the one before. {causes[0]}",
                        UserWarning,
                        stacklevel=6,
                    )
                self._good = [number]
                return found
            else:
                break
        raise ValueError(f"there is no undamaged checkpoint in {self.path}. {' '.join(causes)} Sample anew.")


def has_lots(path: Path) -> bool:
    """Whether a folder holds a run that is divided in lots; see `hnbayes.sampling.lots`."""
    return (path / LOTS).exists()


def begun_folder(checkpoint: Any, held: contextlib.ExitStack) -> Path:
    """A locked folder for a run that begins.

    Args:
        checkpoint: the folder; None takes a temporary one, which nobody else knows.
        held: what lets go of it.

    Raises:
        TypeError, ValueError: if it is no folder, holds a run, or another process holds it.
    """
    if checkpoint is None:
        return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="hnbayes-", ignore_cleanup_errors=True)))
    folder = folder_of(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    held.callback(lock(folder))
    refuse_run(folder)
    return folder


def refuse_run(path: Path) -> None:
    """Raise ValueError if a run is in a folder."""
    if numbers_of_checkpoints(path) or has_lots(path):
        raise ValueError(
            f"checkpoint must be a folder without a run in it; {path} holds one. Go on with it by hnbayes.resume, or "
            "name another folder."
        )


def numbers_of_checkpoints(path: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, oldest first; none if there is no folder."""
    names = os.listdir(path) if path.is_dir() else []
    matches = (re.fullmatch(r"checkpoint-(\d{8,})", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def folder_of(path: Any) -> Path:
    """A folder as a path.

    Raises:
        TypeError: if it is none.
        ValueError: if a file is there.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"the folder of a run must be text or a path; received {describe(path)}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the folder of a run must be a folder; {folder} is a file. Name another.")
    return folder


def read_start(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """How a run was begun.

    Raises:
        ValueError: if there is no run, or what says it is damaged.
    """
    try:
        return read_arrays(path / START)
    except FileNotFoundError:
        raise ValueError(f"{path} must be the folder of a run; it holds no {START}. Check the path.") from None


def lock(folder: Path) -> Callable[[], None]:
    """Lock a folder, as long as this process lives; returns what unlocks it."""
    if sys.platform == "win32":
        return lambda: None
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HeldError(
            f"another process is sampling into {folder}. Wait for it, stop it, or name another folder."
        ) from None
    except OSError:  # a file system that has no locks
        pass
    return lambda: os.close(descriptor)
