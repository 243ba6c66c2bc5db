"""Draws and chains in ArviZ's format, for ArviZ 0.x (InferenceData) and 1.x (DataTree).

Every group is one `xarray.Dataset` with dimensions (chain, draw, the variable's own). Both versions of ArviZ
take the same datasets; only the container around them differs. C chains, S draws, D numbers in a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

# torch, xarray and ArviZ are not imported here: `import hnbayes` stays quick, and this file can be tested
# where there is no torch (ArviZ 1.x needs Python 3.12).
if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from hnbayes.params import ParamSpec

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]
    Dims: TypeAlias = Mapping[str, list[str]]

# ArviZ uses `diverging` as an index: the integers 0 and 1 would mark every draw as divergent.
_BOOLEAN_STATS = frozenset({"diverging", "reached_max_treedepth"})
# Groups without chains and draws, and groups whose chains and draws are not the posterior's.
_DATA_GROUPS = frozenset({"observed_data", "constant_data", "predictions_constant_data"})
_PRIOR_GROUPS = frozenset({"prior", "prior_predictive", "sample_stats_prior", "unconstrained_prior"})
_SAMPLE_DIMS = ("chain", "draw")


def to_inference_data(
    x: Any,
    *,
    var_name: str = "position",
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    save_warmup: bool = True,
    attrs: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> Any:
    """Hand draws to ArviZ: `az.summary`, `az.plot_trace`, `az.plot_energy`, `.to_netcdf` and the rest.

    The posterior has one variable for each parameter of the network, under its name (`"0.weight"`; a '/'
    becomes a '.') and in its shape. Draws in CPU memory are not copied: to write into the result is to write
    into the draws. Only bfloat16 and float16, which netCDF does not know, are copied, to float32.

    Args:
        x: `Draws`, or an object whose method `to_draws()` returns them, as `HMC`, `NUTS`, `MCMC` and
            `MultiChainHMC` have; or a `Posterior`, whose `to_inference_data` has more options.
        var_name: name of the posterior's one variable, of shape (C, S, D), where the draws have no `spec`.
        coords: dimension -> labels, one for each entry along it. Other dimensions are numbered from 0, as
            chains and draws always are.
        dims: variable, of any group -> names of its dimensions after chain and draw, which otherwise are
            `<variable>_dim_0`, `<variable>_dim_1`, ...
        save_warmup: whether warm-up draws, where they were kept, become the groups `warmup_posterior` and
            `warmup_sample_stats`.
        attrs: more attributes of each group: text, numbers, flat lists of one of them. True becomes "True".
        groups: more groups: name -> `xarray.Dataset`, taken as it is, or name -> {variable: array}. Arrays
            have shape (C, S, ...); those of the prior's groups have chains and draws of their own, those of
            `observed_data`, `constant_data` and `predictions_constant_data` have neither.

    Returns:
        `arviz.InferenceData` where ArviZ 0.x is installed, `xarray.DataTree` where it is 1.x.

    Raises:
        TypeError: if an argument is not of the kind described.
        ValueError: if there are no draws, or shapes, names, dimensions and labels do not fit each other.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> draws = hnbayes.sample_potential(U, torch.zeros(2, 3), warmup=10, draws=20, seed=0, progress=False)
        >>> idata = hnbayes.to_inference_data(draws, var_name="q", dims={"q": ["axis"]}, coords={"axis": [*"xyz"]})
        >>> dict(idata.posterior["q"].sizes)
        {'chain': 2, 'draw': 20, 'axis': 3}
    """
    import xarray as xr

    if hasattr(x, "own_inference_data") and not isinstance(x, type):
        options = {"coords": coords, "dims": dims, "save_warmup": save_warmup, "attrs": attrs, "groups": groups}
        return x.own_inference_data(**options)
    draws = x.to_draws() if hasattr(x, "to_draws") and not isinstance(x, type) else x
    if isinstance(x, type) or not (hasattr(draws, "positions") and hasattr(draws, "stats")):
        raise TypeError(
            "x must be Draws, or an object whose to_draws() returns them (HMC, NUTS, MCMC, MultiChainHMC); "
            f"received {x if isinstance(x, type) else type(draws)}. Pass what was sampled."
        )
    leading, posterior, stats = _sampled(draws.positions, draws.stats, draws.spec, var_name, "")
    arrays: dict[str, Arrays] = {"posterior": posterior, "sample_stats": stats}
    if save_warmup and draws.warmup_positions is not None and draws.warmup_positions.shape[1] > 0:
        warmup = _sampled(draws.warmup_positions, draws.warmup_stats or {}, draws.spec, var_name, "warmup_")
        arrays |= {"warmup_posterior": warmup[1], "warmup_sample_stats": warmup[2]}

    ready: dict[str, xr.Dataset] = {}
    for name, group in (groups or {}).items():
        if name in arrays or not name.isidentifier():
            raise ValueError(
                f"groups need new identifiers as names, beside {_some(arrays)}; received {name!r}. Rename it."
            )
        if isinstance(group, xr.Dataset):
            ready[name] = group
        else:
            arrays[name] = _added(name, group, leading)

    coords, dims = coords or {}, _checked_dims(dims or {}, arrays)
    datasets = {name: _dataset(name, group, dims, coords) for name, group in arrays.items() if group}
    known = {str(name) for dataset in datasets.values() for name in dataset.dims} - set(_SAMPLE_DIMS)
    if unknown := set(coords) - known:
        raise ValueError(
            f"coords must label dimensions ({_some(known)}); received {_some(unknown)}. Name them in dims."
        )
    attributes = _attributes(draws.metadata, attrs or {})
    return container({**{name: data.assign_attrs(attributes) for name, data in datasets.items()}, **ready})


def sampled_groups(draws: Any, var_name: str = "position") -> dict[str, xr.Dataset]:
    """The groups `posterior` and `sample_stats` that `to_inference_data` makes of `Draws`, as datasets."""
    _, posterior, stats = _sampled(draws.positions, draws.stats, draws.spec, var_name, "")
    attributes = _attributes(draws.metadata, {})
    groups = {"posterior": posterior, "sample_stats": stats}
    return {name: _dataset(name, arrays, {}, {}).assign_attrs(attributes) for name, arrays in groups.items()}


def container(groups: dict[str, Any]) -> Any:
    """Datasets by group, in what the installed ArviZ works on: the only step in which its versions differ."""
    import xarray as xr

    # Not `hasattr`: ArviZ 1.x answers for `InferenceData` too, with a warning and a DataTree.
    if int(version("arviz").split(".")[0]) >= 1:
        return xr.DataTree.from_dict(groups)
    import arviz

    return arviz.InferenceData(**groups)


def _to_numpy(value: Any, what: str) -> NDArray[Any]:
    """The array of a tensor or array-like, in the same memory wherever NumPy and netCDF know its dtype."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
            value = value.float()
    array = np.asarray(value)
    if array.dtype == np.float16:  # netCDF has no such type
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufUM":
        raise TypeError(
            f"{what} must be an array of numbers, truth values, text or dates; received a "
            f"{type(value).__name__} of dtype {array.dtype}. Convert it first."
        )
    return array


