"""Pyro's NUTS on the same potential, chains one after another in one process."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS

from nuts.outcome import Job, Outcome


def sample(job: Job) -> Outcome:
    """A chain at a time, as Pyro does where chains are more than cores."""
    began = time.perf_counter()
    U = job.problem.torch_potential()
    calls = {"all": 0, "warmup": 0}

    def potential(sites: dict[str, torch.Tensor]) -> torch.Tensor:
        calls["all"] += 1
        return U(sites["q"])

    def count(kernel: Any, sites: Any, stage: str, i: int) -> None:
        before = calls["all"] - calls["counted"]
        calls["counted"] = calls["all"]
        if stage.lower().startswith("warmup"):
            calls["warmup"] += before

    pyro.set_rng_seed(job.seed)
    starts = torch.from_numpy(job.problem.starts(job.chains, job.seed))
    positions, divergences = [], 0
    for start in starts:
        calls["counted"] = calls["all"]
        kernel = NUTS(potential_fn=potential, target_accept_prob=job.target_accept)
        mcmc = MCMC(
            kernel,
            num_samples=job.draws,
            warmup_steps=job.warmup,
            initial_params={"q": start.clone()},
            hook_fn=count,
            disable_progbar=True,
        )
        mcmc.run()
        positions.append(mcmc.get_samples()["q"].numpy())
        divergences += sum(len(rows) for rows in mcmc.diagnostics().get("divergences", {}).values())
    wall = time.perf_counter() - began
    probes = torch.from_numpy(job.problem.probes())
    return Outcome(
        positions=np.stack(positions),
        wall=wall,
        preparing=0.0,
        gradients=calls["all"],
        draw_gradients=float(calls["all"] - calls["warmup"]),
        divergences=divergences,
        energies=np.array([float(U(probe)) for probe in probes]),
        extra={"pyro": pyro.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()},
    )
