"""Random numbers: one independent stream a chain, a function of (seed, chain) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from hnbayes._checks import describe

Stream = np.random.Generator


def resolve_seed(seed: int | None) -> int:
    """Return the seed to use: the one given, or one drawn from torch's global generator.

    Drawing it there means that `torch.manual_seed` before a run makes the run repeatable although no seed was
    given; nothing else of the package reads global random state.

    Raises:
        TypeError: if the seed is neither None nor an integer.
        ValueError: if it is negative.
    """
    if seed is None:
        return int(torch.randint(0, 2**31 - 1, ()).item())
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be a non-negative integer or None; received {describe(seed)}.")
    if seed < 0:
        raise ValueError(f"seed must be a non-negative integer or None; received {seed}.")
    return int(seed)


def chain_streams(seed: int, chains: Sequence[int]) -> list[Stream]:
    """One generator for each chain number.

    NumPy's generators are used on every device: drawing a momentum or a uniform number takes a tenth of the time of
    the torch call on a CPU, their state is plain data, and a chain sees the same numbers on a GPU.

    Args:
        seed: the run's seed.
        chains: chain numbers; chain c gets the same stream whatever the others are.
    """
    return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(c,)))) for c in chains]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators, seeded for a block and afterwards as they were before.

    For what takes no generator, such as the draws of `torch.distributions`.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
