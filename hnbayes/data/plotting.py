"""A figure of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hnbayes.data.dataset import Dataset


def plot_samples(
    data: Dataset,
    title: str,
    inputs: np.ndarray,
    outputs: np.ndarray | None,
    predictions: np.ndarray | None,
    num_samples_per_row: int,
    show: bool,
    filename: str | None,
    interactive: bool,
    figsize: tuple[float, float],
) -> Any:
    """Draw samples of a data set; see `Dataset.plot_samples`."""
    from matplotlib import pyplot as plt  # heavy, and only needed here

    columns = min(num_samples_per_row, len(inputs))
    rows = -(-len(inputs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False)
    figure.suptitle(title)
    shape = [int(n) for n in data.in_shape]
    for i, panel in enumerate(axes.flat):
        panel.set_axis_off()
        if i >= len(inputs):
            continue
        panel.set_title(_caption(data, outputs, predictions, i), fontsize=9)
        if data.is_image_dataset()[0] and inputs[i].size == np.prod(shape):
            image = inputs[i].reshape(shape)
            panel.imshow(image.squeeze() if shape[2] == 1 else image, cmap="gray")
        elif data.sequence:
            panel.plot(inputs[i].reshape(-1, int(np.prod(shape))))
        else:
            panel.bar(np.arange(inputs[i].size), inputs[i])
    figure.tight_layout()
    if filename is not None:
        figure.savefig(filename)
    if show:
        plt.show(block=not interactive)
    return figure


def _caption(data: Dataset, outputs: np.ndarray | None, predictions: np.ndarray | None, i: int) -> str:
    parts = []
    for name, values in (("label" if data.classification else "output", outputs), ("predicted", predictions)):
        if values is None:
            continue
        row = values[i : i + 1]
        if data.classification and row.shape[1] > 1 and not data.sequence:
            row = row.argmax(-1, keepdims=True)
        shown = np.round(np.atleast_1d(row[0]).astype(float), 2)
        text = ", ".join(f"{v:g}" for v in shown[:4])
        parts.append(f"{name}: {text}{', ...' if len(shown) > 4 else ''}")
    return "\n".join(parts)
