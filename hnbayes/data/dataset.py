"""Dataset: one interface to data in memory, split into training, test and validation samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hnbayes._checks import check_choice, check_count
from hnbayes.data.batches import BatchOrder
from hnbayes.data.plotting import plot_samples

Array = np.ndarray
SPLITS = ("train", "test", "val")


class Dataset(ABC):
    """Samples as rows of two arrays, each with a number (its row) and a place in a split.

    A subclass calls this constructor and then fills `_data`:

    | key | value |
    |---|---|
    | `classification`, `sequence` | whether outputs are labels; whether samples are sequences |
    | `num_classes`, `is_one_hot` | for classification: how many labels, and whether `out_data` is one-hot |
    | `in_data`, `out_data` | arrays (N, size); a sequence is its time steps in a row |
    | `in_shape`, `out_shape` | shape of an input and an output, for sequences of one time step |
    | `train_inds`, `test_inds`, `val_inds` | the rows of each split; None for no validation samples |

    Batches go through a split in random order, again and again; each pass has its own order.

    Args:
        seed: what the order of batches depends on; None draws a seed from NumPy's global generator.

    Example:
        >>> class Squares(hnbayes.data.Dataset):
        ...     def __init__(self):
        ...         super().__init__(seed=0)
        ...         x = np.linspace(-1, 1, 10)[:, None]
        ...         self._data |= {"classification": False, "sequence": False, "in_data": x, "out_data": x**2}
        ...         self._data |= {"in_shape": [1], "out_shape": [1]}
        ...         self._data |= {"train_inds": np.arange(8), "test_inds": np.arange(8, 10)}
        ...     def get_identifier(self):
        ...         return "squares"
        >>> Squares().next_train_batch(4)[0].shape
        (4, 1)
    """

    def __init__(self, seed: int | None = None) -> None:
        self._data: dict[str, Any] = {
            "classification": None,
            "sequence": None,
            "num_classes": None,
            "is_one_hot": None,
            "in_data": None,
            "out_data": None,
            "in_shape": [],
            "out_shape": [],
            "train_inds": [],
            "test_inds": [],
            "val_inds": None,
        }
        seed = int(np.random.randint(2**31)) if seed is None else check_count("seed", seed, 0)  # noqa: NPY002
        self._order = {split: BatchOrder(np.random.default_rng([seed, i])) for i, split in enumerate(SPLITS)}

    @property
    def classification(self) -> bool:
        """Whether outputs are labels."""
        return self._data["classification"]

    @property
    def sequence(self) -> bool:
        """Whether samples are sequences."""
        return self._data["sequence"]

    @property
    def num_classes(self) -> int | None:
        """How many labels there are; None unless outputs are labels."""
        return self._data["num_classes"]

    @property
    def is_one_hot(self) -> bool | None:
        """Whether labels are one-hot by default; None unless outputs are labels."""
        return self._data["is_one_hot"]

    @property
    def in_shape(self) -> list[int]:
        """Shape of an input, in a sequence of one time step."""
        return self._data["in_shape"]

    @property
    def out_shape(self) -> list[int]:
        """Shape of an output, in a sequence of one time step."""
        return self._data["out_shape"]

    @property
    def num_train_samples(self) -> int:
        """How many training samples there are."""
        return len(self._data["train_inds"])

    @property
    def num_test_samples(self) -> int:
        """How many test samples there are."""
        return len(self._data["test_inds"])

    @property
    def num_val_samples(self) -> int:
        """How many validation samples there are."""
        return 0 if self._data["val_inds"] is None else len(self._data["val_inds"])

    @property
    def shuffle_test_samples(self) -> bool:
        """Whether test batches come in random order, True by default; setting it starts a new pass."""
        return self._order["test"].shuffle

    @shuffle_test_samples.setter
    def shuffle_test_samples(self, value: bool) -> None:
        self._order["test"].shuffle = bool(value)
        self.reset_batch_generator(train=False, val=False)

    @property
    def shuffle_val_samples(self) -> bool:
        """Whether validation batches come in random order, True by default; setting it starts a new pass."""
        return self._order["val"].shuffle

    @shuffle_val_samples.setter
    def shuffle_val_samples(self, value: bool) -> None:
        self._order["val"].shuffle = bool(value)
        self.reset_batch_generator(train=False, test=False)

    def get_train_ids(self) -> Array:
        """Numbers of the training samples, (N,)."""
        return self._rows("train")

    def get_test_ids(self) -> Array:
        """Numbers of the test samples, (N,)."""
        return self._rows("test")

    def get_val_ids(self) -> Array | None:
        """Numbers of the validation samples, (N,); None without any."""
        return None if self._data["val_inds"] is None else self._rows("val")

    def get_train_inputs(self) -> Array:
        """Inputs of the training samples, (N, size)."""
        return self._data["in_data"][self._rows("train")]

    def get_test_inputs(self) -> Array:
        """Inputs of the test samples, (N, size)."""
        return self._data["in_data"][self._rows("test")]

    def get_val_inputs(self) -> Array | None:
        """Inputs of the validation samples, (N, size); None without any."""
        return None if self._data["val_inds"] is None else self._data["in_data"][self._rows("val")]

    def get_train_outputs(self, use_one_hot: bool | None = None) -> Array:
        """Outputs of the training samples.

        Args:
            use_one_hot: whether labels are to be one-hot; None takes the data's own form. Ignored unless outputs are
                labels.

        Returns:
            (N, size).
        """
        return self._outputs(self._rows("train"), use_one_hot)

    def get_test_outputs(self, use_one_hot: bool | None = None) -> Array:
        """Outputs of the test samples; see `get_train_outputs`."""
        return self._outputs(self._rows("test"), use_one_hot)

    def get_val_outputs(self, use_one_hot: bool | None = None) -> Array | None:
        """Outputs of the validation samples, None without any; see `get_train_outputs`."""
        return None if self._data["val_inds"] is None else self._outputs(self._rows("val"), use_one_hot)

    def next_train_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[Array]:
        """The next samples of the present pass through the training data, and of further passes where it ends.

        Args:
            batch_size: how many.
            use_one_hot: see `get_train_outputs`.
            return_ids: also return the samples' numbers.

        Returns:
            Inputs (batch_size, size), outputs (batch_size, size), and where asked for numbers (batch_size,).

        Raises:
            TypeError: if `batch_size` is not an integer.
            ValueError: if it is below 1, or there are no such samples.
        """
        return self._next("train", batch_size, use_one_hot, return_ids)

    def next_test_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[Array]:
        """The next test samples; see `next_train_batch`."""
        return self._next("test", batch_size, use_one_hot, return_ids)

    def next_val_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[Array] | None:
        """The next validation samples, None without any; see `next_train_batch`."""
        return None if self._data["val_inds"] is None else self._next("val", batch_size, use_one_hot, return_ids)

    def reset_batch_generator(self, train: bool = True, test: bool = True, val: bool = True) -> None:
        """Begin a new pass with the next batch.

        Args:
            train: of training samples.
            test: of test samples.
            val: of validation samples.
        """
        for split, chosen in zip(SPLITS, (train, test, val), strict=True):
            if chosen:
                self._order[split].reset()

    def train_iterator(self, batch_size: int, return_remainder: bool = True, **kwargs: Any) -> Iterator[list[Any]]:
        """One pass through the training samples; the passes of `next_train_batch` go on behind it as before.

        Args:
            batch_size: samples a batch.
            return_remainder: whether a last, smaller batch comes too.
            **kwargs: as for `next_train_batch`.

        Yields:
            The number of samples, then what `next_train_batch` returns.
        """
        return self._iterate("train", batch_size, return_remainder, **kwargs)

    def test_iterator(self, batch_size: int, return_remainder: bool = True, **kwargs: Any) -> Iterator[list[Any]]:
        """One pass through the test samples; see `train_iterator`."""
        return self._iterate("test", batch_size, return_remainder, **kwargs)

    def val_iterator(self, batch_size: int, return_remainder: bool = True, **kwargs: Any) -> Iterator[list[Any]]:
        """One pass through the validation samples; see `train_iterator`."""
        return self._iterate("val", batch_size, return_remainder, **kwargs)

    def train_ids_to_indices(self, sample_ids: Array) -> Array:
        """Where samples stand among the training samples.

        Args:
            sample_ids: their numbers, (n,).

        Returns:
            Indices into `get_train_inputs`, (n,).

        Raises:
            ValueError: if one is no training sample.
        """
        return self._indices("train", sample_ids)

    def test_ids_to_indices(self, sample_ids: Array) -> Array:
        """Where samples stand among the test samples; see `train_ids_to_indices`."""
        return self._indices("test", sample_ids)

    def val_ids_to_indices(self, sample_ids: Array) -> Array:
        """Where samples stand among the validation samples; see `train_ids_to_indices`."""
        return self._indices("val", sample_ids)

    @abstractmethod
    def get_identifier(self) -> str:
        """The name of the data set."""

    def is_image_dataset(self) -> tuple[bool, bool]:
        """Whether inputs, and whether outputs, are images: shapes (height, width, 1 or 3 channels)."""
        first, second = ([int(n) for n in shape] for shape in (self.in_shape, self.out_shape))
        is_image = [len(shape) == 3 and shape[2] in (1, 3) for shape in (first, second)]
        return is_image[0], is_image[1]

    def tf_input_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """The function that inputs go through in a TensorFlow pipeline: they are passed on.

        Args:
            mode: "train" or "inference".
        """
        check_choice("mode", mode, ("train", "inference"))
        return _identity

    def tf_output_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """The function that outputs go through in a TensorFlow pipeline: they are passed on."""
        check_choice("mode", mode, ("train", "inference"))
        return _identity

    def input_to_torch_tensor(
        self,
        x: Array,
        device: torch.device | str | int,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: Array | None = None,
    ) -> torch.Tensor:
        """Inputs as a float32 tensor; subclasses may preprocess them.

        Args:
            x: inputs as batches have them, (n, size).
            device: where the tensor goes.
            mode: "train" or "inference".
            force_no_preprocessing: pass them on as they are.
            sample_ids: the samples' numbers.

        Returns:
            (n, size).
        """
        check_choice("mode", mode, ("train", "inference"))
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)

    def output_to_torch_tensor(
        self,
        y: Array,
        device: torch.device | str | int,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: Array | None = None,
    ) -> torch.Tensor:
        """Outputs as a float32 tensor; see `input_to_torch_tensor`."""
        check_choice("mode", mode, ("train", "inference"))
        return torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32)).to(device)

    def plot_samples(
        self,
        title: str,
        inputs: Array,
        outputs: Array | None = None,
        predictions: Array | None = None,
        num_samples_per_row: int = 4,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
        **kwargs: Any,
    ) -> Any:
        """Draw samples, each in a panel: images as such, anything else as bars, sequences as lines.

        Args:
            title: title of the figure.
            inputs: inputs, (n, size).
            outputs: outputs, (n, size).
            predictions: predicted outputs, (n, size).
            num_samples_per_row: panels a row.
            show: whether to show the figure.
            filename: where to store it.
            interactive: whether to go on while it is shown.
            figsize: its size in inches.
            **kwargs: for subclasses.

        Returns:
            The matplotlib figure.
        """
        return plot_samples(
            self, title, inputs, outputs, predictions, num_samples_per_row, show, filename, interactive, figsize
        )

    def labels(self, outputs: Array) -> Array:
        """Class indices of outputs in either form.

        Args:
            outputs: one-hot labels (n, T * num_classes) or class indices (n, T), T = 1 without sequences.

        Returns:
            Class indices (n, T).
        """
        num_classes = int(self.num_classes or 0)
        if outputs.shape[1] % num_classes == 0 and self._one_hot_width(outputs):
            return outputs.reshape(len(outputs), -1, num_classes).argmax(-1)
        return outputs.astype(np.int64)

    def _one_hot_width(self, outputs: Array) -> bool:
        """Whether outputs are as wide as one-hot labels of this data set."""
        width = self._data["out_data"].shape[1]
        return outputs.shape[1] == (width if self.is_one_hot else width * int(self.num_classes or 0))

    def _outputs(self, rows: Array, use_one_hot: bool | None) -> Array:
        outputs = self._data["out_data"][rows]
        if not self.classification or use_one_hot is None or use_one_hot == self.is_one_hot:
            return outputs
        num_classes = int(self.num_classes or 0)
        if not use_one_hot:
            return self.labels(outputs)
        encoded = np.eye(num_classes, dtype=np.float64)[outputs.astype(np.int64)]
        return encoded.reshape(len(outputs), -1)

    def _rows(self, split: str) -> Array:
        return np.asarray(self._data[f"{split}_inds"], dtype=np.int64)

    def _next(self, split: str, batch_size: int, use_one_hot: bool | None, return_ids: bool) -> list[Array]:
        rows = self._rows(split)
        if len(rows) == 0:
            raise ValueError(f"there must be {split} samples to take a batch of; the data set has none.")
        chosen = rows[self._order[split].take(check_count("batch_size", batch_size), len(rows))]
        batch = [self._data["in_data"][chosen], self._outputs(chosen, use_one_hot)]
        return [*batch, chosen] if return_ids else batch

    def _iterate(self, split: str, batch_size: int, return_remainder: bool, **kwargs: Any) -> Iterator[list[Any]]:
        check_count("batch_size", batch_size)
        total = 0 if self._data[f"{split}_inds"] is None else len(self._data[f"{split}_inds"])
        order = self._order[split].separate()
        for start in range(0, total, batch_size):
            size = min(batch_size, total - start)
            if size < batch_size and not return_remainder:
                return
            # Handlers may overwrite the next_..._batch methods, so the batch comes from there.
            outer, self._order[split] = self._order[split], order
            try:
                batch = getattr(self, f"next_{split}_batch")(size, **kwargs)
            finally:
                self._order[split] = outer
            yield [size, *batch]

    def _indices(self, split: str, sample_ids: Array) -> Array:
        at = {int(row): i for i, row in enumerate(self._rows(split))}
        unknown = [int(i) for i in np.asarray(sample_ids) if int(i) not in at]
        if unknown:
            raise ValueError(f"sample_ids must be numbers of {split} samples; received {unknown[:5]}.")
        return np.array([at[int(i)] for i in np.asarray(sample_ids)], dtype=np.int64)


def _identity(x: Any) -> Any:
    return x
