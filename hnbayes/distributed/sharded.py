"""ShardedPotential: a potential whose data lie on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from torch import Tensor

from hnbayes._checks import brief, describe
from hnbayes.distributed.process_group import join
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode, Potential

END, VALUE, GRADIENT = 0, 1, 2
DTYPES = (torch.float32, torch.float64)


class ShardedPotential(Potential):
    r"""\(U(q) = \sum_r U_r(q) - \log p(q)\), where rank r holds a shard of the data.

    Rank 0 samples; the others evaluate their shards when it asks. So the chains' decisions are made once, and machines
    that round differently can't part. An evaluation costs one broadcast of the positions and one sum of C (D + 2)
    numbers, which repays where a shard's gradient takes longer than that. In a program::

        U = ShardedPotential(U_of_my_rows, log_prior)
        with U.leading() as leads:
            if leads:
                draws = hnbayes.sample_potential(U, starts, ...)

    Args:
        local: U_r, what the rank's own rows add: their negative log likelihood, a function of a position (D,) or a
            `Potential`.
        log_prior: log p of a position (D,), counted once; None is a flat prior.
        spec: names and shapes of a position; None takes that of `local`.
        compile: see `Potential`.

    Raises:
        TypeError, ValueError: if an argument is none of these, or no launcher has started the process.

    Example:
        >>> import os, tempfile
        >>> import torch.distributed as dist
        >>> rendezvous = f"file://{tempfile.mkdtemp()}/here"
        >>> dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)  # torchrun does this
        >>> U = hnbayes.distributed.ShardedPotential(lambda q: 0.5 * q.square().sum())
        >>> with U.leading() as leads:
        ...     draws = hnbayes.sample_potential(U, torch.zeros(2, 3), warmup=10, draws=10, seed=0, progress=False)
        >>> dist.destroy_process_group()
        >>> draws.positions.shape
        torch.Size([2, 10, 3])
    """

    def __init__(
        self,
        local: Callable[[Tensor], Tensor],
        log_prior: Callable[[Tensor], Tensor] | None = None,
        *,
        spec: ParamSpec | None = None,
        compile: CompileMode = "auto",
    ) -> None:
        if log_prior is not None and not callable(log_prior):
            raise TypeError(f"log_prior must be a function of a position (D,); received {describe(log_prior)}.")
        if not callable(local):
            raise TypeError(f"local must be a function of a position (D,); received {describe(local)}.")
        join()
        first = dist.get_rank() == 0

        def part(q: Tensor) -> Tensor:
            # The prior is counted where it is evaluated: on rank 0.
            return local(q) - log_prior(q) if first and log_prior is not None else local(q)

        spec = getattr(local, "spec", None) if spec is None else spec
        super().__init__(part, spec=spec, compile=compile)
        self.part = Potential(part, spec=spec, compile=compile)
        self._leading = False

    @contextmanager
    def leading(self) -> Iterator[bool]:
        """A block in which rank 0 may evaluate; the others serve it until its block ends, and have False.

        Raises:
            RuntimeError: on the others, if rank 0 is gone.
        """
        if dist.get_rank() != 0:
            self._serve()
            yield False
            return
        self._leading = True
        try:
            yield True
        finally:
            self._leading = False
            with suppress(RuntimeError):  # if another rank has gone, what was raised for it says more
                dist.broadcast(torch.tensor([END, 0, 0, 0]), src=0)
                dist.barrier()

    def prepare(self, positions: Tensor, evaluations: int | None = None) -> str:
        """See `Potential`; each rank finds its own way at the first evaluation."""
        self._must_lead()
        return "sharded"

    def evaluates_arrays(self, positions: Tensor) -> bool:
        """See `Potential`."""
        return False

    def value_and_grad(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient for every chain, of all shards."""
        self._ask(GRADIENT, positions)
        return self._sum(GRADIENT, positions)

    def value(self, positions: Tensor) -> Tensor:
        """U for every chain, of all shards."""
        self._ask(VALUE, positions)
        return self._sum(VALUE, positions)[0]

    def _must_lead(self) -> None:
        if not self._leading:
            raise RuntimeError("a ShardedPotential is evaluated on rank 0, in a block `with U.leading() as leads:`.")

    def _ask(self, what: int, positions: Tensor) -> None:
        self._must_lead()
        header = torch.tensor([what, *positions.shape, DTYPES.index(positions.dtype)])
        dist.broadcast(header, src=0)
        dist.broadcast(positions.detach().contiguous().clone(), src=0)

    def _serve(self) -> None:
        """Evaluate what rank 0 asks for until it asks for no more."""
        while True:
            header = torch.empty(4, dtype=torch.int64)
            dist.broadcast(header, src=0)
            what, chains, dimension, dtype = header.tolist()
            if what == END:
                dist.barrier()
                return
            positions = torch.empty(chains, dimension, dtype=DTYPES[dtype])
            dist.broadcast(positions, src=0)
            self._sum(what, positions)

    def _sum(self, what: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over all ranks; an error of one is raised on rank 0, and ends the block of all."""
        chains, dimension = positions.shape
        # In float64, so that how many shards there are rounds as little as may be; the last column counts failures.
        sums = torch.zeros(chains, dimension + 2, dtype=torch.float64)
        error: Exception | None = None
        try:
            if what == GRADIENT:
                values, gradients = self.part.value_and_grad(positions)
                sums[:, 1:-1] = gradients
            else:
                values = self.part.value(positions)
            sums[:, 0] = values
        except Exception as raised:  # the others wait for the sum
            sums[:, -1], error = 1, raised
        dist.reduce(sums, dst=0)
        if self._leading and bool(sums[0, -1] > 0):
            if error is not None:
                raise error
            raise RuntimeError(
                "a rank's part of the potential has raised an error; its own output says which. The run has ended."
            )
        if error is not None:
            print(f"rank {dist.get_rank()}: {brief(error)}", flush=True)
        return sums[:, 0].to(positions.dtype), sums[:, 1:-1].to(positions.dtype)
