"""MultiChainHMC: several documented chains, advanced in one batch where they share a potential."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from torch import Tensor

from hnbayes._checks import check_choice, check_count, describe
from hnbayes.potentials.base import as_potential
from hnbayes.rng import resolve_seed
from hnbayes.sampling.chain import (
    Chain,
    advance_together,
    gather_draws,
    prepare_together,
    same_batch,
    warm_up_together,
)
from hnbayes.sampling.chains import HMC, MCMC, NUTS
from hnbayes.sampling.draws import Draws

CHAIN_TYPES: dict[str, type[Chain]] = {"hmc": HMC, "nuts": NUTS, "mcmc": MCMC}


class MultiChainHMC:
    """Several chains from different initial positions.

    Chains that share a potential and have the same settings advance in one batch: one evaluation of the potential
    serves them all. Each chain has a random stream of its own, so what it does depends neither on the other chains
    nor on how they are batched.

    Args:
        initial_positions: a list of positions (D,), one a chain, or a tensor (C, D).
        pot_energy_func: U for all chains, or a list of one for each.
        chain_type: "hmc", "nuts" or "mcmc".
        **kwargs: options of the chain's class. A `logger` goes to the first chain only; a list holds one a chain,
            where None gives a console logger that names the chain. A `writer` gets a tag for each chain; a directory
            as `writer` gets one TensorBoard run a chain. `seed` is one for all: chain c has stream c of it.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, number or range.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> chains = hnbayes.MultiChainHMC(torch.randn(3, 2), U, chain_type="nuts", stepsize=0.5, seed=0)
        >>> chains.simulate_chains(10)
        >>> chains.num_chains, chains.to_draws().positions.shape[0]
        (3, 3)
    """

    def __init__(
        self,
        initial_positions: Sequence[Tensor] | Tensor,
        pot_energy_func: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]],
        chain_type: str = "hmc",
        **kwargs: Any,
    ) -> None:
        check_choice("chain_type", chain_type, tuple(CHAIN_TYPES))
        if not isinstance(initial_positions, (list, tuple, Tensor)):
            raise TypeError(
                f"initial_positions must be a list of tensors (D,); received {describe(initial_positions)}."
            )
        positions = list(initial_positions)
        if not positions:
            raise ValueError("initial_positions must hold at least one chain; received none.")
        potentials = _one_a_chain(pot_energy_func, len(positions))
        loggers = _loggers(kwargs.pop("logger", None), len(positions))
        writer, tag = kwargs.pop("writer", None), kwargs.pop("writer_tag", "")
        seed = resolve_seed(kwargs.pop("seed", None))
        self._chains: list[Chain] = []
        for c, (position, potential) in enumerate(zip(positions, potentials, strict=True)):
            options = dict(kwargs, seed=seed, chain=c, logger=loggers[c], writer=writer)
            options["writer_tag"] = f"{tag}chain_{c}/"
            if isinstance(writer, str):
                options.update(writer=os.path.join(writer, f"chain_{c}"), writer_tag=tag)
            self._chains.append(CHAIN_TYPES[chain_type](position, potential, **options))

    @property
    def chains(self) -> list[Chain]:
        """The chains."""
        return self._chains

    @property
    def num_chains(self) -> int:
        """How many chains there are."""
        return len(self._chains)

    @property
    def avg_acceptance_probability(self) -> float:
        """The mean of the chains' acceptance probabilities."""
        return sum(chain.acceptance_probability for chain in self._chains) / len(self._chains)

    def simulate_chains(self, num_states: int, num_chains: int | Sequence[int] = -1, num_parallel: int = 1) -> None:
        """Add `num_states` states to each of some chains.

        Args:
            num_states: states to add to each.
            num_chains: -1 for all chains; a number for that many, those with fewest states first; or a list of
                chain indices (one given twice counts once, with a warning).
            num_parallel: chains that share a potential always advance together. Where there are several batches (a
                list of potentials, chains of different settings), so many batches run at a time, in threads.

        Raises:
            TypeError, ValueError: if a number or an index is out of range.
        """
        check_count("num_states", num_states)
        check_count("num_parallel", num_parallel)
        self._in_batches(self._chosen(num_chains), lambda batch: advance_together(batch, num_states), num_parallel)

    def warm_up(
        self,
        num_states: int,
        target_accept: float | None = None,
        metric: Literal["diag", "dense", "unit"] = "diag",
    ) -> None:
        """Adapt step size and inverse mass of every chain; see `HMC.warm_up`."""
        self._in_batches(self._chains, lambda batch: warm_up_together(batch, num_states, target_accept, metric), 1)

    def to_draws(self) -> Draws:
        """The chains' states (without the initial positions) as `Draws`; of each the last as many as all have."""
        return gather_draws(self._chains)

    def _chosen(self, num_chains: int | Sequence[int]) -> list[Chain]:
        count = len(self._chains)
        if not isinstance(num_chains, (list, tuple)):
            if num_chains == -1 and not isinstance(num_chains, bool):
                return self._chains
            wanted = check_count("num_chains", num_chains)
            if wanted > count:
                raise ValueError(f"num_chains must be at most {count}, the number of chains; received {wanted}.")
            return sorted(self._chains, key=lambda chain: chain.num_states)[:wanted]
        indices = [check_count("a chain index", index, 0) for index in num_chains]
        if not indices:
            raise ValueError("num_chains must name at least one chain; received an empty list.")
        if max(indices) >= count:
            raise ValueError(f"chain indices must lie in 0..{count - 1}; received {max(indices)}.")
        if len(set(indices)) < len(indices):
            warnings.warn(f"chain indices given twice count once; received {indices}.", UserWarning, stacklevel=3)
        return [self._chains[index] for index in dict.fromkeys(indices)]

    def _in_batches(self, chains: Sequence[Chain], work: Callable[[list[Chain]], None], num_parallel: int) -> None:
        batches: dict[Any, list[Chain]] = {}
        for chain in chains:
            batches.setdefault(same_batch(chain), []).append(chain)
        if num_parallel == 1 or len(batches) == 1:
            for batch in batches.values():
                work(batch)
            return
        # Graphs are captured one after another: torch's tracing changes state of the whole process while it works.
        for batch in batches.values():
            prepare_together(batch)
        # Chains share neither state nor random numbers, and torch lets go of the interpreter while it computes.
        with ThreadPoolExecutor(num_parallel) as pool:
            for future in [pool.submit(work, batch) for batch in batches.values()]:
                future.result()


def _one_a_chain(potentials: Any, count: int) -> list[Callable[[Tensor], Tensor]]:
    if not isinstance(potentials, (list, tuple)):
        return [as_potential(potentials, on_error="raise")] * count
    if len(potentials) != count:
        raise ValueError(
            f"a list of potentials must hold one for each of the {count} chains; received {len(potentials)}."
        )
    # A function that is listed twice becomes one potential, so that its chains share a batch.
    wrapped = {id(potential): as_potential(potential, on_error="raise") for potential in potentials}
    return [wrapped[id(potential)] for potential in potentials]


def _loggers(logger: Any, count: int) -> list[logging.Logger | None]:
    if not isinstance(logger, (list, tuple)):
        return [logger] + [None] * (count - 1)
    if len(logger) != count:
        raise ValueError(f"a list of loggers must hold one for each of the {count} chains; received {len(logger)}.")
    return [_console_logger(c) if entry is None else entry for c, entry in enumerate(logger)]


def _console_logger(chain: int) -> logging.Logger:
    logger = logging.getLogger(f"hnbayes.chain_{chain}")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"[chain {chain}] %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
