"""A kernel's settings as arguments of the engine, and as those of a run in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hnbayes.pyro.chain import Settings
from hnbayes.sampling.run_folder import read_start
from hnbayes.sampling.settings import kernel_to_record


def engine_options(settings: Settings) -> dict[str, Any]:
    """A kernel's settings as arguments of `sample_potential`."""
    if settings.adapter is not None:
        raise ValueError(
            "a mass_matrix_adapter serves one chain; received one for VectorizedMCMC. Use full_mass instead."
        )
    full = settings.full_mass
    metric: Any = ("dense" if full else "diag") if isinstance(full, bool) else list(full)
    searches = settings.adapt_step_size and settings.transition.uses_gradient
    return {
        "kernel": settings.transition,
        "step_size": None if searches else settings.step_size,
        "adapt_step_size": settings.adapt_step_size,
        "target_accept": settings.target_accept,
        "metric": metric if settings.adapt_mass_matrix else "unit",
    }


def check_options(folder: Path, options: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise ValueError if the run in a folder was begun with other options.

    Args:
        folder: of the run.
        options: of `engine_options`.
        own: as `VectorizedMCMC` was given them: num_chains, warmup_steps, seed (None is that of the run), adaptation
            and save_warmup.
    """
    _, record = read_start(folder)
    stored = record["settings"]
    metric = options["metric"]
    given = {
        "kernel": json.loads(json.dumps(kernel_to_record(options["kernel"]))),
        "target_accept_prob": options["kernel"].target_accept or options["target_accept"],
        "adapt_step_size": options["adapt_step_size"],
        "full_mass": None if metric == "unit" else "diag" if metric == "diag" else "dense",
        **own,
    }
    begun = {
        "kernel": record["kernel"],
        "num_chains": len(stored["chain_ids"]),
        "warmup_steps": stored["warmup"],
        "seed": stored["seed"],
        "target_accept_prob": stored["target_accept"],
        "adapt_step_size": stored["adapt_step_size"],
        "full_mass": stored["metric"],
        "adaptation": "pooled" if stored["pooled"] else "per-chain",
        "save_warmup": stored["save_warmup"],
    }
    for name, value in given.items():
        if value != begun[name] and not (name == "seed" and value is None):
            raise ValueError(
                f"{name} must be that of the run in {folder}, {begun[name]}; received {value}. Give the same kernel "
                "and options, or begin a new run in another folder."
            )


def device_of_run(folder: Path) -> torch.device:
    """Where the chains of the run in a folder are."""
    return torch.device(read_start(folder)[1]["environment"]["device"])
