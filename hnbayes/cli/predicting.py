"""`hnbayes predict`: predictions for the rows of a table, with uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hnbayes.cli.collecting import scores
from hnbayes.cli.errors import InputError
from hnbayes.cli.main import Result
from hnbayes.cli.recipe import CLASSIFICATION
from hnbayes.cli.runs import Run, load
from hnbayes.cli.sampling import score_table
from hnbayes.cli.tables import PARQUET, SEPARATORS, read_table

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import pandas as pd


def run(args: argparse.Namespace) -> Result:
    """Predict and write a table: one row for each of the given table's, in its order.

    Raises:
        InputError: if the posterior or the table can't be used.
    """
    _check_ending(args.output)
    found = load(args.posterior)
    table = read_table(args.table)
    X = found.recipe.inputs(table, str(args.table))
    result: dict[str, float] = {}
    if found.recipe.target in table.columns:
        result = scores(found, X, found.recipe.targets(table, str(args.table)))
    predictions = predict(found, X, args.interval)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    _write(predictions, args.output)
    text = f"{len(predictions)} predictions in {args.output}: {', '.join(predictions.columns)}"
    if result:
        text += f"\n\nscores against {found.recipe.target!r} in {args.table}:\n{score_table(result)}"
    return Result(text, {"predictions": str(args.output), "rows": len(predictions), "scores": result})


def predict(run: Run, X: Any, interval: float) -> pd.DataFrame:
    """The predictive distribution of each row, in the target's own unit.

    Args:
        run: the run.
        X: scaled inputs (N, D).
        interval: probability of the central interval.
    """
    import pandas as pd
    import torch

    recipe = run.recipe
    levels = ((1 - interval) / 2, 0.5, (1 + interval) / 2)
    found = run.posterior.predict(torch.as_tensor(X), quantiles=levels)
    if recipe.task == CLASSIFICATION:
        chances = found["probability"].values
        columns: dict[str, Any] = {recipe.target: [recipe.classes[i] for i in found["label"].values.astype(int)]}
        columns |= {f"p({name})": chances[:, i] for i, name in enumerate(recipe.classes)}
        columns |= {"entropy": found["entropy"].values, "mutual_information": found["mutual_information"].values}
        return pd.DataFrame(columns)
    low, median, high = (found["quantile"].isel(level=i).values for i in range(3))
    places = {"mean": found["mean"].values, "median": median, "low": low, "high": high}
    spreads = {name: found[name].values for name in ("sd", "sd_noise", "sd_weights")}
    columns = {f"{recipe.target}_{name}": v * recipe.target_scale + recipe.target_centre for name, v in places.items()}
    columns |= {f"{recipe.target}_{name}": v * recipe.target_scale for name, v in spreads.items()}
    return pd.DataFrame(columns)


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in (*SEPARATORS, *PARQUET):
        raise InputError(f"the output must end in {', '.join([*SEPARATORS, *PARQUET])}; received {path}. Rename it.")


def _write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix.lower() in PARQUET:
        try:
            table.to_parquet(path)
        except ImportError:
            raise InputError("Parquet files need pyarrow. Run `pip install pyarrow`, or write CSV.") from None
    else:
        table.to_csv(path, sep=SEPARATORS[path.suffix.lower()], index=False, float_format="%.6g")
