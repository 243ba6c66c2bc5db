"""What the command takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from hnbayes._version import __version__
from hnbayes.cli.recipe import ACTIVATIONS, TASKS

EXAMPLES = """\
examples:
  hnbayes sample wine.csv --target quality --out out/wine
  hnbayes sample iris.csv --target species --task classification --hidden 20,20 --prior normal:1
  hnbayes sample wine.csv --target quality --checkpoint run; hnbayes sample --resume run
  hnbayes diagnose out/wine/posterior.nc
  hnbayes predict out/wine/posterior.nc new.csv -o predictions.csv
  hnbayes report out/wine/posterior.nc -o report.html

exit codes: 0 done; 1 a failure of the program; 2 input that can't be used; 3 `diagnose --strict` found a reason to
stop; 130 interrupted (by Ctrl-C), 143 ended (by SIGTERM)
"""
LIKELIHOODS = ("gaussian", "heteroscedastic", "student_t", "categorical", "poisson", "negative_binomial")
PRIORS = ("normal", "fan_in", "laplace", "student_t", "horseshoe", "hierarchical")


def parser() -> argparse.ArgumentParser:
    """The parser of the command and of its four parts."""
    result = argparse.ArgumentParser(
        prog="hnbayes",
        description="Bayesian neural networks for tables: sample, diagnose, predict, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"hnbayes {__version__}")
    commands = result.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _sample(commands)
    _diagnose(commands)
    _predict(commands)
    _report(commands)
    return result


def _command(commands: argparse._SubParsersAction, name: str, summary: str, examples: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    result: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = result.add_argument_group("output")
    output.add_argument("--quiet", action="store_true", help="print nothing but errors (and --json)")
    output.add_argument("--json", action="store_true", help="print the result as JSON")
    return result


def _sample(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    command = _command(
        commands,
        "sample",
        "sample the posterior of a network for a table, score it on held-out rows and save it",
        "  hnbayes sample wine.csv --target quality\n"
        "  hnbayes sample visits.tsv --target count --task counts --likelihood negative_binomial\n"
        "  hnbayes sample iris.csv --target species --hidden 20,20 --activation relu --chains 8 --out out/iris\n",
    )
    command.add_argument("table", type=Path, nargs="?", help="CSV, TSV or Parquet file: a header, numbers, no gaps")
    command.add_argument("--target", metavar="COLUMN", help="the column to predict")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (out, or that of --checkpoint or --resume)"
    )

    model = command.add_argument_group("model")
    model.add_argument("--task", choices=TASKS, help="regression unless the target is text")
    model.add_argument(
        "--hidden", type=_widths, default=(50,), metavar="N,N", help="units of each hidden layer, such as 50,50 (50)"
    )
    model.add_argument("--activation", choices=tuple(ACTIVATIONS), default="tanh", help="(tanh)")
    model.add_argument("--likelihood", choices=LIKELIHOODS, help="gaussian, categorical or poisson, by the task")
    model.add_argument(
        "--prior",
        type=_prior,
        default=("fan_in", 2.0),
        metavar="NAME[:SCALE]",
        help=f"of the weights: {', '.join(PRIORS)}, and their scale (fan_in:2)",
    )

    run = command.add_argument_group("sampler")
    run.add_argument("--kernel", choices=("nuts", "hmc", "metropolis", "chees"), default="nuts", help="(nuts)")
    run.add_argument("--chains", type=_count(1), default=4, metavar="N", help="run side by side (4)")
    run.add_argument("--warmup", type=_count(1), default=500, metavar="N", help="transitions a chain (500)")
    run.add_argument("--draws", type=_count(10), metavar="N", help="kept a chain (500, or those of the resumed run)")
    run.add_argument("--max-tree-depth", type=_count(1), default=8, metavar="N", help="of NUTS (8)")
    run.add_argument("--target-accept", type=_share, default=0.8, metavar="P", help="acceptance of NUTS and HMC (0.8)")
    run.add_argument("--seed", type=_count(0), default=0, metavar="N", help="of split, starts and chains (0)")
    run.add_argument(
        "--cores", type=_cores, metavar="N", help="processes that share the chains, or auto (one, all in one batch)"
    )
    run.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder in which the run can be resumed")
    run.add_argument(
        "--checkpoint-every", type=_seconds, default=60.0, metavar="S", help="seconds between checkpoints (60)"
    )
    run.add_argument(
        "--storage", choices=("zarr",), help="store the draws in DIR/posterior.zarr too, while the run goes on"
    )
    run.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder; no table is needed")
    run.add_argument("--test-share", type=_share, default=0.2, metavar="P", help="of rows held out for scores (0.2)")


def _diagnose(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    command = _command(
        commands,
        "diagnose",
        "say whether the draws in a file can be believed, and what to try",
        "  hnbayes diagnose out/posterior.nc\n  hnbayes diagnose out/posterior.nc --strict --quiet && deploy\n",
    )
    command.add_argument("posterior", type=Path, help="posterior.nc, or any netCDF file of ArviZ's")
    command.add_argument("--strict", action="store_true", help='end with code 3 if the verdict is "stop"')


def _predict(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    command = _command(
        commands,
        "predict",
        "predict the rows of a table, with uncertainty",
        "  hnbayes predict out/posterior.nc new.csv -o predictions.csv\n"
        "  hnbayes predict out/posterior.nc new.parquet --interval 0.95 -o predictions.tsv\n",
    )
    command.add_argument("posterior", type=Path, help="posterior.nc, as `hnbayes sample` saves it")
    command.add_argument("table", type=Path, help="CSV, TSV or Parquet file with the same input columns")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="CSV, TSV or Parquet file to write"
    )
    command.add_argument("--interval", type=_share, default=0.9, metavar="P", help="probability of the interval (0.9)")


def _report(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    command = _command(
        commands,
        "report",
        "write one self-contained HTML page: verdicts, scores, pictures",
        "  hnbayes report out/posterior.nc\n  hnbayes report out/posterior.nc -o wine.html\n",
    )
    command.add_argument("posterior", type=Path, help="posterior.nc, or any netCDF file of ArviZ's")
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="HTML file to write (report.html beside the posterior)"
    )


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise argparse.ArgumentTypeError(f"must be positive whole numbers such as 50 or 50,50; received {text!r}")
    return widths


def _prior(text: str) -> tuple[str, float]:
    name, _, scale = text.partition(":")
    try:
        value = float(scale or "1")
    except ValueError:
        value = -1.0
    if name not in PRIORS or not 0 < value < float("inf"):
        known = ", ".join(PRIORS)
        raise argparse.ArgumentTypeError(
            f"must be one of {known}, and a positive scale, as normal:1; received {text!r}"
        )
    return name, value


def _count(minimum: int) -> type[int]:
    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}; received {text!r}")
        return value

    return count  # type: ignore[return-value]


def _cores(text: str) -> int | str:
    if text == "auto":
        return text
    return _count(1)(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds; received {text!r}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1; received {text!r}")
    return value
