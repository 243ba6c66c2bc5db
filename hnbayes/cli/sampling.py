"""`hnbayes sample`: from a table to posterior.nc and scores.json."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.cli.arguments import parser
from hnbayes.cli.checkpoints import check_options, prepare, read_recipe
from hnbayes.cli.collecting import evidence_of
from hnbayes.cli.errors import InputError
from hnbayes.cli.main import Result
from hnbayes.cli.recipe import Recipe, make_recipe
from hnbayes.cli.runs import Run, save, split
from hnbayes.cli.tables import read_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from hnbayes.priors import Prior

# Of each chain, where --draws is not given.
DRAWS = 500
# What the scores mean, for the printed table and the page.
MEANINGS = {
    "rmse": "typical error, in the target's unit (less is better)",
    "lppd": "mean log predictive density of a row (more is better)",
    "crps": "error of the whole predictive distribution, in the target's unit (less is better)",
    "coverage": "share of rows in their 90% interval (0.9 is right)",
    "interval_width": "mean width of these intervals, in the target's unit",
    "accuracy": "share of rows whose likeliest class is right",
    "brier": "squared error of the class probabilities (less is better)",
    "ece": "expected calibration error of the likeliest class (0 is best)",
}


def run(args: argparse.Namespace) -> Result:
    """Sample, score, save.

    Raises:
        InputError: if the table or the options can't be used.
    """
    folder: Path | None = args.resume or args.checkpoint
    found, rows = _resumed(args) if args.resume else _sampled(args)
    metadata = found.posterior.draws.metadata
    if folder is not None and metadata.get("stopped_by"):
        return _stopped(folder, metadata["stopped_by"])
    if found.posterior.num_draws == 0:  # Ctrl-C during warm-up: nothing to save
        raise KeyboardInterrupt
    out: Path = args.out or folder or Path("out")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "posterior.nc"
    save(found, path)
    evidence = evidence_of(found, pictures=False)
    report = evidence.report()
    data = {"posterior": str(path), "scores": evidence.scores, "facts": evidence.facts, "diagnosis": report.to_dict()}
    (out / "scores.json").write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
    lines = [f"{rows} rows for training, {len(found.X)} held out", "", score_table(evidence.scores), "", str(report)]
    if metadata.get("interrupted"):
        lines.append(f"\ninterrupted: {found.posterior.num_draws} draws a chain are kept")
    lines += ["", f"saved {path} and {out / 'scores.json'}", f"next: hnbayes report {path}"]
    return Result("\n".join(lines), data)


def _sampled(args: argparse.Namespace) -> tuple[Run, int]:
    """A new run, and its number of training rows."""
    if args.table is None or args.target is None:
        raise InputError("a table and --target are needed, or --resume DIR.")
    if args.storage is not None and args.checkpoint is None:
        raise InputError("--storage needs --checkpoint DIR, the folder that the draws are stored in. Give it too.")
    table = read_table(args.table)
    if args.target not in table.columns:
        raise InputError(
            f"there is no column {args.target!r} in {args.table}; its columns are {', '.join(table.columns)}."
        )
    train, test = split(len(table), args.test_share, args.seed)
    recipe = make_recipe(
        table,
        train,
        target=args.target,
        task=args.task,
        hidden=args.hidden,
        activation=args.activation,
        likelihood=args.likelihood,
        prior=f"{args.prior[0]}:{args.prior[1]:g}",
        where=str(args.table),
    )
    X, y = recipe.inputs(table, str(args.table)), recipe.targets(table, str(args.table))
    if args.checkpoint is not None:
        prepare(args.checkpoint, recipe, X[test], y[test])
    return Run(recipe, _sample(args, recipe, X[train], y[train]), X[test], y[test]), len(train)


def _resumed(args: argparse.Namespace) -> tuple[Run, int]:
    """A run that goes on, and its number of training rows."""
    from hnbayes.posterior import Posterior, resume

    check_options(args, parser().parse_args(["sample", "--resume", str(args.resume)]))
    recipe, X, y = read_recipe(args.resume)
    options = {"draws": args.draws, "checkpoint_every": args.checkpoint_every, "progress": _shows_progress(args)}
    options["cores"] = args.cores
    with quietly():
        try:
            posterior = resume(args.resume, recipe.network(), **options)
        except ValueError as error:
            raise InputError(f"the run in {args.resume} can't be resumed: {error}") from None
    if not isinstance(posterior, Posterior):
        raise InputError(f"{args.resume} holds no run of a network.")
    return Run(recipe, posterior, X, y), len(posterior.X)


def _stopped(folder: Path, by: str) -> Result:
    again = f"hnbayes sample --resume {shlex.quote(str(folder))}"
    code = 128 + signal.Signals[by].value
    return Result(f"stopped by {by}; go on with: {again}", {"stopped_by": by, "resume": again}, code)


def score_table(scores: dict[str, float] | Any) -> str:
    """Scores as aligned text."""
    width = max(map(len, scores))
    return "\n".join(f"{name:<{width}}  {value:>9.4g}  {MEANINGS.get(name, '')}" for name, value in scores.items())


def prior_of(name: str, scale: float) -> Prior:
    """The prior that a name and a scale stand for."""
    from hnbayes import priors

    makers: dict[str, Callable[[], Prior]] = {
        "normal": lambda: priors.Normal(0.0, scale),
        "fan_in": lambda: priors.FanInNormal(scale),
        "laplace": lambda: priors.Laplace(0.0, scale),
        "student_t": lambda: priors.StudentT(3.0, 0.0, scale),
        "horseshoe": lambda: priors.Horseshoe(global_scale=scale),
        "hierarchical": lambda: priors.HierarchicalNormal(scale, fan_in=True),
    }
    return makers[name]()


def _sample(args: argparse.Namespace, recipe: Recipe, X: Any, y: Any) -> Any:
    import torch

    from hnbayes.posterior import sample

    own_target = args.kernel in ("metropolis", "chees")
    options: dict[str, Any] = {} if own_target else {"target_accept": args.target_accept}
    if args.kernel == "nuts":
        options["max_tree_depth"] = args.max_tree_depth
    if args.checkpoint is not None:
        options |= {"checkpoint": args.checkpoint, "checkpoint_every": args.checkpoint_every, "storage": args.storage}
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        try:
            return sample(
                recipe.network(),
                torch.as_tensor(np.ascontiguousarray(X)),
                torch.as_tensor(y),
                likelihood=recipe.likelihood,
                prior=prior_of(*args.prior),
                kernel=args.kernel,
                chains=args.chains,
                warmup=args.warmup,
                draws=args.draws or DRAWS,
                seed=args.seed,
                progress=_shows_progress(args),
                cores=args.cores,
                **options,
            )
        except ValueError as error:
            raise InputError(f"{args.table} can't be sampled with these options: {error}") from None


def _shows_progress(args: argparse.Namespace) -> bool:
    return not args.quiet and not args.json and sys.stderr.isatty()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the sampler's warnings, which the report repeats."""
    from hnbayes.sampling import SamplingWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        yield
