"""Predictions as an xarray.Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]


def prediction_table(pieces: Sequence[Mapping[str, Array]], task: str, levels: Sequence[float]) -> xr.Dataset:
    """Summaries of blocks of points as one table.

    Args:
        pieces: name -> array (B, ...), of quantiles (B, levels, ...).
        task: what the data are.
        levels: of the quantiles.

    Returns:
        Dimensions as `Posterior.predict` says.
    """
    import xarray as xr

    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    coords: dict[str, Any] = {"point": np.arange(len(next(iter(columns.values()))))}
    variables = {}
    for name, array in columns.items():
        dims = ["point"]
        if name == "quantile":
            coords["level"] = list(levels)
            dims.append("level")
        if array.shape[len(dims) :] == (1,):
            array = array[..., 0]
        rest = array.ndim - len(dims)
        own = "class" if task == "classification" and name != "label" else "output"
        names = [own] if rest == 1 else [f"{own}_{i}" for i in range(rest)]
        variables[name] = ((*dims, *names), array)
    return xr.Dataset(variables, coords=coords).transpose(..., "point", *_after(variables))


def _after(variables: Mapping[str, Any]) -> list[str]:
    seen = {dim: None for dims, _ in variables.values() for dim in dims}
    return [dim for dim in seen if dim not in ("point", "level")]
