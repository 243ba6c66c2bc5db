"""BlackJAX's NUTS with window adaptation, chains by vmap in one compiled program."""

from __future__ import annotations

import time
from typing import Any

import blackjax
import jax
import numpy as np

from nuts.jax_compiling import CompilingTime
from nuts.outcome import Job, Outcome


def sample(job: Job) -> Outcome:
    """Adapt and sample all chains in lockstep."""
    compiling = CompilingTime()
    began = time.perf_counter()
    U = job.problem.jax_potential()

    def log_density(q: Any) -> Any:
        return -U(q)

    def one_chain(key: Any, start: Any) -> Any:
        warmup_key, key = jax.random.split(key)
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=job.target_accept)
        (state, parameters), warmup = adaptation.run(warmup_key, start, num_steps=job.warmup)
        step = blackjax.nuts(log_density, **parameters).step

        def draw(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        _, (positions, steps, diverging) = jax.lax.scan(draw, state, jax.random.split(key, job.draws))
        return positions, steps.sum(), diverging.sum(), warmup.info.num_integration_steps.sum()

    keys = jax.random.split(jax.random.PRNGKey(job.seed), job.chains)
    starts = jax.numpy.asarray(job.problem.starts(job.chains, job.seed))
    results = jax.jit(jax.vmap(one_chain))(keys, starts)
    positions, steps, diverging, warmup_steps = (np.asarray(result) for result in results)
    ended = time.perf_counter()
    return Outcome(
        positions=positions,
        wall=ended - began,
        preparing=compiling.seconds(began, ended),
        gradients=int(steps.sum() + warmup_steps.sum()),
        draw_gradients=float(steps.sum()),
        divergences=int(diverging.sum()),
        energies=np.array([float(U(probe)) for probe in jax.numpy.asarray(job.problem.probes())]),
        extra={"blackjax": blackjax.__version__, "jax": jax.__version__},
    )
