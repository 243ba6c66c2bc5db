"""hypnettorch's NUTS, which adapts nothing: step size as the problem says, mass matrix the identity."""

from __future__ import annotations

import time

import numpy as np
import torch
from hypnettorch.utils.hmc import NUTS

from nuts.outcome import Job, Outcome


def sample(job: Job) -> Outcome:
    """A chain after another; the transitions of warm-up are thrown away."""
    began = time.perf_counter()
    U = job.problem.torch_potential()
    calls = 0

    def potential(q: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return U(q)

    torch.manual_seed(job.seed)
    positions, draw_calls = [], 0
    for start in torch.from_numpy(job.problem.starts(job.chains, job.seed)):
        chain = NUTS(start.clone(), potential, stepsize=job.problem.step_size)
        chain.simulate_chain(job.warmup)
        before = calls
        chain.simulate_chain(job.draws)
        draw_calls += calls - before
        kept = chain.position_trajectory[-job.draws :]
        positions.append(np.stack([position.detach().numpy() for position in kept]))
    wall = time.perf_counter() - began
    probes = torch.from_numpy(job.problem.probes())
    return Outcome(
        positions=np.stack(positions),
        wall=wall,
        preparing=0.0,
        # Calls of U, which it evaluates without need of the gradient too.
        gradients=calls,
        draw_gradients=float(draw_calls),
        divergences=0,
        energies=np.array([float(U(probe)) for probe in probes]),
        extra={"torch": torch.__version__, "threads": torch.get_num_threads(), "step_size": job.problem.step_size},
    )
