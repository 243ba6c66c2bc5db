"""sample_potential: chains of any potential, from positions to draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import check_choice, check_count, check_fraction, check_positive, describe
from hnbayes._version import __version__
from hnbayes.kernels.adaptation import Adaptation, find_step_size
from hnbayes.kernels.arrays import Host, vectors_like
from hnbayes.kernels.hmc import HMC, QUARTER_PERIOD
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.kernels.metrics import Metric, as_metric, identity_metric
from hnbayes.kernels.metropolis import RandomWalkMetropolis
from hnbayes.kernels.nuts import NUTS
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode, Potential, as_potential, check_positions
from hnbayes.rng import chain_streams, resolve_seed
from hnbayes.sampling.callbacks import Callback, ProgressBar
from hnbayes.sampling.draws import Draws, Recorder
from hnbayes.sampling.loop import run
from hnbayes.sampling.verdict import warn_about, warn_if_coarse

KERNELS = ("nuts", "hmc", "metropolis")
METRICS = ("diag", "dense", "unit")
# Leapfrog steps that a NUTS transition of a network posterior is taken to need, for the decision on compiling.
ASSUMED_STEPS = 64


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
) -> Draws:
    """Sample exp(-U) with several chains at once.

    Chain c is a function of (seed, c), its initial position and the options alone, not of the chains beside it
    (but for `adaptation="pooled"`). Ctrl-C returns the draws so far. A position for which U is NaN or infinite, or
    raises a numerical error, is never accepted and counts as a divergence of its chain alone.

    Args:
        potential: U, a `Potential` or a function from a position (D,) to a scalar tensor.
        initial_positions: (C, D), or C tensors (D,); float32 or float64, on the device to sample on.
        kernel: "nuts", "hmc", "metropolis", or a kernel of `hnbayes.kernels`.
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

    Returns:
        The draws, their statistics, and the adapted step sizes and metrics.

    Raises:
        TypeError, ValueError: if an argument is none of the above, U is not a differentiable scalar, or U or its
            gradient is not finite at an initial position.
        Exception: what the potential (other than numerical errors) or a callback raises; the draws so far are its
            attribute `draws`.
    """
    positions = stack_positions(initial_positions)
    warmup, draws, thin = _check_lengths(warmup, draws, thin)
    target_accept = check_fraction("target_accept", target_accept)
    check_choice("adaptation", adaptation, ("per-chain", "pooled"))
    if step_size is not None:
        step_size = check_positive("step_size", step_size)
    elif not adapt_step_size:
        raise ValueError("adapt_step_size=False needs a step_size; received None.")
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a list of functions of an Event; received {describe(callbacks)}.")
    U = as_potential(potential, compile=compile)
    check_positions(positions, U.spec, U.dtype)
    transition = make_kernel(kernel, num_steps, max_tree_depth)
    initial_metric, adapted = _initial_metric(metric, positions)
    structure = block_structure(metric, U.spec) if isinstance(metric, (list, tuple)) else None
    seed = resolve_seed(seed)
    streams = chain_streams(seed, _chain_ids(chain_ids, len(positions)))

    began = time.monotonic()
    mode = "value only"
    if transition.uses_gradient:
        mode = U.prepare(positions, (warmup + draws) * _steps_assumed(transition))
    state = transition.init(U, positions, streams, step_size or 1.0, initial_metric)
    if step_size is None:
        state.step_size[:] = find_step_size(transition, state)
    warned = warn_if_coarse(state.energy, positions.dtype)

    chains, dimension = positions.shape
    recorder = Recorder(chains, draws // thin, dimension, positions.dtype, transition.stats)
    warmup_recorder = Recorder(chains, warmup, dimension, positions.dtype, transition.stats) if save_warmup else None
    target = transition.target_accept or target_accept
    adapting = Adaptation(state, warmup, target, adapt_step_size, adapted, adaptation == "pooled", structure)
    bar = ProgressBar(chains * (warmup + draws)) if progress else None
    metadata: dict[str, Any] = {
        "kernel": type(transition).__name__,
        "seed": seed,
        "chains": chains,
        "warmup": warmup,
        "draws": draws,
        "thin": thin,
        "target_accept": target,
        "evaluation": mode,
        "version": __version__,
    }
    try:
        state, interrupted = run(
            transition,
            state,
            warmup=warmup,
            draws=draws,
            thin=thin,
            sink=recorder,
            warmup_sink=warmup_recorder,
            adaptation=adapting if warmup else None,
            callbacks=(*callbacks, bar) if bar else callbacks,
        )
    except Exception as error:
        # Whatever stops a run, what it has sampled goes with the error: `error.draws`.
        error.draws = _collect(recorder, warmup_recorder, state, U, metadata)  # type: ignore[attr-defined]
        raise
    finally:
        if bar:
            bar.close()
    metadata |= {"sampling_time": time.monotonic() - began, "interrupted": int(interrupted)}
    result = _collect(recorder, warmup_recorder, state, U, metadata)
    if not warned:
        warn_if_coarse(result.stats["lp"].numpy(), positions.dtype)
    warn_about(result)
    return result


def _check_lengths(warmup: int, draws: int, thin: int) -> tuple[int, int, int]:
    warmup, draws, thin = check_count("warmup", warmup, 0), check_count("draws", draws), check_count("thin", thin)
    if thin > draws:
        raise ValueError(f"thin must be at most draws, so that a draw is kept; received {thin} and {draws}.")
    return warmup, draws, thin


def stack_positions(initial_positions: Tensor | Sequence[Tensor]) -> Tensor:
    """Initial positions as one tensor (C, D).

    Raises:
        TypeError: if they are not tensors.
        ValueError: if there are none or their shapes, dtypes or devices differ.
    """
    if isinstance(initial_positions, Tensor):
        return initial_positions
    if not isinstance(initial_positions, (list, tuple)):
        raise TypeError(
            "initial_positions must be a tensor (C, D) or a list of tensors (D,); "
            f"received {describe(initial_positions)}."
        )
    if not initial_positions:
        raise ValueError("initial_positions must hold at least one chain; received none.")
    for position in initial_positions:
        if not isinstance(position, Tensor):
            raise TypeError(f"each initial position must be a tensor (D,); received {describe(position)}.")
    kinds = {(tuple(p.shape), p.dtype, p.device) for p in initial_positions}
    if len(kinds) > 1 or initial_positions[0].ndim != 1:
        raise ValueError(
            "initial positions must be vectors (D,) of one size, dtype and device; received "
            + ", ".join(sorted({describe(p) for p in initial_positions}))
            + "."
        )
    return torch.stack(tuple(initial_positions))


def make_kernel(kernel: str | Kernel, num_steps: int | None, max_tree_depth: int) -> Kernel:
    """A kernel from its name and options.

    Raises:
        TypeError: if it is neither a name nor a kernel.
        ValueError: if the name is unknown, or `num_steps` is given for another kernel than "hmc".
    """
    if isinstance(kernel, type) and issubclass(kernel, Kernel):
        raise TypeError(f"kernel must be a name or a kernel object; received the class. Use {kernel.__name__}().")
    if not isinstance(kernel, (str, Kernel)):
        raise TypeError(f"kernel must be one of {KERNELS} or a kernel object; received {describe(kernel)}.")
    if num_steps is not None and kernel != "hmc":
        raise ValueError(f"num_steps applies to kernel='hmc' only; received it with {kernel!r}.")
    if isinstance(kernel, Kernel):
        return kernel
    check_choice("kernel", kernel, KERNELS)
    if kernel == "hmc":
        return HMC(num_steps)
    return NUTS(max_tree_depth) if kernel == "nuts" else RandomWalkMetropolis()


def block_structure(blocks: Sequence[Sequence[str]], spec: ParamSpec | None) -> Host:
    """Which entries of the covariance belong to blocks of parameters or to the diagonal, (D, D) of bool.

    Raises:
        TypeError: if the blocks are not tuples of names.
        ValueError: if the parameters' names are not known, or a block names an unknown one or one twice.
    """
    if not all(isinstance(block, (list, tuple)) for block in blocks):
        raise TypeError(f"metric must be a name, a tensor or a list of tuples of names; received {describe(blocks)}.")
    if spec is None:
        raise ValueError("blocks of the metric need the parameters' names; received a potential without a spec.")
    named = [name for block in blocks for name in block]
    if len(set(named)) < len(named):
        raise ValueError(f"each parameter may be in one block of the metric only; received {blocks}.")
    structure = np.eye(spec.size, dtype=bool)
    for block in blocks:
        members = [index for name in block for index in spec.indices(name)]
        structure[np.ix_(members, members)] = True
    return structure


def _initial_metric(
    metric: str | Tensor | Sequence[Sequence[str]], positions: Tensor
) -> tuple[Metric, Literal["diag", "dense"] | None]:
    """The metric to start with, and the kind that is adapted, if any."""
    chains, dimension = positions.shape
    vectors = vectors_like(positions)
    if isinstance(metric, (list, tuple)):
        return identity_metric("dense", chains, dimension, vectors), "dense"
    if isinstance(metric, Tensor):
        return as_metric(metric, dimension, vectors), None
    check_choice("metric", metric, METRICS)
    if metric == "unit":
        return as_metric(1.0, dimension, vectors), None
    kind: Literal["diag", "dense"] = "dense" if metric == "dense" else "diag"
    return identity_metric(kind, chains, dimension, vectors), kind


def _chain_ids(chain_ids: Sequence[int] | None, chains: int) -> Sequence[int]:
    if chain_ids is None:
        return range(chains)
    ids = [check_count("a chain id", c, 0) for c in chain_ids]
    if len(ids) != chains or len(set(ids)) != chains:
        raise ValueError(f"chain_ids must be {chains} different numbers, one a chain; received {ids}.")
    return ids


def _steps_assumed(kernel: Kernel) -> int:
    if isinstance(kernel, HMC):
        return kernel.num_steps or int(10 * QUARTER_PERIOD)
    return ASSUMED_STEPS


def _collect(
    recorder: Recorder, warmup: Recorder | None, state: State, U: Potential, metadata: dict[str, Any]
) -> Draws:
    positions, stats = recorder.complete()
    warmup_positions, warmup_stats = warmup.complete() if warmup is not None else (None, None)
    chains, _, dimension = positions.shape
    inverse = state.metric.host_inverse()
    shape = (chains, dimension) if inverse.ndim == 2 else (chains, dimension, dimension)
    return Draws(
        positions=positions,
        stats=stats,
        step_size=torch.from_numpy(state.step_size.copy()),
        inverse_metric=torch.from_numpy(np.broadcast_to(inverse, shape).copy()),
        warmup_positions=warmup_positions,
        warmup_stats=warmup_stats,
        spec=U.spec,
        metadata=metadata,
        ragged_positions=recorder.ragged(),
    )
