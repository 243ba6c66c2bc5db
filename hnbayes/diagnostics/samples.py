"""Draws as plain arrays: (C, S, ...), C chains of S draws of anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

# torch and ArviZ are not imported here: `import hnbayes` stays quick.
if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def as_samples(name: str, x: Any, *, dims: int | None = None, finite: bool = True) -> Array:
    """The draws as a float64 array of shape (C, S, ...).

    Args:
        name: what the caller calls it, for messages.
        x: array, tensor (on any device, with or without a graph) or `xarray.DataArray` with dimensions chain and draw.
        dims: the number of dimensions it must have; at least 2 where it is not given.
        finite: whether NaN and infinity are refused.

    Raises:
        TypeError: if it does not hold real numbers.
        ValueError: if it has another shape, no draws, or NaN or infinite values where they are refused.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    elif hasattr(x, "transpose") and {"chain", "draw"} <= set(getattr(x, "dims", ())):
        x = x.transpose("chain", "draw", ...)
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must be an array of real numbers; received a {type(x).__name__} of dtype {array.dtype}. "
            "Convert it first."
        )
    shape = "(chains, draws, ...)" if dims is None else str(("chains", "draws", "points", "outputs")[:dims])
    if array.ndim < 2 or (dims is not None and array.ndim != dims) or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape {shape.replace(chr(39), '')} with at least one of each; received {array.shape}. "
            "Reshape it; one chain is an array of shape (1, draws, ...)."
        )
    array = array.astype(np.float64, copy=False)
    if finite and not (good := np.isfinite(array)).all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(
            f"{name} must be finite; received {int((~good).sum())} NaN or infinite of {array.size} values, the first "
            f"at index {where}. A sampler that returns such draws is broken there: find out which draws they are of."
        )
    return array


def thin_points(x: Array, limit: int) -> Array:
    """At most `limit` of the points (C, S, N, ...), evenly spaced, so that checks of many points stay quick."""
    if x.ndim < 3 or x.shape[2] <= limit:
        return x
    return x[:, :, np.linspace(0, x.shape[2] - 1, limit).round().astype(int)]