def _sampled(
    positions: Any, stats: Mapping[str, Any], spec: ParamSpec | None, var_name: str, prefix: str
) -> tuple[tuple[int, int], Arrays, Arrays]:
    """(C, S), parameters {name: (C, S, *shape)} as views of the positions, statistics {name: (C, S)}."""
    flat = _to_numpy(positions, f"{prefix}positions")
    if flat.ndim != 3 or 0 in flat.shape:
        raise ValueError(
            f"{prefix}positions must have shape (chains, draws, dimensions) with at least one of each; "
            f"received {flat.shape}. Sample at least one draw first."
        )
    if spec is not None and (size := sum(map(math.prod, spec.shapes))) != flat.shape[-1]:
        raise ValueError(
            f"spec must describe as many numbers as a position has, {flat.shape[-1]}; received {size} in "
            f"{len(spec.names)} parameters. Use the spec of the network that was sampled, or none."
        )
    leading = flat.shape[:2]
    parameters = {var_name: flat} if spec is None else spec.unflatten(flat)
    statistics = {}
    for name, value in stats.items():
        array = _to_numpy(value, f"{prefix}stats[{name!r}]")
        _check_leading(array, leading, f"{prefix}stats[{name!r}]")
        statistics[name] = array.astype(bool, copy=False) if name in _BOOLEAN_STATS else array
    return leading, _named(parameters, "spec"), statistics


def _added(group: str, arrays: Any, leading: tuple[int, int]) -> Arrays:
    """The arrays of a group that the caller adds."""
    if not isinstance(arrays, Mapping) or not arrays:
        raise TypeError(
            f"groups[{group!r}] must be an xarray.Dataset or a dict of at least one array; received "
            f"{repr(arrays)[:60]} ({type(arrays).__name__}). Write {{{group!r}: {{'name': array}}}}."
        )
    result = {name: _to_numpy(value, f"groups[{group!r}][{name!r}]") for name, value in arrays.items()}
    own_draws = group in _PRIOR_GROUPS or group.startswith("warmup_")
    for name, array in result.items():
        if group not in _DATA_GROUPS:
            # (C * S, N), the draws of all chains in one row, must not pass for C * S chains of N draws.
            _check_leading(array, (None, None) if own_draws else leading, f"groups[{group!r}][{name!r}]")
    return _named(result, f"groups[{group!r}]")


def _check_leading(array: NDArray[Any], leading: tuple[int | None, int | None], what: str) -> None:
    if array.ndim < 2 or any(n not in (None, m) for n, m in zip(leading, array.shape, strict=False)):
        raise ValueError(
            f"{what} must have shape (chains, draws, ...) = ({leading[0] or 'any'}, {leading[1] or 'any'}, "
            f"...); received {array.shape}. Reshape it; where its draws are others, pass a Dataset."
        )


