"""The data that a Fisher matrix is computed from: documented data handlers, loaders and any iterable of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hnbayes._checks import check_finite, describe

FIRST = 2  # samples taken before it is known how many fit in memory, on which ways of computing are compared


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        inputs: the samples stand along `dim`.
        targets: the samples stand along `target_dim`.
        ids: the handler's identifiers of the samples, if asked for.
        dim: 0, or 1 for time series [S, N, F].
        target_dim: 0 or 1.
    """

    inputs: Tensor
    targets: Tensor
    ids: Any = None
    dim: int = 0
    target_dim: int = 0

    def __len__(self) -> int:
        return self.inputs.shape[self.dim]

    def part(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`, as views."""
        stop = min(stop, len(self))
        return Batch(
            self.inputs.narrow(self.dim, start, stop - start),
            self.targets.narrow(self.target_dim, start, stop - start),
            None if self.ids is None else self.ids[start:stop],
            self.dim,
            self.target_dim,
        )


class Samples:
    """Samples in pieces of at most `piece`, which may change on the way.

    Attributes:
        piece: the size of the pieces to come.
        used: the number of samples that were given so far.
        total: the number of samples there are, known when the iteration has ended.
    """

    def __init__(
        self,
        data: Any,
        *,
        device: Any,
        n_max: int = -1,
        time_series: bool = False,
        ids: bool = False,
        manipulate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.data, self.device, self.n_max, self.time_series, self.ids = data, device, n_max, time_series, ids
        self.manipulate = manipulate
        self.piece = FIRST
        self.used = 0
        self.total = 0

    def __iter__(self) -> Iterator[Batch]:
        batches = self._of_handler() if is_handler(self.data) else self._of_iterable()
        for batch in batches:
            start = 0
            while start < len(batch):
                part = batch.part(start, start + self.piece)
                start += len(part)
                self.used += len(part)
                yield part
        if self.used == 0:
            raise ValueError("data must hold at least one training sample; received none.")

    def _of_handler(self) -> Iterator[Batch]:
        """A documented data handler: each training sample once, or `n_max` random ones."""
        self.total = int(self.data.num_train_samples)
        wanted = self.total if self.n_max == -1 else min(self.n_max, self.total)
        if wanted:
            self.data.reset_batch_generator(train=True, test=False, val=False)
        while self.used < wanted:
            size = min(self.piece, wanted - self.used)
            inputs, targets, *rest = self.data.next_train_batch(size, return_ids=self.ids)
            yield self._batch(
                self.data.input_to_torch_tensor(inputs, self.device, mode="inference"),
                self.data.output_to_torch_tensor(targets, self.device, mode="inference"),
                rest[0] if rest else None,
            )

    def _of_iterable(self) -> Iterator[Batch]:
        for pair in self._pairs():
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(
                    "data must be a data handler or give batches (inputs, targets), a pair of tensors; "
                    f"received {describe(pair)}."
                )
            batch = self._batch(*(torch.as_tensor(part).to(self.device) for part in pair))
            self.total += len(batch)
            left = len(batch) if self.n_max == -1 else self.n_max - self.used
            if left > 0 and len(batch):
                yield batch.part(0, left)

    def _pairs(self) -> Iterable[Any]:
        data = self.data
        if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
            return [data]
        if isinstance(data, Dataset) and hasattr(data, "__getitem__"):
            return DataLoader(data, batch_size=256)
        if not isinstance(data, Iterable):
            raise TypeError(
                "data must be a data handler with next_train_batch(...), a DataLoader, a Dataset, a pair of tensors or "
                f"an iterable of pairs; received {describe(data)}."
            )
        return data

    def _batch(self, inputs: Tensor, targets: Tensor, ids: Any = None) -> Batch:
        dim = 1 if self.time_series and inputs.ndim > 1 else 0
        if inputs.ndim == 0 or targets.ndim == 0:
            raise ValueError(
                f"inputs and targets must be batches; received {describe(inputs)} and {describe(targets)}."
            )
        samples = inputs.shape[dim]
        target_dim = 1 if self.time_series and targets.ndim > 1 and targets.shape[1] == samples else 0
        if targets.shape[target_dim] != samples:
            raise ValueError(
                f"inputs and targets must hold as many samples; received {describe(inputs)} and {describe(targets)}"
                + (", where time series are to have shape [S, N, F]." if self.time_series else ".")
            )
        for name, tensor in (("inputs", inputs), ("targets", targets)):
            if tensor.is_floating_point():
                check_finite(name, tensor)
        if self.manipulate is not None and samples:
            targets = _manipulated(self.manipulate, targets, target_dim)
            target_dim = target_dim if targets.ndim > target_dim else 0
        return Batch(inputs, targets, ids, dim, target_dim)


def is_handler(data: Any) -> bool:
    """Whether data is a handler with the documented interface."""
    return hasattr(data, "next_train_batch") and hasattr(data, "num_train_samples")


def _manipulated(function: Callable[[Tensor], Tensor], targets: Tensor, dim: int) -> Tensor:
    """A caller's function of targets, applied to all at once if that gives what it gives for one alone."""
    n = targets.shape[dim]

    def of(i: int) -> Tensor:
        result = function(targets.narrow(dim, i, 1).clone())
        if not isinstance(result, Tensor):
            raise TypeError(f"target_manipulator must return a tensor; received {describe(result)}.")
        return result.reshape(1) if result.ndim == 0 else result

    first = [of(i) for i in range(min(n, 2))]
    along = dim if first[0].ndim > dim else 0
    try:
        whole = function(targets.clone())
        alike = all(torch.equal(whole.narrow(along, i, 1), part) for i, part in enumerate(first))
        if alike and whole.shape[along] == n:
            return whole
    except Exception:  # a function of one sample may raise anything when given several
        pass
    return torch.cat(first + [of(i) for i in range(len(first), n)], dim=along)
