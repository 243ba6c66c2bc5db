"""Runs on disk: posterior.nc holds draws, recipe and held-out rows, all as plain numbers and text."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hnbayes._untrusted import UntrustedFileError, refuse_unsafe
from hnbayes.cli.errors import InputError
from hnbayes.cli.recipe import Recipe

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from hnbayes.posterior import Posterior

RECIPE = "hnbayes_recipe"
HELD_OUT = "predictions_constant_data"
ENGINE: Literal["h5netcdf"] = "h5netcdf"
GROUPS = ("posterior", "sample_stats", "log_likelihood", "log_prior")


@dataclass(frozen=True)
class Run:
    """A posterior that the command has sampled.

    Attributes:
        recipe: what rows become.
        posterior: the draws, over scaled inputs and targets.
        X: held-out inputs, scaled (T, D).
        y: held-out targets as the likelihood takes them.
    """

    recipe: Recipe
    posterior: Posterior
    X: NDArray[Any]
    y: NDArray[Any]


def save(run: Run, path: Path) -> None:
    """Write a run, through a temporary file beside it: there is a whole file or none."""
    import xarray as xr

    held_out = xr.Dataset({"X": (("row", "column"), run.X), "y": (("row", "output")[: run.y.ndim], run.y)})
    root = xr.Dataset(attrs={RECIPE: run.recipe.to_json()})
    handle, name = tempfile.mkstemp(suffix=".nc", dir=path.parent)
    os.close(handle)
    try:
        run.posterior.save(name)
        held_out.to_netcdf(name, mode="a", group=HELD_OUT, engine=ENGINE)
        root.to_netcdf(name, mode="a", engine=ENGINE)
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def load(path: Path) -> Run:
    """Read a run.

    Raises:
        InputError: if there is no such file, it is no posterior, or one of another network than it says.
    """
    from hnbayes.posterior import Posterior

    recipe = read_recipe(path)
    if recipe is None:
        raise InputError(
            f"{path} was not written by `hnbayes sample`: it doesn't say which network its draws are of, nor how a row "
            "of a table enters it. Use hnbayes.posterior.Posterior.load with the module that was sampled."
        )
    held_out = read_group(path, HELD_OUT)
    if held_out is None or not {"X", "y"} <= set(held_out.data_vars):
        raise InputError(f"{path} lacks the rows that were held out. Sample again.")
    try:
        posterior = Posterior.load(path, recipe.network())
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the draws in {path} are not of the network that it describes: {error}") from None
    return Run(recipe, posterior, held_out["X"].values, held_out["y"].values)


def read_recipe(path: Path) -> Recipe | None:
    """The recipe in a posterior's file, or None where somebody else wrote it.

    Raises:
        InputError: if there is no such file, or it is no posterior.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}. Check the path.")
    root = read_group(path, None)
    if root is None or read_group(path, "posterior") is None:
        raise InputError(
            f"{path} is no posterior: it must be a netCDF file with a group 'posterior', as sample saves it."
        )
    text = root.attrs.get(RECIPE)
    return None if text is None else Recipe.from_json(str(text))


def read_group(path: Path, name: str | None) -> xr.Dataset | None:
    """A group of a netCDF file in memory, or None if it isn't there or the file is none.

    Raises:
        InputError: if the file refers to others.
    """
    _refuse(path)
    return _group(path, name)


def _refuse(path: Path) -> None:
    try:
        refuse_unsafe(path)
    except UntrustedFileError as error:
        raise InputError(str(error)) from None


def _group(path: Path, name: str | None) -> xr.Dataset | None:
    import xarray as xr

    try:
        with xr.open_dataset(path, group=name, engine=ENGINE) as data:
            return data.load()
    except (OSError, ValueError, KeyError):
        return None


def read_groups(path: Path) -> dict[str, xr.Dataset]:
    """What ArviZ's files hold for a diagnosis.

    Raises:
        InputError: if the file refers to others.
    """
    _refuse(path)
    found = {name: _group(path, name) for name in GROUPS}
    return {name: data for name, data in found.items() if data is not None}


def split(rows: int, share: float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of the training rows and of those held out, at random.

    Raises:
        InputError: if there are too few rows.
    """
    held_out = max(round(rows * share), 1)
    if rows - held_out < 5:
        raise InputError(f"at least 5 rows must be left for training; {rows} rows leave {rows - held_out}. Add data.")
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
