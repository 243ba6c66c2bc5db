"""Recipe: all that is needed, beside the weights, to turn a row of a table into a prediction."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.cli.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import nn

REGRESSION, CLASSIFICATION, COUNTS = TASKS = ("regression", "classification", "counts")
ACTIVATIONS = {"tanh": "Tanh", "relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "elu": "ELU", "sigmoid": "Sigmoid"}
MAX_CLASSES = 100


@dataclass(frozen=True)
class Recipe:
    """Columns, their scaling, the target and the network, as plain numbers and text.

    Attributes:
        columns: the inputs, in order.
        centre, scale: of each input: it enters the network as (x - centre) / scale.
        target: the column that is predicted.
        task: "regression", "classification" or "counts".
        classes: the target's classes as text, in order, for classification.
        target_centre, target_scale: of the target, for regression; 0 and 1 otherwise.
        hidden: units of each hidden layer.
        activation: between layers.
        likelihood: its name in `hnbayes.likelihoods`.
        prior: its name and scale.
    """

    columns: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    target: str
    task: str
    classes: tuple[str, ...]
    target_centre: float
    target_scale: float
    hidden: tuple[int, ...]
    activation: str
    likelihood: str
    prior: str

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for a row."""
        if self.task == CLASSIFICATION:
            return len(self.classes)
        return 2 if self.likelihood == "heteroscedastic" else 1

    def network(self) -> nn.Module:
        """The network, its weights not to be relied on."""
        from torch import nn

        widths = [len(self.columns), *self.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), getattr(nn, ACTIVATIONS[self.activation])()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.outputs))

    def inputs(self, table: pd.DataFrame, where: str) -> NDArray[Any]:
        """The rows' inputs, scaled, (N, D) in float32.

        Raises:
            InputError: if a column is missing, holds text or has missing or infinite values.
        """
        if absent := [name for name in self.columns if name not in table.columns]:
            raise InputError(
                f"{where} must have the columns that the network was sampled with; missing: {_listed(absent)}. It has "
                f"{_listed(table.columns)}."
            )
        values = numbers(table[list(self.columns)], where)
        return ((values - np.array(self.centre)) / np.array(self.scale)).astype(np.float32)

    def targets(self, table: pd.DataFrame, where: str) -> NDArray[Any]:
        """The rows' targets as the likelihood takes them: scaled (N, 1), class numbers (N,) or counts (N, 1).

        Raises:
            InputError: if they are missing, or of a kind or class that the network doesn't know.
        """
        column = table[self.target]
        check_no_gaps(column.to_frame(), where)
        if self.task == CLASSIFICATION:
            names = class_names(column)
            if unseen := sorted(set(names) - set(self.classes)):
                raise InputError(
                    f"{where} has classes of {self.target!r} that the network was not sampled with: {_listed(unseen)}; "
                    f"it knows {_listed(self.classes)}. Drop these rows, or sample again with them."
                )
            number = {name: i for i, name in enumerate(self.classes)}
            return np.array([number[name] for name in names])
        values = numbers(column.to_frame(), where)
        if self.task == COUNTS and not ((values >= 0) & (values == np.round(values))).all():
            raise InputError(
                f"counts must be whole numbers of at least 0; {self.target!r} in {where} holds others. Use "
                "--task regression."
            )
        return ((values - self.target_centre) / self.target_scale).astype(np.float32)

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """From text.

        Raises:
            InputError: if it is no recipe.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            recipe = cls(**fields)
            fits = len(recipe.columns) == len(recipe.centre) == len(recipe.scale) and recipe.activation in ACTIVATIONS
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the file's description of its network can't be read: {error}. Sample again.") from None
        if not fits or recipe.task not in TASKS:
            raise InputError("the file's description of its network doesn't fit together. Sample again.")
        return recipe


def make_recipe(
    table: pd.DataFrame,
    train: NDArray[Any],
    *,
    target: str,
    task: str | None,
    hidden: tuple[int, ...],
    activation: str,
    likelihood: str | None,
    prior: str,
    where: str,
) -> Recipe:
    """The recipe that a table asks for, scaled by its training rows.

    Raises:
        InputError: if the target isn't there, or columns are constant, hold text or have gaps.
    """
    if target not in table.columns:
        raise InputError(f"there is no column {target!r} in {where}; its columns are {_listed(table.columns)}.")
    columns = [name for name in table.columns if name != target]
    if not columns:
        raise InputError(f"{where} must have at least one column beside the target {target!r}.")
    check_no_gaps(table, where)
    inputs = numbers(table[columns], where)
    if flat := [name for name, x in zip(columns, inputs.T, strict=True) if np.ptp(x) == 0]:
        raise InputError(f"constant columns can't be scaled and say nothing; in {where}: {_listed(flat)}. Drop them.")
    if flat := [name for name, x in zip(columns, inputs[train].T, strict=True) if np.ptp(x) == 0]:
        raise InputError(
            f"columns are constant among the {len(train)} training rows: {_listed(flat)}. Drop them, or use another "
            "--seed or a smaller --test-share."
        )
    task = task or (REGRESSION if is_number(table[target]) else CLASSIFICATION)
    classes: tuple[str, ...] = ()
    centre, scale = 0.0, 1.0
    if task == CLASSIFICATION:
        classes = _classes(table[target], where)
    else:
        values = numbers(table[[target]], where, hint="Use --task classification.")
        if np.ptp(values) == 0:
            raise InputError(f"the target {target!r} is constant in {where}: there is nothing to predict.")
        if task == REGRESSION:
            centre, scale = float(values[train].mean()), float(values[train].std()) or 1.0
    return Recipe(
        columns=tuple(columns),
        centre=tuple(inputs[train].mean(0).tolist()),
        scale=tuple(inputs[train].std(0).tolist()),
        target=target,
        task=task,
        classes=classes,
        target_centre=centre,
        target_scale=scale,
        hidden=hidden,
        activation=activation,
        likelihood=likelihood or {REGRESSION: "gaussian", CLASSIFICATION: "categorical", COUNTS: "poisson"}[task],
        prior=prior,
    )


def numbers(table: pd.DataFrame, where: str, hint: str = "Encode them as numbers, or drop them.") -> NDArray[Any]:
    """The table's cells, (N, columns) in float64.

    Raises:
        InputError: if a column holds text, or cells are missing or infinite.
    """
    if text := [str(name) for name in table.columns if not is_number(table[name])]:
        example = next(str(v) for v in table[text[0]] if not _is_number_text(v))
        raise InputError(f"columns of text in {where}: {_listed(text)} (such as {example[:40]!r}). {hint}")
    check_no_gaps(table, where)
    values = table.to_numpy(dtype=np.float64)
    if bad := [str(name) for name, x in zip(table.columns, values.T, strict=True) if not np.isfinite(x).all()]:
        raise InputError(f"infinite values in {where}: {_listed(bad)}. Remove these rows.")
    return values


def is_number(column: Any) -> bool:
    """Whether a column holds numbers or truth values."""
    return column.dtype.kind in "biuf"


def check_no_gaps(table: pd.DataFrame, where: str) -> None:
    """Raise InputError if a cell is empty."""
    counts = table.isna().sum()
    if gaps := [f"{name} ({count})" for name, count in counts.items() if count]:
        raise InputError(f"missing values in {where}: {', '.join(gaps[:8])}. Impute them, or drop these rows.")


def class_names(column: Any) -> list[str]:
    """The classes as text; 1 and 1.0 are the same class."""
    if column.dtype.kind == "f" and (column == column.round()).all():
        column = column.astype("int64")
    return [str(value) for value in column]


def _classes(column: Any, where: str) -> tuple[str, ...]:
    names = class_names(column)
    numeric = is_number(column) and column.dtype.kind != "b"
    distinct = sorted(set(names), key=float) if numeric else sorted(set(names))
    if not 2 <= len(distinct) <= MAX_CLASSES:
        raise InputError(
            f"classification needs 2 to {MAX_CLASSES} classes; {column.name!r} in {where} has {len(distinct)} values. "
            "Use --task regression or counts, or another target."
        )
    return tuple(distinct)


def _is_number_text(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _listed(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:12] + ["..."] * (len(listed) > 12))
