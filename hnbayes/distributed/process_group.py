"""The process group that ranks talk in."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def join() -> None:
    """Join the group of all ranks, by gloo, unless the program has.

    Raises:
        ValueError: if no launcher has started the process.
    """
    if not dist.is_available():
        raise ValueError("ranks need a torch with torch.distributed; this one is without. Install another build.")
    if dist.is_initialized():
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "ranks need a launcher that says who is who; received a process of its own. Start the program by "
            "torchrun --nproc-per-node N program.py, or call torch.distributed.init_process_group first."
        )
    dist.init_process_group("gloo")
    # A group that is left to the interpreter's end may abort the process there.
    atexit.register(_leave)


def _leave() -> None:
    with contextlib.suppress(Exception):  # the others may have gone
        dist.destroy_process_group()
    # Its threads end a little later, and abort the process if they still hold tensors when the interpreter is gone.
    gc.collect()
    time.sleep(0.2)


def agreed_on(decide: Callable[[], Any]) -> Any:
    """What rank 0 decides, on every rank; what it raises of bad input or files is raised on every rank."""
    decision: Any = None
    if dist.get_rank() == 0:
        try:
            decision = decide()
        except (OSError, ValueError, TypeError) as error:  # all ranks are to know
            decision = error
    return agreed(decision)


def agreed(value: Any) -> Any:
    """What rank 0 has, on every rank; an error that rank 0 has is raised on every rank."""
    box = [value if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]
