"""Small real data sets from scikit-learn, which must be installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hnbayes._checks import check_choice, check_count
from hnbayes.data.array_dataset import ArrayDataset

# Whether outputs are labels, and the shape of an input where it is an image.
SETS: dict[str, tuple[bool, tuple[int, ...] | None]] = {
    "digits": (True, (8, 8, 1)),
    "iris": (True, None),
    "wine": (True, None),
    "breast_cancer": (True, None),
    "diabetes": (False, None),
}


def load(name: str, *, standardise: bool | None = None, **kwargs: Any) -> ArrayDataset:
    """One of scikit-learn's small data sets as a data handler.

    Args:
        name: "digits" (images, scaled to 0..1), "iris", "wine", "breast_cancer" or "diabetes".
        standardise: whether inputs, and outputs that are no labels, get mean 0 and variance 1 in the training samples;
            None for all but images.
        **kwargs: as for `ArrayDataset`.

    Returns:
        The data handler.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if the name is unknown.

    Example:
        >>> data = hnbayes.data.load("iris", test=0.2)
        >>> data.num_train_samples, data.in_shape, data.num_classes
        (120, [4], 3)
        >>> bool(abs(data.get_train_inputs().mean(0)).max() < 1e-5)  # standardised
        True
    """
    check_choice("name", name, tuple(SETS))
    classification, image = SETS[name]
    X, y = _loader(name)(return_X_y=True)
    X = X.astype(np.float64) / (16.0 if image else 1.0)
    X = X.reshape(len(X), *image) if image else X
    y = y.astype(np.int64) if classification else y.astype(np.float64)
    data = ArrayDataset(X, y, classification=classification, name=name, **kwargs)
    if image is None if standardise is None else standardise:
        train = data.get_train_ids()
        _standardise(data._data["in_data"], train)
        if not classification:
            _standardise(data._data["out_data"], train)
    return data


def split_tasks(data: ArrayDataset, classes_per_task: int) -> list[ArrayDataset]:
    """A classification set as tasks that tell some of its classes apart, labels counted from 0 in each.

    Args:
        data: the data set; its splits are kept.
        classes_per_task: how many classes a task has; it divides the number of classes.

    Returns:
        One data set a task, with classes (0, 1, ...), (k, k + 1, ...) and so on.

    Raises:
        ValueError: if outputs are no labels, or the number doesn't divide that of the classes.

    Example:
        >>> data = hnbayes.data.ArrayDataset(np.zeros((40, 2)), np.arange(40) % 4)
        >>> tasks = hnbayes.data.split_tasks(data, classes_per_task=2)
        >>> len(tasks), tasks[1].num_classes
        (2, 2)
    """
    if not data.classification or data.num_classes is None:
        raise ValueError("data must be a classification set to be split by classes; it is not.")
    k = check_count("classes_per_task", classes_per_task)
    if data.num_classes % k:
        raise ValueError(f"classes_per_task must divide {data.num_classes}, the number of classes; received {k}.")
    labels = data.labels(data._data["out_data"])[:, 0]
    return [_task(data, labels, range(first, first + k)) for first in range(0, data.num_classes, k)]


def _task(data: ArrayDataset, labels: np.ndarray, classes: Sequence[int]) -> ArrayDataset:
    rows = np.flatnonzero(np.isin(labels, list(classes)))
    at = {int(row): i for i, row in enumerate(rows)}
    parts = {
        split: [at[int(row)] for row in data._data[f"{split}_inds"] if int(row) in at]
        for split in ("test", "val")
        if data._data[f"{split}_inds"] is not None
    }
    return ArrayDataset(
        data._data["in_data"][rows].reshape(len(rows), *data.in_shape),
        labels[rows] - classes[0],
        num_classes=len(classes),
        one_hot=bool(data.is_one_hot),
        test=parts["test"],
        val=parts.get("val", 0.0),
        name=f"{data.get_identifier()}_{classes[0]}_{classes[-1]}",
    )


def _loader(name: str) -> Callable[..., Any]:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"the data set {name!r} comes from scikit-learn, which is not installed: pip install scikit-learn."
        ) from error
    loader: Callable[..., Any] = getattr(datasets, f"load_{name}")
    return loader


def _standardise(values: np.ndarray, train: np.ndarray) -> None:
    mean, sd = values[train].mean(0), values[train].std(0)
    values -= mean
    values /= np.where(sd > 0, sd, 1.0)
