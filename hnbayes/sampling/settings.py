"""Settings: the options of a run as plain numbers and text, as a file keeps them."""

from __future__ import annotations

import dataclasses
import inspect
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from hnbayes._version import __version__
from hnbayes.kernels.chees import ChEES
from hnbayes.kernels.hmc import HMC
from hnbayes.kernels.kernel import Kernel
from hnbayes.kernels.mclmc import MAMCLMC, MCLMC
from hnbayes.kernels.metropolis import RandomWalkMetropolis
from hnbayes.kernels.nuts import NUTS
from hnbayes.params import ParamSpec
from hnbayes.potentials.native.compiler import available

KERNELS: dict[str, type[Kernel]] = {
    cls.__name__: cls for cls in (NUTS, HMC, RandomWalkMetropolis, MCLMC, MAMCLMC, ChEES)
}
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What a run was asked for, beside potential and starts.

    Attributes:
        warmup, draws, thin: see `sample_potential`.
        target_accept: what step sizes are adapted to.
        adapt_step_size: whether they are adapted.
        metric: "diag" or "dense" where the metric is adapted, else None.
        pooled: whether a metric is adapted to the draws of all chains.
        save_warmup: whether draws of warm-up are kept.
        seed: of the chains' streams.
        chain_ids: their numbers.
        storage_dtype: "float32" or "float64", of draws in files.
        steps_assumed: leapfrog steps a transition, for the decision on compiling.
        on_error: "raise" or "drop".
        never_begun: numbers of chains that were dropped where they started.
        storage: "zarr" where the draws are mirrored; see `hnbayes.sampling.mirror`.
    """

    warmup: int
    draws: int
    thin: int
    target_accept: float
    adapt_step_size: bool
    metric: Literal["diag", "dense"] | None
    pooled: bool
    save_warmup: bool
    seed: int
    chain_ids: tuple[int, ...]
    storage_dtype: str
    steps_assumed: int
    on_error: str
    never_begun: tuple[int, ...]
    storage: str | None = None

    @property
    def evaluations(self) -> int:
        """About how many evaluations the run takes."""
        return (self.warmup + self.draws) * self.steps_assumed

    def to_record(self) -> dict[str, Any]:
        """As what JSON takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Settings:
        """From what `to_record` gave."""
        lists = {name: tuple(record[name]) for name in ("chain_ids", "never_begun")}
        return cls(**{**record, **lists})


def kernel_to_record(kernel: Kernel) -> dict[str, Any]:
    """A kernel's class and options as what JSON takes.

    Raises:
        ValueError: if it is of a class of one's own.
    """
    cls = type(kernel)
    if KERNELS.get(cls.__name__) is not cls:
        raise ValueError(
            f"a run with checkpoints needs a kernel of hnbayes.kernels, which can be made again from a file; received "
            f"a {cls.__name__}. Leave checkpoint out."
        )
    return {
        "class": cls.__name__,
        "options": {name: getattr(kernel, name) for name in inspect.signature(cls).parameters},
    }


def kernel_from_record(record: Mapping[str, Any]) -> Kernel:
    """The kernel that a record stands for."""
    return KERNELS[record["class"]](**record["options"])


def spec_to_record(spec: ParamSpec | None) -> list[Any] | None:
    """What positions are made of, as a record keeps it."""
    return None if spec is None else [spec.names, spec.shapes]


def spec_from_record(record: Any) -> ParamSpec | None:
    """The reverse of `spec_to_record`."""
    return None if record is None else ParamSpec(*record)


def environment(device: torch.device) -> dict[str, Any]:
    """What rounding depends on, beside the program."""
    return {
        "hnbayes": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "compiler": available(),
        "device": device.type,
    }
