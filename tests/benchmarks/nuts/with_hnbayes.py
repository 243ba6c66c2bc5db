"""This library."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

import hnbayes
from hnbayes.kernels import NUTS
from hnbayes.potentials import evaluators
from nuts.outcome import Job, Outcome


class CountingNUTS(NUTS):
    """NUTS that counts batched gradients and their rows, and what of it was of use.

    A row is of use where it is a leapfrog step of a chain that still needs draws.

    Args:
        total: transitions of each chain, warm-up included.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.rows = 0
        self.until_first_end: dict[str, int] | None = None
        self.done: np.ndarray | None = None
        self.steps = 0

    def _grow(self, state: Any) -> Any:
        leaves = state.path.leaf.sum()
        found = super()._grow(state)
        self.rows += int(state.path.leaf.sum() - leaves)
        return found

    def advance(self, state: Any) -> Any:
        """One batched gradient, or more where all is compiled."""
        state, finished = super().advance(state)
        if finished is None or self.until_first_end is not None:
            return state, finished
        if self.done is None:
            self.done = np.zeros(state.chains, int)
        self.done[finished.rows] += 1
        self.steps += int(finished.info["n_steps"].sum())
        if self.done.max() == self.total:
            tree = state.path
            under_way = int((tree.n_steps + tree.leaf)[~state.fresh].sum())
            self.until_first_end = {"rows": self.rows, "useful": self.steps + under_way}
        return state, finished


def sample(job: Job) -> Outcome:
    """Sample with `sample_potential`."""
    preparing = [0.0]
    build = evaluators.build

    def timed_build(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        evaluator = build(*args, **kwargs)
        preparing[0] += time.perf_counter() - began
        return evaluator

    evaluators.build = timed_build  # type: ignore[assignment]
    began = time.perf_counter()
    kernel = CountingNUTS(job.warmup + job.draws)
    U = job.problem.torch_potential()
    draws = hnbayes.sample_potential(
        U,
        torch.from_numpy(job.problem.starts(job.chains, job.seed)),
        kernel=kernel,
        warmup=job.warmup,
        draws=job.draws,
        target_accept=job.target_accept,
        seed=job.seed,
        progress=False,
        save_warmup=True,
    )
    wall = time.perf_counter() - began
    assert draws.warmup_stats is not None
    steps = torch.cat((draws.warmup_stats["n_steps"], draws.stats["n_steps"]), 1)
    probes = torch.from_numpy(job.problem.probes())
    extra: dict[str, Any] = {
        "evaluation": draws.metadata["evaluation"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": kernel.rows,
        # Where every chain waits for the deepest tree of each transition.
        "rows_in_lockstep": int(steps.max(0).values.sum()) * job.chains,
        "useful_rows": float(steps.sum()) / kernel.rows,
    }
    if kernel.until_first_end is not None:
        extra["useful_rows_until_a_chain_ends"] = kernel.until_first_end["useful"] / kernel.until_first_end["rows"]
    return Outcome(
        positions=draws.positions.numpy(),
        wall=wall,
        preparing=preparing[0],
        gradients=int(steps.sum()),
        draw_gradients=float(draws.stats["n_steps"].sum()),
        divergences=int(draws.stats["diverging"].sum()),
        energies=np.array([float(U(probe)) for probe in probes]),
        extra=extra,
    )
