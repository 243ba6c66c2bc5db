"""sample_potential: chains of any potential, from positions to draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from hnbayes._checks import check_choice, check_fraction, check_positive
from hnbayes.kernels.kernel import Kernel
from hnbayes.potentials.base import CompileMode, Potential, as_potential, check_positions
from hnbayes.rng import resolve_seed
from hnbayes.sampling.arguments import (
    block_structure,
    check_callbacks,
    check_interval,
    check_lengths,
    check_storage,
    initial_metric,
    make_kernel,
    numbers_of_chains,
    stack_positions,
    steps_assumed,
    storage_type,
)
from hnbayes.sampling.beginning import begin
from hnbayes.sampling.callbacks import Callback
from hnbayes.sampling.cores import Spreader, automatic, check_cores, spread, why_not
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.isolation import Isolated, without_bad_starts
from hnbayes.sampling.lots import Plan
from hnbayes.sampling.mirror import Mirror
from hnbayes.sampling.run_folder import RunFolder, folder_of
from hnbayes.sampling.settings import Settings, kernel_to_record


def sample_potential(
    potential: Potential | Callable[[Tensor], Tensor],
    initial_positions: Tensor | Sequence[Tensor],
    *,
    kernel: str | Kernel = "nuts",
    warmup: int = 1000,
    draws: int = 1000,
    step_size: float | None = None,
    num_steps: int | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    metric: str | Tensor | Sequence[Sequence[str]] = "diag",
    thin: int = 1,
    seed: int | None = None,
    progress: bool = True,
    compile: CompileMode = "auto",
    save_warmup: bool = False,
    callbacks: Sequence[Callback] = (),
    adapt_step_size: bool = True,
    adaptation: Literal["per-chain", "pooled"] = "per-chain",
    chain_ids: Sequence[int] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    storage_dtype: torch.dtype | None = None,
    storage: Literal["zarr"] | None = None,
    on_error: Literal["raise", "drop"] = "raise",
    cores: int | Literal["auto"] | Spreader | None = None,
) -> Draws:
    """Sample exp(-U) with several chains at once.

    Chain c is a function of (seed, c), its initial position and the options alone, not of the chains beside it
    (but for `adaptation="pooled"` and `kernel="chees"`, whose chains learn together). Ctrl-C returns the draws so far.
    A position for which U is NaN or infinite, or raises a numerical error, is never accepted and counts as a divergence
    of its chain alone.

    Args:
        potential: U, a `Potential` or a function from a position (D,) to a scalar tensor.
        initial_positions: (C, D), or C tensors (D,); float32 or float64, on the device to sample on.
        kernel: "nuts", "hmc", "metropolis", "mclmc" (biased, see `MCLMC`), "mamclmc", "chees" (for many
            chains, see `ChEES`), or a kernel of `hnbayes.kernels`.
        warmup: transitions of warm-up a chain, in which step size and metric adapt (Stan's three phases).
        draws: transitions a chain after warm-up.
        step_size: where the step size starts; None searches. For Metropolis, the proposal's scale.
        num_steps: leapfrog steps of "hmc"; None takes an integration time of pi / 2.
        target_accept: mean acceptance that the step size is adapted to (Metropolis aims at 0.234;
            for another give `RandomWalkMetropolis(target_accept=...)`).
        max_tree_depth: the most doublings of a "nuts" trajectory.
        metric: "diag" or "dense" adapt the inverse mass matrix; "unit" is the identity; a tensor, () or (D,) or (D, D),
            is an inverse mass matrix that is kept; a list of tuples of parameter names adapts a dense block for each
            tuple and a diagonal for the rest (the potential must have a `spec`).
        thin: keep one in so many draws: `draws // thin` are kept.
        seed: a non-negative integer; None draws one from torch's global generator.
        progress: show a progress bar.
        compile: see `Potential`; applies to a plain function (a `Potential` has its own).
        save_warmup: keep the draws of warm-up too.
        callbacks: functions of a `hnbayes.sampling.callbacks.Event`.
        adapt_step_size: False keeps `step_size` as it is.
        adaptation: "per-chain", or "pooled" to estimate each metric from the draws of all chains.
        chain_ids: numbers of the chains' random streams, C different ones; None is 0, 1, ..., C - 1.
        checkpoint: a folder for the run, where `hnbayes.resume` goes on with it bit for bit should it be stopped. Draws
            go to files there, one by one, and what is returned is mapped from these files, so that memory doesn't grow
            with their number; `hnbayes.read_draws` reads them at any time. SIGTERM then ends a run as Ctrl-C does.
        checkpoint_every: seconds between checkpoints; 0 writes one after every evaluation.
        on_error: what an error of the potential, other than a numerical one, does: "raise" ends the run with it; "drop"
            ends the chain that it comes from, with a warning of its last state, and leaves it out of what is returned;
            so are chains that can't begin where they are to. The other chains have the draws they would have had.
        storage_dtype: torch.float32 or torch.float64, of draws in files; None keeps that of the positions.
        storage: "zarr" writes the draws to `posterior.zarr` in the folder too, chunk by chunk at every checkpoint, for
            xarray and ArviZ to read at any time; needs `checkpoint`. See docs/resume.md.
        cores: None samples all chains in one batch, in this process. A number spreads them over at most so many worker
            processes, whose start takes seconds; draws are the same, bit for bit, whatever the number, and differ from
            those of None by rounding. "auto" spreads where an estimate says that it pays. A
            `hnbayes.distributed.Ranks` spreads over machines. See docs/workers.md.

    Returns:
        The draws, their statistics, and the adapted step sizes and metrics.

    Raises:
        TypeError, ValueError: if an argument is none of the above, U is not a differentiable scalar, U or its
            gradient is not finite at an initial position, or a run is in the folder already.
        OSError: if the folder can't be written to, as when the disk is full; what was written stays readable.
        Exception: what the potential (other than numerical errors) or a callback raises; the draws so far are its
            attribute `draws`.

    Example:
        >>> target = torch.distributions.Normal(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.1]))
        >>> draws = hnbayes.sample_potential(
        ...     lambda q: -target.log_prob(q).sum(), torch.zeros(4, 2), warmup=100, draws=20, seed=0, progress=False
        ... )
        >>> draws.positions.shape  # (chains, draws, numbers)
        torch.Size([4, 20, 2])
        >>> bool((draws.positions.mean((0, 1)) - target.mean).abs().max() < 0.5)
        True
    """
    positions = stack_positions(initial_positions)
    warmup, draws, thin = check_lengths(warmup, draws, thin)
    target_accept = check_fraction("target_accept", target_accept)
    check_choice("adaptation", adaptation, ("per-chain", "pooled"))
    if step_size is not None:
        step_size = check_positive("step_size", step_size)
    elif not adapt_step_size:
        raise ValueError("adapt_step_size=False needs a step_size; received None.")
    check_callbacks(callbacks)
    cores = check_cores(cores)
    check_storage(storage, checkpoint)
    U = as_potential(potential, compile=compile)
    check_positions(positions, U.spec, U.dtype)
    check_choice("on_error", on_error, ("raise", "drop"))
    transition = make_kernel(kernel, num_steps, max_tree_depth)
    structure = block_structure(metric, U.spec) if isinstance(metric, (list, tuple)) else None
    ids = list(numbers_of_chains(chain_ids, len(positions)))
    never_begun: tuple[int, ...] = ()
    shared = U  # what workers are sent
    reason = why_not(transition, positions, adaptation == "pooled")
    if reason is not None and cores not in (None, "auto"):
        raise ValueError(f"cores needs {reason}. Leave cores out.")
    if on_error == "drop":
        U = Isolated(U)
        positions, ids, never_begun = without_bad_starts(U, positions, ids, transition.uses_gradient)
    metric_at_start, adapted = initial_metric(metric, positions)
    settings = Settings(
        warmup=warmup,
        draws=draws,
        thin=thin,
        target_accept=transition.target_accept or target_accept,
        adapt_step_size=adapt_step_size,
        metric=adapted,
        pooled=adaptation == "pooled",
        save_warmup=save_warmup,
        seed=resolve_seed(seed),
        chain_ids=tuple(ids),
        storage_dtype=storage_type(storage_dtype, positions),
        steps_assumed=steps_assumed(transition),
        on_error=on_error,
        never_begun=never_begun,
        storage=storage,
    )
    if checkpoint is not None and storage is not None:
        Mirror(folder_of(checkpoint), settings, transition, U.spec, *positions.shape)  # refuses names before all else
    if cores == "auto":
        evaluations = settings.evaluations
        cores = automatic(shared, positions, evaluations, transition.uses_gradient) if reason is None else None
    if cores is not None:
        every = check_interval(checkpoint_every)
        start = metric_at_start.host_inverse()
        count = cores if isinstance(cores, int) else 0
        plan = Plan(positions, start, structure, step_size, settings, transition, shared.compile, shared.spec, count)
        return spread(plan, shared, cores, checkpoint, every, callbacks, progress)
    if checkpoint is None:
        return begin(U, transition, positions, settings, step_size, metric_at_start, structure).go(callbacks, progress)
    every = check_interval(checkpoint_every)
    kernel_to_record(transition)
    with RunFolder(checkpoint, "create") as folder:
        run = begin(U, transition, positions, settings, step_size, metric_at_start, structure, folder)
        return run.go(callbacks, progress, every)
