"""The documented chains HMC, NUTS and MCMC, thin over the batched kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hnbayes._checks import check_count, check_positive
from hnbayes.kernels import hmc, metropolis, nuts
from hnbayes.kernels.kernel import Kernel
from hnbayes.sampling.callbacks import as_writer
from hnbayes.sampling.chain import Chain


class HMC(Chain):
    r"""Hamiltonian Monte Carlo with L leapfrog steps a state (Neal 2011, figure 2).

    Args:
        initial_position: q(0), shape (D,), float32 or float64; copied.
        pot_energy_func: U(q), the negative log density up to a constant, (D,) -> scalar.
        stepsize: \(\epsilon\) of the leapfrog integrator.
        num_steps: L.
        inv_mass: \(M^{-1}\): a number, a 0-dimensional tensor, (D,) for a diagonal, or (D, D).
        logger: told of the progress every `log_interval` states.
        log_interval: states between two lines of the log.
        writer: a TensorBoard `SummaryWriter`, given every state's statistics, or a directory to write them to.
        writer_tag: prefix of the TensorBoard tags.
        seed: of the chain's own random stream; None draws one from torch's global generator.
        chain: number of the stream; chain c of `MultiChainHMC(seed=s)` equals the chain with `seed=s, chain=c`.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, shape or range.

    Example:
        >>> chain = hnbayes.HMC(torch.zeros(2), lambda q: 0.5 * (q**2).sum(), stepsize=0.3, num_steps=5, seed=0)
        >>> chain.simulate_chain(20)
        >>> chain.num_states, chain.position_trajectory[-1].shape
        (20, torch.Size([2]))
        >>> bool(0 <= chain.acceptance_probability <= 1)
        True
    """

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Callable[[Tensor], Tensor],
        stepsize: float = 0.02,
        num_steps: int = 1,
        inv_mass: float | Tensor = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
        *,
        seed: int | None = None,
        chain: int = 0,
    ) -> None:
        self._num_steps = check_count("num_steps", num_steps)
        super().__init__(
            initial_position,
            pot_energy_func,
            check_positive("stepsize", stepsize),
            inv_mass,
            logger,
            log_interval,
            as_writer(writer),
            writer_tag,
            seed,
            chain,
        )

    @property
    def stepsize(self) -> float:
        """The leapfrog step size; may be changed at any time."""
        return self._scale

    @stepsize.setter
    def stepsize(self, value: float) -> None:
        self._scale = check_positive("stepsize", value)

    @property
    def num_steps(self) -> int:
        """The number of leapfrog steps; may be changed at any time."""
        return self._num_steps

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        self._num_steps = check_count("num_steps", value)

    @property
    def inv_mass(self) -> float | Tensor:
        """The inverse mass, as given or as a warm-up has found it."""
        return self._inv_mass

    def _kernel(self) -> Kernel:
        return hmc.HMC(self._num_steps)


class NUTS(HMC):
    r"""HMC that chooses its number of steps: the No-U-Turn sampler (Hoffman and Gelman 2014; Betancourt 2017).

    States are drawn from each trajectory with multinomial weights rather than by a slice, so nothing under- or
    overflows, whatever constant U carries. The step size is fixed unless `warm_up` adapts it.

    Args:
        initial_position: see `HMC`.
        pot_energy_func: see `HMC`.
        stepsize: see `HMC`.
        delta_max: energy error above which a trajectory stops, \(\Delta_{max}\) of eq. 8.
        inv_mass: see `HMC`.
        logger: see `HMC`.
        log_interval: see `HMC`.
        writer: see `HMC`.
        writer_tag: see `HMC`.
        max_tree_depth: the most doublings of a trajectory.
        seed: see `HMC`.
        chain: see `HMC`.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, shape or range.

    Example:
        >>> chain = hnbayes.NUTS(torch.zeros(2), lambda q: 0.5 * (q**2).sum(), stepsize=0.5, seed=0)
        >>> chain.simulate_chain(10)
        >>> chain.current_position.shape
        torch.Size([2])
    """

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Callable[[Tensor], Tensor],
        stepsize: float = 0.02,
        delta_max: float = 1000.0,
        inv_mass: float | Tensor = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
        *,
        max_tree_depth: int = 10,
        seed: int | None = None,
        chain: int = 0,
    ) -> None:
        self._nuts = nuts.NUTS(max_tree_depth, delta_max)
        super().__init__(
            initial_position,
            pot_energy_func,
            stepsize,
            1,
            inv_mass,
            logger,
            log_interval,
            writer,
            writer_tag,
            seed=seed,
            chain=chain,
        )

    @property
    def num_steps(self) -> int:
        """NUTS has no fixed number of steps: reading it is an error."""
        raise AttributeError("NUTS chooses its number of steps itself; n_steps of each state is in to_draws().")

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        raise AttributeError("NUTS chooses its number of steps itself; set max_tree_depth when it is made.")

    def _kernel(self) -> Kernel:
        return self._nuts


class MCMC(Chain):
    r"""Random-walk Metropolis with proposals \(N(q, \sigma^2 I)\).

    Args:
        initial_position: see `HMC`.
        pot_energy_func: see `HMC`; needs not be differentiable.
        proposal_std: \(\sigma\).
        logger: see `HMC`.
        log_interval: see `HMC`.
        writer: see `HMC`.
        writer_tag: see `HMC`.
        seed: see `HMC`.
        chain: see `HMC`.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, shape or range.

    Example:
        >>> chain = hnbayes.MCMC(torch.zeros(2), lambda q: 0.5 * (q**2).sum(), proposal_std=0.5, seed=0)
        >>> chain.simulate_chain(20)
        >>> chain.num_states
        20
    """

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Callable[[Tensor], Tensor],
        proposal_std: float = 1.0,
        logger: logging.Logger | None = None,
        log_interval: int = 100,
        writer: Any = None,
        writer_tag: str = "",
        *,
        seed: int | None = None,
        chain: int = 0,
    ) -> None:
        super().__init__(
            initial_position,
            pot_energy_func,
            check_positive("proposal_std", proposal_std),
            1.0,
            logger,
            log_interval,
            as_writer(writer),
            writer_tag,
            seed,
            chain,
        )

    @property
    def proposal_std(self) -> float:
        """The standard deviation of the proposals; may be changed at any time."""
        return self._scale

    @proposal_std.setter
    def proposal_std(self, value: float) -> None:
        self._scale = check_positive("proposal_std", value)

    def _kernel(self) -> Kernel:
        return metropolis.RandomWalkMetropolis()
