"""How the pictures look: colours that the colour-blind tell apart, and axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# Okabe and Ito's colours.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
# Chains: dark to light, told apart without colour too.
CHAINS = "viridis"
NAMED_CHAINS = 8


def axes(ax: Axes | None, *, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def chain_colours(chains: int) -> list[Any]:
    """One colour for each chain."""
    return [colormaps[CHAINS](0.82 * chain / max(chains - 1, 1)) for chain in range(chains)]


def chain_label(chain: int, chains: int) -> str:
    """The legend's entry, or none ("_") where there are too many chains to name."""
    return f"chain {chain}" if chains <= NAMED_CHAINS else "_"


def legend(ax: Axes, **options: Any) -> None:
    """A legend without a box, if there is anything to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**{"frameon": False, "fontsize": "small", **options})


def as_vector(name: str, x: Any, size: int | None = None) -> NDArray[Any]:
    """A finite vector (N,); (N, 1) is one too.

    Raises:
        ValueError: if it is another shape, has another size, or NaN or infinite values.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    array = np.asarray(x, dtype=np.float64)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.size == 0 or (size is not None and array.size != size):
        wanted = "(points,)" if size is None else f"({size},)"
        raise ValueError(f"{name} must have shape {wanted}; received {np.shape(x)}. Pass one number for each point.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; received NaN or infinite values. Remove them.")
    return array


def quantiles(draws: NDArray[Any], level: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ends of the central interval that holds `level` of the draws (C, S, N), (N,) each."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=(0, 1))
    return low, high
