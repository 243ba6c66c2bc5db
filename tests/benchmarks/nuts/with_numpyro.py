"""NumPyro's NUTS, its chains vectorised or one a host device."""

from __future__ import annotations

import os
import time
from typing import Any

from nuts.outcome import Job, Outcome


def sample(job: Job) -> Outcome:
    """All chains in one vectorised program."""
    return _sample(job, "vectorized")


def sample_parallel(job: Job) -> Outcome:
    """One host device for each chain."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={job.chains}"
    return _sample(job, "parallel")


def _sample(job: Job, chain_method: str) -> Outcome:
    import jax
    import numpy as np
    import numpyro
    from numpyro.infer import MCMC, NUTS

    from nuts.jax_compiling import CompilingTime

    class CountingNUTS(NUTS):
        """Its `num_steps` are those of all transitions so far, so that warm-up's are known too."""

        def sample(self, state: Any, model_args: Any, model_kwargs: Any) -> Any:
            new = super().sample(state, model_args, model_kwargs)
            return new._replace(num_steps=state.num_steps + new.num_steps)

    compiling = CompilingTime()
    began = time.perf_counter()
    U = job.problem.jax_potential()
    mcmc = MCMC(
        CountingNUTS(potential_fn=U, target_accept_prob=job.target_accept),
        num_warmup=job.warmup,
        num_samples=job.draws,
        num_chains=job.chains,
        chain_method=chain_method,
        progress_bar=False,
    )
    starts = jax.numpy.asarray(job.problem.starts(job.chains, job.seed))
    fields = ("num_steps", "diverging")
    mcmc.run(jax.random.PRNGKey(job.seed), extra_fields=fields, init_params=starts)
    positions = np.asarray(mcmc.get_samples(group_by_chain=True))
    ended = time.perf_counter()
    found = {name: np.asarray(values) for name, values in mcmc.get_extra_fields(group_by_chain=True).items()}
    steps = found["num_steps"]
    return Outcome(
        positions=positions,
        wall=ended - began,
        preparing=compiling.seconds(began, ended),
        gradients=int(steps[:, -1].sum()),
        # The count before the first draw isn't kept, so the first draw is taken to be like the others.
        draw_gradients=float((steps[:, -1] - steps[:, 0]).sum()) * job.draws / (job.draws - 1),
        divergences=int(found["diverging"].sum()),
        energies=np.array([float(U(probe)) for probe in jax.numpy.asarray(job.problem.probes())]),
        extra={"numpyro": numpyro.__version__, "jax": jax.__version__, "devices": jax.device_count()},
    )
