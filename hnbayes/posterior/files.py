"""A posterior on disk: ArviZ's groups, and beside them what it takes to predict again."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import uuid
from typing import Any

import numpy as np
import torch
from torch import nn

from hnbayes._checks import describe
from hnbayes._untrusted import refuse_unsafe
from hnbayes._version import __version__
from hnbayes.posterior.groups import to_inference_data
from hnbayes.posterior.model_record import model_from_record, model_to_record
from hnbayes.posterior.posterior import Posterior
from hnbayes.sampling import Draws

# ArviZ knows a group of this name; ours holds the sampler's positions.
GROUP = "unconstrained_posterior"
RECORD = "hnbayes_posterior"
FORMAT = 1


def save(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write a posterior to a netCDF file, or a zarr directory if the name ends with ".zarr".

    ArviZ opens it too (`az.from_netcdf`). A file that was there is replaced once the new one is complete.

    Args:
        posterior: what `hnbayes.sample` returned.
        path: of the file.

    Raises:
        TypeError: if the path is none.
        ImportError: if zarr is asked for and not installed.
    """
    target = _path(path)
    if target.suffix == ".zarr" and importlib.util.find_spec("zarr") is None:
        raise ImportError(f"{target} needs zarr: pip install zarr. A name that ends with .nc needs nothing more.")
    idata = to_inference_data(posterior, groups={GROUP: _positions(posterior)})
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        if target.suffix == ".zarr":
            # ArviZ 0.x refuses zarr 3, which a DataTree takes.
            tree = idata.to_datatree() if hasattr(idata, "to_datatree") else idata
            tree.to_zarr(str(temporary), consolidated=False)
        else:
            idata.to_netcdf(str(temporary))
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], net: nn.Module, *, likelihood: Any = None, prior: Any = None) -> Posterior:
    """Read a posterior that `Posterior.save` wrote.

    Args:
        path: of the file.
        net: the network, of the architecture that was sampled; its weights don't matter.
        likelihood: needed only if it was a function, or an object of a class of one's own, which files can't hold.
        prior: likewise, or a `DiagGaussian`.

    Returns:
        The posterior, without draws of warm-up.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an argument is of another kind.
        ValueError: if the file holds no posterior, or one of another network, likelihood or prior are needed, or it
            refers to other files.

    Example:
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> net = torch.nn.Linear(1, 1)
        >>> post = hnbayes.sample(net, X, X, chains=2, warmup=10, draws=10, map_steps=10, seed=0, progress=False)
        >>> post.save("posterior.nc")
        >>> again = hnbayes.load("posterior.nc", torch.nn.Linear(1, 1))
        >>> torch.equal(again.weights()["weight"], post.weights()["weight"])
        True
    """
    source = _path(path)
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}.")
    refuse_unsafe(source)
    stored = _read(source, GROUP)
    record = _record(source, stored)
    X = torch.from_numpy(np.array(_read(source, "constant_data")["X"].values))
    y = torch.from_numpy(np.array(_read(source, "observed_data")["y"].values))
    model = model_from_record(record, source, net, X, likelihood, prior)
    stats = _read(source, "sample_stats")
    draws = Draws(
        positions=torch.from_numpy(np.array(stored["position"].values)).to(model.like.dtype),
        stats={str(name): torch.from_numpy(np.array(stats[name].values)) for name in stats.data_vars},
        step_size=torch.from_numpy(np.array(stored["step_size"].values)),
        inverse_metric=torch.from_numpy(np.array(stored["inverse_metric"].values)),
        spec=model.spec,
        metadata=record["metadata"],
    )
    return Posterior(model, draws, *model.data(X, y))


def _positions(posterior: Posterior) -> Any:
    """The group of positions, with the record of network, likelihood and prior as its attribute."""
    import xarray as xr

    draws, model = posterior.draws, posterior.model
    metric = draws.inverse_metric.numpy()
    variables = {
        "position": (("chain", "draw", "coordinate"), draws.positions.numpy()),
        "step_size": (("chain",), draws.step_size.numpy()),
        "inverse_metric": (("chain", "coordinate", "coordinate_2")[: metric.ndim], metric),
    }
    record = {
        "format": FORMAT,
        "version": __version__,
        **model_to_record(model),
        "metadata": {name: value for name, value in draws.metadata.items() if isinstance(value, (str, int, float))},
    }
    return xr.Dataset(variables, attrs={RECORD: json.dumps(record)})


def _path(path: Any) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be text or a path; received {describe(path)}.")
    return pathlib.Path(path)


def _read(path: pathlib.Path, group: str) -> Any:
    """A group of a file, in memory.

    Raises:
        ValueError: if the file can't be read or has no such group.
    """
    import xarray as xr

    try:
        if path.suffix == ".zarr":
            return xr.open_zarr(str(path), group=group, consolidated=False).load()
        with xr.open_dataset(str(path), group=group, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} must be a posterior written by Posterior.save; its group {group!r} can't be read: {error}"
        ) from error


def _record(path: pathlib.Path, stored: Any) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(stored.attrs[RECORD])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} must be a posterior written by Posterior.save; it lacks {RECORD!r}.") from error
    if record["format"] > FORMAT:
        raise ValueError(f"{path} was written by hnbayes {record['version']}, which is newer. Update hnbayes.")
    return record
