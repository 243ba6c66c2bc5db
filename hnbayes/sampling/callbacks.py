"""What may watch a run: progress bar, logger, TensorBoard, or any function of an `Event`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hnbayes._checks import describe
from hnbayes.kernels.arrays import Host

__all__ = ["Event", "LogProgress", "ProgressBar", "StopSampling", "TensorBoard"]


class StopSampling(Exception):  # noqa: N818 - it asks for something, it is no error
    """Raised by a callback to end a run; the draws so far are returned."""


@dataclass(frozen=True)
class Event:
    """Some chains have completed a transition.

    Attributes:
        chains: their numbers, (R,).
        done: transitions each has completed, warm-up included, (R,).
        warmup: transitions of warm-up in the run.
        total: transitions in the run of each chain, warm-up included.
        positions: their draws (R, D), as a NumPy array not to be changed.
        info: what the kernel reports, name -> (R,).

    Example:
        >>> from hnbayes.sampling.callbacks import StopSampling
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> def enough(event):
        ...     if (event.done >= event.warmup + 5).all():
        ...         raise StopSampling
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> hnbayes.sample_potential(U, torch.zeros(1, 3), callbacks=[enough], **options).num_draws
        5
    """

    chains: Host
    done: Host
    warmup: int
    total: int
    positions: Host
    info: dict[str, Host]

    @property
    def warming_up(self) -> Host:
        """Which of the transitions belonged to warm-up, (R,)."""
        return self.done <= self.warmup


Callback = Callable[[Event], None]


class ProgressBar:
    """A bar over the transitions of all chains, with divergences after warm-up, step size and tree depth.

    Args:
        total: transitions of all chains together.
        refresh: seconds between updates of the numbers beside the bar.
        initial: transitions that were completed before.

    Example:
        >>> from hnbayes.sampling.callbacks import ProgressBar
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> bar = ProgressBar(total=2 * 40)  # what progress=True shows
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> draws = hnbayes.sample_potential(U, torch.zeros(2, 3), callbacks=[bar], **options)
        >>> bar.close()
    """

    def __init__(self, total: int, refresh: float = 0.5, initial: int = 0) -> None:
        self.bar = tqdm(
            total=total, initial=initial, unit="draw", mininterval=refresh, dynamic_ncols=True, desc="warm-up"
        )
        self.refresh = refresh
        self.divergences = 0
        self._due = 0.0

    def __call__(self, event: Event) -> None:
        """Move the bar on."""
        self.bar.update(len(event.chains))
        self.divergences += int((event.info["diverging"] & ~event.warming_up).sum())
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.refresh
        shown = {"diverging": str(self.divergences), "step": f"{np.median(event.info['step_size']):.2g}"}
        if "tree_depth" in event.info:
            shown["depth"] = f"{np.median(event.info['tree_depth']):.0f}"
        self.bar.set_description("warm-up" if event.warming_up.any() else "sampling", refresh=False)
        self.bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class LogProgress:
    """Writes a line to a logger after every so many transitions of a chain.

    Args:
        logger: where to.
        interval: transitions between lines.

    Example:
        >>> import logging
        >>> from hnbayes.sampling.callbacks import LogProgress
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> report = LogProgress(logging.getLogger("run"), interval=10)
        >>> draws = hnbayes.sample_potential(U, torch.zeros(1, 3), callbacks=[report], **options)
    """

    def __init__(self, logger: logging.Logger, interval: int = 100) -> None:
        self.logger = logger
        self.interval = interval

    def __call__(self, event: Event) -> None:
        """Log the chains whose turn it is."""
        for row in np.flatnonzero(event.done % self.interval == 0):
            self.logger.info(
                "chain %d: %d of %d transitions, U = %.4g, acceptance %.2f, step size %.3g",
                event.chains[row],
                event.done[row],
                event.total,
                -event.info["lp"][row],
                event.info["acceptance_rate"][row],
                event.info["step_size"][row],
            )


class TensorBoard:
    """Writes what the kernel reports of each transition as TensorBoard scalars.

    Args:
        writer: a `SummaryWriter` (of torch.utils.tensorboard or tensorboardX).
        tag: prefix of the scalars' names.

    Example:
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> from hnbayes.sampling.callbacks import TensorBoard
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> with SummaryWriter("run") as writer:
        ...     draws = hnbayes.sample_potential(U, torch.zeros(2, 3), callbacks=[TensorBoard(writer)], **options)
    """

    def __init__(self, writer: Any, tag: str = "") -> None:
        self.writer = writer
        self.tag = tag

    def __call__(self, event: Event) -> None:
        """Write one point for every statistic of every chain."""
        for row, chain in enumerate(event.chains):
            for name, values in event.info.items():
                self.writer.add_scalar(f"{self.tag}chain_{chain}/{name}", float(values[row]), int(event.done[row]))


def as_writer(writer: Any) -> Any:
    """A TensorBoard writer, made for a directory that is given as text.

    Raises:
        ImportError: if a directory is given and TensorBoard is not installed.
        TypeError: if it is neither.
    """
    if writer is None or hasattr(writer, "add_scalar"):
        return writer
    if not isinstance(writer, str):
        raise TypeError(f"writer must be a SummaryWriter or a directory; received {describe(writer)}.")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('a writer directory needs TensorBoard: pip install "hnbayes[tensorboard]".') from error
    return SummaryWriter(writer)
