"""sample_minibatch: from a network and data, minibatch by minibatch, to its posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from hnbayes._checks import check_count, check_positive
from hnbayes.minibatch.batches import from_arrays, from_loader, gathered
from hnbayes.minibatch.kernels import PSGLD, MinibatchKernel, as_kernel
from hnbayes.minibatch.run import Plan, Run
from hnbayes.minibatch.schedules import Schedule, as_schedule
from hnbayes.posterior import Model, Posterior
from hnbayes.posterior.ensemble import EnsembleTraining, train
from hnbayes.posterior.starts import starts
from hnbayes.rng import resolve_seed
from hnbayes.sampling.arguments import check_callbacks, check_lengths
from hnbayes.sampling.callbacks import Callback, ProgressBar

# Distinguishes these streams from those of `hnbayes.sample`, (seed, chain), and of starts.
MINIBATCH_KEY = 3


def sample_minibatch(
    net: nn.Module,
    X: Any,
    y: Any = None,
    *,
    likelihood: Any = "gaussian",
    prior: Any = 1.0,
    kernel: str | MinibatchKernel = "sghmc",
    step_size: float,
    batch_size: int = 32,
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    thin: int = 1,
    temperature: float = 1.0,
    schedule: str | Schedule | Callable[[int], float] = "constant",
    init: Any = "ensemble",
    map_steps: int = 1000,
    seed: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Posterior:
    r"""Sample the posterior of a network's weights by stochastic gradients, all chains in one batch.

    **The draws are biased.** Nothing is accepted or rejected, so each step leaves an error, of its discretisation and
    of the minibatch's noise, that no number of draws removes; it shrinks in proportion to `step_size`, as the way that
    a step goes does. R-hat and effective sample sizes say nothing about it. Compare two step sizes; and where all data
    can be looked at, use `hnbayes.sample`.

    Args:
        net: as for `hnbayes.sample`.
        X: inputs (N, ...); or a `torch.utils.data.DataLoader` of pairs of inputs and data, which should shuffle. All
            chains then see the same batches, which its own generator draws, and all data are held in memory once, for
            the posterior's scores.
        y: data, as for `hnbayes.sample`; None with a loader.
        likelihood: likewise.
        prior: likewise; the log prior counts in full at every step.
        kernel: "sgld", "psgld" (preconditioned), "sghmc", or an object of `hnbayes.minibatch` with other options.
        step_size: \(\epsilon\) of the kernel's equation (`SGLD`, `PSGLD`, `SGHMC`). U is a sum over all N data, so what
            is stable is of the order of 1 / N: for SGLD below 4 / (largest curvature of U).
        batch_size: n, of arrays; N looks at all data at every step. A loader has its own.
        chains: C.
        warmup: steps a chain that are not kept.
        draws: steps a chain after that.
        thin: keep one in so many.
        temperature: \(\tau\): what is sampled is \(\exp(-U / \tau)\). Below 1 is a "cold" posterior, not Bayes'.
        schedule: "constant"; "cyclical", or a `Cyclical` that says how, with large steps without noise in turn with
            small ones from which draws are kept; or a function from the number of a step to what `step_size` is
            multiplied by.
        init: where chains start, see `hnbayes.sample`; "ensemble" trains on minibatches.
        map_steps: likewise.
        seed: a non-negative integer; None draws one from torch's global generator. From arrays, chain c is a function
            of (seed, c), up to rounding.
        progress: show a progress bar.
        callbacks: functions of a `hnbayes.sampling.callbacks.Event`, called after every step. Ctrl-C, and one that
            raises `StopSampling`, end the run; the draws so far are returned.

    Returns:
        The posterior. Its draws' statistics are `lp` (the log joint density, estimated from the minibatch, where the
        step began), `step_size` and `diverging` (always False). There are no checkpoints.

    Raises:
        TypeError, ValueError: if an argument is none of the above, or a chain leaves the numbers, as steps too large
            make it; the draws so far are the error's attribute `posterior`.

    Example:
        >>> X = torch.linspace(-1, 1, 200)[:, None]
        >>> post = hnbayes.sample_minibatch(
        ...     torch.nn.Linear(1, 1), X, 2 * X, likelihood=hnbayes.likelihoods.Gaussian(0.5), kernel="sgld",
        ...     step_size=1e-4, chains=2, warmup=20, draws=20, init="module", seed=0, progress=False
        ... )
        >>> post.predict(X)["mean"].shape
        (200,)
    """
    mover, sizes = as_kernel(kernel), as_schedule(schedule)
    step_size, batch_size = check_positive("step_size", step_size), check_count("batch_size", batch_size)
    chains, map_steps = check_count("chains", chains), check_count("map_steps", map_steps, 0)
    warmup, draws, thin = check_lengths(warmup, draws, thin)
    temperature = check_positive("temperature", temperature)
    check_callbacks(callbacks)
    seed = resolve_seed(seed)
    loader = X if isinstance(X, DataLoader) else None
    if (loader is None) == (y is None):
        raise ValueError("y is needed with arrays X, and must be left out with a loader, which gives both.")
    if loader is not None:
        X, y = gathered(loader)
    model = Model(net, likelihood, prior, X)
    inputs, data = model.data(X, y)
    streams = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(c, MINIBATCH_KEY))) for c in range(chains)]
    if isinstance(init, EnsembleTraining) or (isinstance(init, str) and init == "ensemble"):
        training = init if isinstance(init, EnsembleTraining) else None
        q = train(model, inputs, data, range(chains), seed, training).positions
    else:
        q = starts(model, model.potential(inputs, data), init, range(chains), seed, map_steps)
    size = min(batch_size, len(inputs))
    batches = from_arrays(inputs, data, size, streams) if loader is None else from_loader(loader, model, chains)
    if isinstance(mover, PSGLD) and mover.frozen and not warmup:
        raise ValueError("PSGLD needs warm-up, in which its preconditioner is found; received warmup=0.")
    plan = Plan.of(sizes, step_size, temperature, warmup, draws, thin)
    metadata = {
        "kernel": type(mover).__name__,
        "seed": seed,
        "chains": chains,
        "warmup": warmup,
        "draws": draws,
        "thin": thin,
        "batch_size": size if loader is None else int(loader.batch_size or 0),
        "step_size": step_size,
        "temperature": temperature,
        "schedule": type(sizes).__name__,
    }
    run = Run(model, inputs, data, mover, plan, q.clone(), batches, streams, metadata)
    bar = ProgressBar(chains * len(plan.sizes)) if progress else None
    try:
        return run.go((*callbacks, bar) if bar else callbacks)
    finally:
        if bar:
            bar.close()
