"""ArrayDataset: arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hnbayes._checks import check_count, describe
from hnbayes.data.dataset import Dataset


class ArrayDataset(Dataset):
    """Arrays or tensors in memory as a data set.

    Inputs keep their shape: `input_to_torch_tensor` gives (n, *in_shape), and for sequences (T, n, *in_shape), as a
    recurrent network takes them; outputs likewise.

    Args:
        X: inputs (N, *in_shape), for sequences (N, T, *in_shape); floating point.
        y: integer labels (N,) or (N, T) for classification, else outputs (N,) or (N, *out_shape), (N, T, *out_shape).
        classification: whether outputs are labels; None for whether they are integers.
        num_classes: how many labels there are; None for the largest and one more.
        one_hot: whether batches have one-hot labels by default.
        sequence: whether samples are sequences.
        test: the part of the samples that becomes test samples, or their numbers.
        val: the part that becomes validation samples, or their numbers; 0 for none.
        name: the data set's name.
        seed: what splits and the order of batches depend on.

    Raises:
        TypeError: if inputs are not floating point, or labels not integers.
        ValueError: if arrays are empty, differ in length or hold NaN, labels are out of range, or splits overlap.

    Example:
        >>> X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
        >>> data = hnbayes.data.ArrayDataset(X, y, test=0.2, seed=0)
        >>> data.num_train_samples, data.num_test_samples, data.classification
        (40, 10, True)
        >>> inputs, outputs = data.next_train_batch(8)
        >>> inputs.shape, outputs.shape  # labels are one-hot
        ((8, 3), (8, 2))
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        classification: bool | None = None,
        num_classes: int | None = None,
        one_hot: bool = True,
        sequence: bool = False,
        test: float | Sequence[int] = 0.2,
        val: float | Sequence[int] = 0.0,
        name: str = "array",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        X, y = _array("X", X), _array("y", y)
        if len(X) != len(y) or len(X) == 0:
            raise ValueError(f"X and y must hold the same samples, at least one; received {len(X)} and {len(y)}.")
        if X.dtype.kind != "f":
            raise TypeError(f"X must be floating point; received dtype {X.dtype}. Convert with .astype(float).")
        if X.ndim < (3 if sequence else 2):
            raise ValueError(f"X must have shape (N, {'T, ' if sequence else ''}...); received {X.shape}.")
        if classification is None:
            classification = y.dtype.kind in "iu"
        self._name = name
        self._data["classification"] = classification
        self._data["sequence"] = sequence
        self._data["in_shape"] = list(X.shape[2 if sequence else 1 :])
        self._data["in_data"] = X.reshape(len(X), -1)
        if classification:
            self._set_labels(y, num_classes, one_hot)
        else:
            self._set_outputs(y)
        for key, values in (("X", X), ("y", y)):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{key} must be finite; received NaN or infinity. Remove or impute them.")
        self._split(len(X), test, val, seed)

    def get_identifier(self) -> str:
        """The name given to the constructor."""
        return self._name

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | str | int,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Inputs as a float32 tensor (n, *in_shape), or (T, n, *in_shape); see `Dataset.input_to_torch_tensor`."""
        flat = super().input_to_torch_tensor(x, device, mode, force_no_preprocessing, sample_ids)
        return self._shaped(flat, self.in_shape)

    def output_to_torch_tensor(
        self,
        y: np.ndarray,
        device: torch.device | str | int,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Outputs as a float32 tensor (n, *out_shape), or (T, n, *out_shape); indices as integers (n,), (T, n)."""
        flat = super().output_to_torch_tensor(y, device, mode, force_no_preprocessing, sample_ids)
        if self.classification and not self._one_hot_width(y):
            indices = flat.long()
            return indices.t() if self.sequence else indices.squeeze(1)
        return self._shaped(flat, [int(self.num_classes or 0)] if self.classification else self.out_shape)

    def _shaped(self, flat: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        if not self.sequence:
            return flat.reshape(len(flat), *shape)
        return flat.reshape(len(flat), -1, *shape).transpose(0, 1)

    def _set_labels(self, y: np.ndarray, num_classes: int | None, one_hot: bool) -> None:
        if y.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers; received dtype {y.dtype}.")
        y = y.reshape(len(y), -1) if self.sequence or y.ndim > 1 else y[:, None]
        if y.shape[1] != 1 and not self.sequence:
            raise ValueError(f"labels must have shape (N,); received {y.shape}. Take argmax(1) of one-hot labels.")
        classes = int(y.max()) + 1 if num_classes is None else check_count("num_classes", num_classes)
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(f"labels must lie in 0..{classes - 1}; received {int(y.min())} to {int(y.max())}.")
        self._data["num_classes"] = classes
        self._data["is_one_hot"] = one_hot
        self._data["out_shape"] = [classes] if one_hot else [1]
        self._data["out_data"] = np.eye(classes)[y].reshape(len(y), -1) if one_hot else y.astype(np.int64)

    def _set_outputs(self, y: np.ndarray) -> None:
        y = y.astype(np.float64) if y.dtype.kind in "iu" else y
        y = y[:, None] if y.ndim == 1 else y
        y = y[..., None] if self.sequence and y.ndim == 2 else y
        self._data["out_shape"] = list(y.shape[2 if self.sequence else 1 :])
        self._data["out_data"] = y.reshape(len(y), -1)

    def _split(self, n: int, test: float | Sequence[int], val: float | Sequence[int], seed: int) -> None:
        order = np.random.default_rng([seed, 3]).permutation(n)
        chosen: dict[str, np.ndarray] = {}
        start = 0
        for name, part in (("test", test), ("val", val)):
            if isinstance(part, (int, float)):
                if not 0 <= part < 1:
                    raise ValueError(f"{name} must be a part in 0..1, below 1, or numbers of samples; received {part}.")
                count = round(part * n)
                chosen[name] = np.sort(order[start : start + count])
                start += count
            else:
                chosen[name] = np.asarray(part, dtype=np.int64)
        taken = np.concatenate(list(chosen.values()))
        if len(np.unique(taken)) < len(taken) or (len(taken) and (taken.min() < 0 or taken.max() >= n)):
            raise ValueError(
                f"test and val must be different numbers in 0..{n - 1}; received overlapping or other ones."
            )
        train = np.setdiff1d(np.arange(n), taken)
        if len(train) == 0:
            raise ValueError("there must be training samples; received test and val that take all samples.")
        self._data["train_inds"] = train
        self._data["test_inds"] = chosen["test"]
        self._data["val_inds"] = chosen["val"] if len(chosen["val"]) else None


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, (np.ndarray, list, tuple)):
        raise TypeError(f"{name} must be an array or a tensor; received {describe(value)}.")
    array = np.array(value)
    if array.ndim == 0:
        raise ValueError(f"{name} must have a dimension for samples; received one number.")
    return array