def _named(arrays: Arrays, what: str) -> Arrays:
    """The arrays under names that ArviZ takes: '/' would part the groups of a file."""
    if len(result := {name.replace("/", "."): array for name, array in arrays.items()}) < len(arrays):
        raise ValueError(f"names in {what} must differ with '.' for '/'; received {_some(arrays)}. Rename one.")
    return result


def _some(names: Iterable[str]) -> str:
    """Up to a dozen names, for an error message."""
    quoted = sorted(map(repr, names))
    return ", ".join(quoted[:12] + ["..."] * (len(quoted) > 12)) or "none"


def _checked_dims(dims: Mapping[str, Sequence[str]], groups: Mapping[str, Arrays]) -> Dims:
    """The caller's names of dimensions, by variables that exist."""
    known = {variable for arrays in groups.values() for variable in arrays}
    result = {variable.replace("/", "."): names for variable, names in dims.items()}
    for key, names in result.items():
        if key not in known:
            raise ValueError(f"dims must be of variables that exist: {_some(known)}; received {key!r}. Use those.")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"dims[{key!r}] must be a list of names; received {names!r}. Make it one.")
    return {key: list(names) for key, names in result.items()}


def _dims_of(variable: str, array: NDArray[Any], group: str, dims: Dims) -> list[str]:
    """The names of all dimensions of an array."""
    leading = () if group in _DATA_GROUPS else _SAMPLE_DIMS
    own = array.shape[len(leading) :]
    names = dims.get(variable, [f"{variable}_dim_{i}" for i in range(len(own))])
    if group == "log_likelihood":
        names = names[: len(own)]  # one number an observation, where the observation may be a vector
    if len(names) != len(own) or len({*_SAMPLE_DIMS, *names}) != 2 + len(own):
        raise ValueError(
            f"dims[{variable!r}] must hold {len(own)} distinct names other than chain and draw, since its "
            f"shape in {group} is {own}; received {names}. Name each of its dimensions once."
        )
    return [*leading, *names]


def _dataset(name: str, arrays: Arrays, dims: Dims, coords: Mapping[str, Any]) -> xr.Dataset:
    """One group: variables over named dimensions, each dimension with labels."""
    import xarray as xr

    variables = {key: (_dims_of(key, array, name, dims), array) for key, array in arrays.items()}
    sizes: dict[str, int] = {}
    for key, (own, array) in variables.items():
        for dim, size in zip(own, array.shape, strict=True):
            if sizes.setdefault(dim, size) != size or dim in variables:
                other = "a variable too" if dim in variables else f"{sizes[dim]} long elsewhere"
                raise ValueError(
                    f"in a group a dimension must have one length and no variable's name; received in {name} "
                    f"{dim!r}, {size} long in {key!r} and {other}. Name it otherwise in dims."
                )
    labels = {dim: np.arange(size) for dim, size in sizes.items()}
    for dim in sizes.keys() & coords.keys() - set(_SAMPLE_DIMS):
        labels[dim] = _to_numpy(coords[dim], f"coords[{dim!r}]")
        if labels[dim].shape != (sizes[dim],):
            raise ValueError(
                f"coords[{dim!r}] must hold one label for each of the {sizes[dim]} entries of {dim!r} in "
                f"{name}; received shape {labels[dim].shape}. Give as many labels."
            )
    return xr.Dataset(variables, coords=labels)


def _attributes(metadata: Mapping[str, Any], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of every group: what made the draws, how, and what the caller adds."""
    try:
        own_version = version("hnbayes")
    except PackageNotFoundError:  # used from its source directory
        own_version = "unknown"
    ours = {
        "created_at": datetime.now(timezone.utc).isoformat(),
        "inference_library": "hnbayes",
        "inference_library_version": own_version,
        "tuning_steps": metadata.get("warmup"),
        **metadata,
    }
    result = {}
    for key, value in {**ours, **attrs}.items():
        flat = _flat(value)
        if flat is None and key in attrs:
            raise TypeError(
                f"attrs[{key!r}] must be text, a number or a flat list of either, as netCDF holds no more; "
                f"received {value!r}. Convert it to text."
            )
        if value is not None:
            result[key.replace("/", ".")] = str(value) if flat is None else flat
    return result


def _flat(value: Any) -> Any:
    """The value as an attribute that netCDF gives back equal, or None where there is no such attribute."""
    if hasattr(value, "detach") or isinstance(value, np.ndarray):
        value = _to_numpy(value, "an attribute").tolist()
    if isinstance(value, list | tuple):
        items = [_scalar(item) for item in value]
        if None in items or len({isinstance(item, str) for item in items}) != 1:
            return None
        return items if len(items) > 1 else items[0]  # netCDF does not tell a list of one from its item
    return _scalar(value)


def _scalar(value: Any) -> str | int | float | None:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or (isinstance(value, int) and not -(2**63) <= value < 2**64):
        return str(value)  # netCDF has neither truth values nor longer integers
    return value if isinstance(value, str | int | float) else None
