"""The folder in which compiled libraries are kept: whose it is, and how large it may grow."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import time

# What stays when a library is added, those used last first: so many libraries, of so many bytes in all.
MOST = 200
MOST_BYTES = 256 * 2**20
LIBRARIES, UNFINISHED = "native-*.so", ".native-*.tmp"
# No compiler takes so long: a file that it would have finished by then was left behind by a process that died.
ABANDONED_SECONDS = 3600.0


def cache_folder(cache: str, user: int) -> pathlib.Path | None:
    """A folder that nobody but the user can write to; None if there can be none.

    A library is loaded as it is found, so a folder that others may write to won't do.

    Args:
        cache: the folder; empty for the user's usual one.
        user: who owns it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = pathlib.Path(cache or os.path.join(base, "hnbayes"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError:
        return None
    return folder if state.st_uid == user and not _others_may_write(state) else None


def may_write(folder: pathlib.Path) -> bool:
    """Whether libraries can be added."""
    return os.access(folder, os.W_OK | os.X_OK)


def is_own(path: pathlib.Path, user: int) -> bool:
    """Whether a file is there that nobody but the user can have written."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(state.st_mode) and state.st_uid == user and not _others_may_write(state)


def mark_used(path: pathlib.Path) -> None:
    """Make a library one of those used last: many file systems don't say when a file was read."""
    with contextlib.suppress(OSError):  # a folder that can't be written to isn't trimmed either
        os.utime(path)


def trim(folder: pathlib.Path) -> None:
    """Remove the libraries that weren't used for longest, until few enough are left, and what was never finished.

    Other processes may do the same at the same time, or be about to load one of them: who has loaded a library keeps
    it, and who comes too late makes it anew.
    """
    kept = size = 0
    for _, path, length in sorted(_listed(folder, LIBRARIES), reverse=True):
        kept, size = kept + 1, size + length
        if kept > MOST or size > MOST_BYTES:
            _remove(path)
    for used, path, _ in _listed(folder, UNFINISHED):
        if time.time() - used > ABANDONED_SECONDS:
            _remove(path)


def _listed(folder: pathlib.Path, names: str) -> list[tuple[float, pathlib.Path, int]]:
    """When each file was used, its path and its bytes."""
    found = []
    for path in folder.glob(names):
        with contextlib.suppress(OSError):  # another process has removed it
            state = path.lstat()
            found.append((state.st_mtime, path, state.st_size))
    return found


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _others_may_write(state: os.stat_result) -> bool:
    return bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
