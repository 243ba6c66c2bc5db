"""Batches: from arrays, of each chain its own, or from a DataLoader, the same for all chains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hnbayes._checks import describe
from hnbayes.posterior.model import Model
from hnbayes.rng import Stream


def from_arrays(X: Tensor, y: Tensor, size: int, streams: Sequence[Stream]) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: each chain shuffles the data for itself, epoch by epoch; a rest that fills no batch is left out.

    Args:
        X: inputs (N, ...).
        y: data (N, ...).
        size: n, at most N.
        streams: one a chain.

    Yields:
        Inputs (C, n, ...) and data (C, n, ...).
    """
    if size == len(X):
        whole = tuple(part.expand(len(streams), *part.shape) for part in (X, y))
        while True:
            yield whole[0], whole[1]
    while True:
        order = torch.as_tensor(np.stack([stream.permutation(len(X)) for stream in streams])).to(X.device)
        for begin in range(0, len(X) - size + 1, size):
            rows = order[:, begin : begin + size]
            yield X[rows], y[rows]


def from_loader(loader: DataLoader[Any], model: Model, chains: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of a loader, epoch by epoch, the same for all chains.

    Yields:
        Inputs (C, n, ...) and data (C, n, ...).

    Raises:
        TypeError, ValueError: if a batch is no pair, or doesn't fit the model.
    """
    while True:
        for batch in loader:
            X, y = model.data(*pair(batch))
            yield X.expand(chains, *X.shape), y.expand(chains, *y.shape)


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and data of a loader's batch.

    Raises:
        TypeError: if it is no pair of tensors.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise TypeError(
            f"a loader must give pairs of tensors, inputs and data; received {describe(batch)}. Give it a collate_fn."
        )
    return batch[0], batch[1]


def gathered(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    """All data that a loader goes through in an epoch, those of a last batch that it drops included.

    Raises:
        TypeError: if the data have no number, or batches are no pairs.
        ValueError: if there are none.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            "the loader's data must be counted, as the likelihood of a batch stands for that of all; received an "
            "IterableDataset. Use a data set with a length."
        )
    every: Any = loader.dataset
    # In their own order, unless the loader goes through some of them only.
    sampler = None if len(every) == len(cast(Sized, loader.sampler)) else loader.sampler
    whole: DataLoader[Any] = DataLoader(
        every, batch_size=loader.batch_size or 256, sampler=sampler, collate_fn=loader.collate_fn
    )
    parts = [pair(batch) for batch in whole]
    if not parts:
        raise ValueError("the loader must give data; received none.")
    return torch.cat([X for X, _ in parts]), torch.cat([y for _, y in parts])
