"""What a run and its worker processes tell each other: pickles with their length before them, through pipes."""

from __future__ import annotations

import pickle
from typing import IO, Any

LENGTH = 8


def send(pipe: IO[bytes], message: Any) -> None:
    """Send an object."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(len(content).to_bytes(LENGTH, "little") + content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next object.

    Raises:
        EOFError: if the other end has closed the pipe, or died.
    """
    return pickle.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, LENGTH), "little")))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError("the other process has gone")
    return content
