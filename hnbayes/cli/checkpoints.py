"""What `hnbayes sample --checkpoint` leaves for `--resume`, beside the run itself: the recipe and the held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnbayes.cli.errors import InputError
from hnbayes.cli.recipe import Recipe

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

RECIPE = "run.recipe"
# Options that go with --resume; all others are those of the run.
FREE = frozenset({"command", "resume", "draws", "out", "quiet", "json", "checkpoint_every", "cores"})


def prepare(folder: Path, recipe: Recipe, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Write recipe and held-out rows to the folder of a run that is about to begin.

    Raises:
        InputError: if a run is there.
    """
    from hnbayes.sampling.array_file import write_arrays
    from hnbayes.sampling.run_folder import folder_of, refuse_run

    try:
        refuse_run(folder_of(folder))
    except ValueError:
        raise InputError(f"{folder} holds a run, or is a file. Use --resume {folder}, or another folder.") from None
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / RECIPE, {"X": X, "y": y}, {"recipe": recipe.to_json()})


def read_recipe(folder: Path) -> tuple[Recipe, NDArray[Any], NDArray[Any]]:
    """What `prepare` wrote.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    from hnbayes.sampling.array_file import DamagedFileError, read_arrays

    try:
        arrays, record = read_arrays(folder / RECIPE)
        return Recipe.from_json(str(record["recipe"])), arrays["X"], arrays["y"]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no run of `hnbayes sample --checkpoint`. Check the path.") from None
    except (DamagedFileError, KeyError) as error:
        raise InputError(f"the run in {folder} can't be resumed: {error}") from None


def check_options(args: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Raise InputError if options are given with --resume that are those of the run."""
    given = vars(args)
    if taken := [name for name, value in vars(defaults).items() if name not in FREE and given[name] != value]:
        raise InputError(
            f"--resume goes on with the options of the run; received {taken[0].replace('_', '-')} too. Leave it out "
            "(--draws adds draws)."
        )
