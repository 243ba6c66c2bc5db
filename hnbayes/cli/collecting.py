"""From a run on disk to evidence: functions, densities, predictions, in the table's own units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.cli.errors import InputError
from hnbayes.cli.evidence import Evidence, HeldOut, Slice
from hnbayes.cli.recipe import CLASSIFICATION, COUNTS, REGRESSION, Recipe
from hnbayes.cli.runs import Run, load, read_groups, read_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hnbayes.diagnostics import Report

    Array = NDArray[Any]

PROBES = 64
POINTS = 60
PRIOR_CURVES = 60
# How far beyond the training rows the slice goes, as a share of their range.
BEYOND = 0.15
# Scores in the target's unit.
SCALED = ("rmse", "crps", "interval_width")


def diagnosis(path: Path, evidence: Evidence | None) -> Report:
    """The checks on a file's draws: all that its network allows, or all that its groups do.

    Raises:
        InputError: if there is nothing to look at.
    """
    from hnbayes.diagnostics import diagnose
    from hnbayes.inference_data import container

    try:
        return evidence.report() if evidence is not None else diagnose(container(dict(read_groups(path))))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} can't be diagnosed: {error}") from None


def collect(path: Path) -> Evidence | None:
    """All that a file's draws say, or None where it doesn't describe its network.

    Raises:
        InputError: if it is no posterior.
    """
    return None if read_recipe(path) is None else evidence_of(load(path))


def evidence_of(run: Run, *, pictures: bool = True) -> Evidence:
    """All that a run's draws say.

    Args:
        run: the run.
        pictures: whether what only pictures need is computed too.
    """
    import torch

    from hnbayes.diagnostics import dead_units

    recipe, posterior = run.recipe, run.posterior
    rows = np.unique(np.linspace(0, len(run.X) - 1, min(PROBES, len(run.X))).round().astype(int))
    stats = {name: np.asarray(values) for name, values in posterior.draws.stats.items()}
    return Evidence(
        stats=stats,
        functions=functions(run, run.X[rows]),
        log_likelihood=posterior.log_likelihood() - _log_scale(recipe),
        log_prior=posterior.log_prior(),
        dead_units=dead_units(posterior.net, posterior.weights(), torch.as_tensor(posterior.X)),
        held_out=held_out(run) if pictures else None,
        slice=_slice(run) if pictures and recipe.task != CLASSIFICATION else None,
        scores=scores(run, run.X, run.y),
        facts=facts(run),
        target=recipe.target,
    )


def functions(run: Run, X: Array) -> Array:
    """What is identified of the network's outputs, without noise: (C, S, N), or class probabilities (C, S, N, K)."""
    import torch

    outputs = run.posterior.outputs(torch.as_tensor(X))
    if run.recipe.task == CLASSIFICATION:
        # Logits are known up to a constant only.
        return outputs.double().softmax(-1).cpu().numpy()
    first = outputs[..., 0].double()
    if run.recipe.task == COUNTS:
        first = first.exp()
    return first.cpu().numpy() * run.recipe.target_scale + run.recipe.target_centre


def observations(run: Run, X: Array, seed: int = 0) -> Array:
    """Draws of new observations (C, S, N), for numbers."""
    import torch

    drawn = run.posterior.sample_data(torch.as_tensor(X), seed=seed)[..., 0].double().cpu().numpy()
    return drawn * run.recipe.target_scale + run.recipe.target_centre


def held_out(run: Run) -> HeldOut:
    """What is predicted of the held-out rows."""
    densities = run.posterior.log_likelihood(run.X, _targets(run, run.y)) - _log_scale(run.recipe)
    if run.recipe.task == CLASSIFICATION:
        return HeldOut(run.y, densities, probabilities=functions(run, run.X).mean((0, 1)))
    y = run.y[:, 0] * run.recipe.target_scale + run.recipe.target_centre
    return HeldOut(y, densities, predictive=observations(run, run.X))


def scores(run: Run, X: Array, y: Array) -> dict[str, float]:
    """`Posterior.score`, in the target's own unit."""
    import torch

    found = run.posterior.score(torch.as_tensor(X), _targets(run, y))
    result = {name: value * (run.recipe.target_scale if name in SCALED else 1.0) for name, value in found.items()}
    return result | {"lppd": found["lppd"] - _log_scale(run.recipe)}


def facts(run: Run) -> dict[str, str]:
    """What was run, in words."""
    recipe, posterior = run.recipe, run.posterior
    widths = "-".join(str(n) for n in (len(recipe.columns), *recipe.hidden, recipe.outputs))
    metadata = posterior.draws.metadata
    return {
        "target": f"{recipe.target} ({recipe.task})",
        "inputs": ", ".join(recipe.columns),
        "network": f"{widths}, {recipe.activation}",
        "prior": recipe.prior,
        "likelihood": recipe.likelihood,
        "rows": f"{len(posterior.X)} for training, {len(run.X)} held out",
        "draws": f"{posterior.chains} chains of {posterior.num_draws}, after {metadata.get('warmup', '?')} of warm-up",
        "kernel": str(metadata.get("kernel", "?")),
        "seed": str(metadata.get("seed", "?")),
    }


def _targets(run: Run, y: Array) -> Any:
    import torch

    return torch.as_tensor(y)


def _log_scale(recipe: Recipe) -> float:
    """What turns a density of the scaled target into one of the target."""
    return float(np.log(recipe.target_scale)) if recipe.task == REGRESSION else 0.0


def _slice(run: Run) -> Slice:
    """Along the first input, the others at their mean."""
    import torch

    recipe = run.recipe
    inputs = np.asarray(run.posterior.X)
    low, high = inputs[:, 0].min(), inputs[:, 0].max()
    room = BEYOND * (high - low)
    X = np.zeros((POINTS, inputs.shape[1]), inputs.dtype)
    X[:, 0] = np.linspace(low - room, high + room, POINTS)
    prior: Array | None = None
    try:
        drawn = run.posterior.model.prior.sample_functions(run.posterior.net, torch.as_tensor(X), PRIOR_CURVES, seed=0)
        first = drawn[..., 0].double()
        first = first.exp() if recipe.task == COUNTS else first
        prior = first.cpu().numpy()[None] * recipe.target_scale + recipe.target_centre
    except (ValueError, NotImplementedError):  # a prior that can't be drawn from
        pass
    observed = None
    if inputs.shape[1] == 1:
        y = np.asarray(run.posterior.y)[:, 0] * recipe.target_scale + recipe.target_centre
        observed = (inputs[:, 0] * recipe.scale[0] + recipe.centre[0], y)
    return Slice(
        x=X[:, 0] * recipe.scale[0] + recipe.centre[0],
        functions=functions(run, X),
        predictive=observations(run, X),
        column=recipe.columns[0],
        prior=prior if prior is not None and np.isfinite(prior).all() else None,
        observed=observed,
    )
