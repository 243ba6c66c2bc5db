"""What `sample_potential` is given, as what a run is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import check_choice, check_count, check_positive, describe
from hnbayes.kernels.arrays import Host, vectors_like
from hnbayes.kernels.chees import ChEES
from hnbayes.kernels.hmc import HMC, QUARTER_PERIOD
from hnbayes.kernels.kernel import Kernel
from hnbayes.kernels.mclmc import MAMCLMC, MCLMC
from hnbayes.kernels.metrics import Metric, as_metric, identity_metric
from hnbayes.kernels.metropolis import RandomWalkMetropolis
from hnbayes.kernels.nuts import NUTS
from hnbayes.params import ParamSpec
from hnbayes.sampling.callbacks import Callback

# In the folder of a run, where its draws are stored as zarr too.
MIRROR = "posterior.zarr"
KERNELS = ("nuts", "hmc", "metropolis", "mclmc", "mamclmc", "chees")
METRICS = ("diag", "dense", "unit")
# Leapfrog steps that a NUTS transition of a network posterior is taken to need, for the decision on compiling.
ASSUMED_STEPS = 64


def check_lengths(warmup: int, draws: int, thin: int) -> tuple[int, int, int]:
    """Warm-up, draws and thinning as integers.

    Raises:
        TypeError, ValueError: if they aren't, or no draw would be kept.
    """
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
    if kernel == "nuts":
        return NUTS(max_tree_depth)
    return {"metropolis": RandomWalkMetropolis, "mclmc": MCLMC, "mamclmc": MAMCLMC, "chees": ChEES}[kernel]()


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


def initial_metric(
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


def numbers_of_chains(chain_ids: Sequence[int] | None, chains: int) -> Sequence[int]:
    """The numbers of the chains' streams.

    Raises:
        TypeError, ValueError: if they aren't C different non-negative integers.
    """
    if chain_ids is None:
        return range(chains)
    ids = [check_count("a chain id", c, 0) for c in chain_ids]
    if len(ids) != chains or len(set(ids)) != chains:
        raise ValueError(f"chain_ids must be {chains} different numbers, one a chain; received {ids}.")
    return ids


def steps_assumed(kernel: Kernel) -> int:
    """Leapfrog steps that a transition is taken to need, for the decision on compiling."""
    if isinstance(kernel, HMC):
        return kernel.num_steps or int(10 * QUARTER_PERIOD)
    return ASSUMED_STEPS


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise TypeError unless callbacks are a list of functions."""
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a list of functions of an Event; received {describe(callbacks)}.")


def check_interval(seconds: float) -> float:
    """Seconds between checkpoints.

    Raises:
        TypeError, ValueError: if it is no number of at least 0.
    """
    if not isinstance(seconds, bool) and seconds == 0:
        return 0.0
    return check_positive("checkpoint_every", seconds)


def check_no_fewer(draws: int | None, asked: int) -> None:
    """Raise ValueError if a run that is resumed is to have fewer draws than it was asked for."""
    if draws is not None and draws < asked:
        raise ValueError(f"draws must be at least the {asked} that the run was asked for; received {draws}.")


def storage_type(dtype: torch.dtype | None, positions: Tensor) -> str:
    """The name of the dtype that draws have in files."""
    dtype = positions.dtype if dtype is None else dtype
    check_choice("storage_dtype", dtype, (torch.float32, torch.float64))
    return str(dtype).removeprefix("torch.")


def check_storage(storage: Literal["zarr"] | None, checkpoint: object) -> Literal["zarr"] | None:
    """What the draws are stored as, beside the run's own files.

    Raises:
        ValueError: if it is neither "zarr" nor None, or there is no folder to store them in.
    """
    check_choice("storage", storage, (None, "zarr"))
    if storage is not None and checkpoint is None:
        raise ValueError(
            f"storage needs checkpoint, a folder for the run, in which {MIRROR} then has the draws; received "
            f"storage={storage!r} without it. Give checkpoint too, or leave storage out."
        )
    return storage
