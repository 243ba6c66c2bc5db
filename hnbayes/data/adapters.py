"""Between data handlers and torch.utils.data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from hnbayes._checks import check_choice, describe
from hnbayes.data.array_dataset import ArrayDataset
from hnbayes.data.dataset import Dataset


def from_torch(dataset: TorchDataset[Any], **kwargs: Any) -> ArrayDataset:
    """Read a torch data set of pairs (input, output) into memory.

    Args:
        dataset: a map-style data set; inputs of one shape, outputs of one shape.
        **kwargs: as for `ArrayDataset`.

    Returns:
        The data set.

    Raises:
        TypeError: if it has no length, or its entries are no pairs.
        ValueError: as `ArrayDataset`, or if shapes differ.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.randn(30, 2), torch.arange(30) % 3)
        >>> hnbayes.data.from_torch(pairs, test=0.1).num_classes
        3
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"dataset must have a length and entries by number; received {describe(dataset)}.")
    inputs, outputs = [], []
    for i in range(len(dataset)):
        entry = dataset[i]
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise TypeError(f"entries must be pairs (input, output); received {describe(entry)}.")
        inputs.append(np.asarray(entry[0]))
        outputs.append(np.asarray(entry[1]))
    shapes = {a.shape for a in inputs}, {a.shape for a in outputs}
    if any(len(s) != 1 for s in shapes):
        raise ValueError(
            f"inputs, and outputs, must have one shape; received {sorted(shapes[0])}, {sorted(shapes[1])}."
        )
    return ArrayDataset(np.stack(inputs), np.stack(outputs), **kwargs)


def to_torch(data: Dataset, split: str = "train", device: torch.device | str = "cpu") -> TensorDataset:
    """One split of a data handler as a torch data set, for a `DataLoader`.

    Args:
        data: the data handler.
        split: "train", "test" or "val".
        device: where the tensors go.

    Returns:
        Pairs of tensors (input, output), as the handler converts them in inference mode; time, where there is any,
        behind samples.

    Raises:
        ValueError: if the split is unknown or there is none.

    Example:
        >>> data = hnbayes.data.ArrayDataset(np.zeros((40, 2)), np.arange(40) % 4, one_hot=False)
        >>> train = hnbayes.data.to_torch(data, "train")
        >>> X, y = next(iter(torch.utils.data.DataLoader(train, batch_size=16)))
        >>> X.shape
        torch.Size([16, 2])
    """
    check_choice("split", split, ("train", "test", "val"))
    x, y = getattr(data, f"get_{split}_inputs")(), getattr(data, f"get_{split}_outputs")()
    if x is None or len(x) == 0:
        raise ValueError(f"the data set has no {split} samples.")
    tensors = [data.input_to_torch_tensor(x, device), data.output_to_torch_tensor(y, device)]
    # An ArrayDataset gives sequences with time first; a torch data set counts samples first.
    swap = data.sequence and isinstance(data, ArrayDataset)
    return TensorDataset(*(t.transpose(0, 1) if swap else t for t in tensors))
