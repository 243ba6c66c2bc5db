"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import IO

# Temporary files of processes that were killed are removed when they are this old, in seconds.
ABANDONED = 3600.0
# What tells the temporary files of several writers apart.
RANDOM_BYTES = 6


@contextlib.contextmanager
def written_in_one_step(path: str | os.PathLike[str], durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to that replaces `path` when the block ends, and leaves it alone if the block fails.

    A process that is killed at any moment leaves either the old file or the whole new one, and perhaps a temporary
    file, `.<name>.<random>.tmp`.

    Args:
        path: of the file.
        durable: whether that holds for a power cut too, which takes waiting for the disk.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(RANDOM_BYTES)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    if durable:
        sync_folder(folder)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder as durable as the files; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_abandoned(folder: str | os.PathLike[str], names: str) -> None:
    """Remove temporary files whose writers were killed an hour ago or earlier.

    Args:
        folder: where they are.
        names: a regular expression of the names of the files that they were to become.
    """
    pattern = re.compile(rf"\.({names})\.[0-9a-f]{{{2 * RANDOM_BYTES}}}\.tmp")
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if pattern.fullmatch(entry.name)]
    for entry in found:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > ABANDONED:
                os.remove(entry.path)
