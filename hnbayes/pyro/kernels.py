"""HMC, NUTS and random-walk Metropolis as kernels of `pyro.infer.MCMC`: the engine's kernels with one chain.

They take the arguments of Pyro's own, so that changing the import is all there is to do. Where they differ:

* the gradient is captured once as a graph, whatever `jit_compile` says, and the options for the JIT have no effect;
* NUTS is always multinomial: slice sampling (`use_multinomial_sampling=False`) has the same posterior, but is the less
  efficient of the two (Betancourt 2017);
* warm-up follows Stan's windows, with Stan's shrinkage of the metric;
* "acceptance rate" is the mean acceptance probability, and `diagnostics()` has the statistics of each draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pyro.infer.autoguide.initialization import init_to_uniform

from hnbayes import kernels
from hnbayes._checks import check_count, check_positive
from hnbayes.kernels.kernel import Kernel
from hnbayes.kernels.metropolis import OPTIMAL_ACCEPTANCE
from hnbayes.pyro.kernel import SiteKernel
from hnbayes.pyro.mass import FullMass
from hnbayes.pyro.potentials import PotentialFn

# Of the step size of HMC. Pyro's default trajectory of 2 pi is a period of a standard Gaussian: without it a chain
# comes back to where it was, draw after draw.
JITTER = 0.2


class HMC(SiteKernel):
    """Hamiltonian Monte Carlo of a fixed trajectory length, in place of `pyro.infer.HMC`.

    Args:
        model: a callable with Pyro primitives.
        potential_fn: instead of it, U of {name: unconstrained tensor}; `MCMC` then needs `initial_params`.
        step_size: where the step size starts, or what it is if it isn't adapted; None is 1.
        trajectory_length: integration time; None is `step_size * num_steps`, or 2 pi if that isn't given either, as in
            Pyro. (On a posterior near a Gaussian of adapted metric, 2 pi leads back to the start; pi / 2 does better.)
        num_steps: leapfrog steps at the initial step size.
        adapt_step_size: whether warm-up adapts the step size.
        adapt_mass_matrix: whether warm-up adapts the mass matrix.
        full_mass: dense (True), diagonal (False), or tuples of the sites that share a dense block.
        transforms: site -> transform to the real line, for all sites; None takes Pyro's.
        max_plate_nesting: how deep plates are nested; needed for some models with discrete sites.
        jit_compile, jit_options, ignore_jit_warnings: without effect: the gradient is captured in any case.
        target_accept_prob: the mean acceptance that the step size is adapted to.
        init_strategy: where to start, one of `pyro.infer.autoguide.initialization`.
        min_stepsize, max_stepsize: bounds on the step size that the search at the start may find.

    Example:
        >>> import pyro
        >>> waiting = pyro.distributions.Exponential(1.0)
        >>> kernel = hnbayes.pyro.HMC(lambda: pyro.sample("x", waiting), trajectory_length=1.0)
        >>> mcmc = pyro.infer.MCMC(kernel, num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: PotentialFn | None = None,
        step_size: float | None = 1,
        trajectory_length: float | None = None,
        num_steps: int | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: FullMass = False,
        transforms: Mapping[str, Any] | None = None,
        max_plate_nesting: int | None = None,
        jit_compile: bool = False,
        jit_options: dict[str, Any] | None = None,
        ignore_jit_warnings: bool = False,
        target_accept_prob: float = 0.8,
        init_strategy: Callable[..., Any] = init_to_uniform,
        *,
        min_stepsize: float = 1e-10,
        max_stepsize: float = 1e10,
    ) -> None:
        super().__init__(
            model,
            potential_fn,
            step_size=step_size,
            adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix,
            full_mass=full_mass,
            transforms=transforms,
            max_plate_nesting=max_plate_nesting,
            target_accept_prob=target_accept_prob,
            init_strategy=init_strategy,
            step_limits=(min_stepsize, max_stepsize),
        )
        self._num_steps = None if num_steps is None else check_count("num_steps", num_steps)
        if trajectory_length is not None:
            self._num_steps = None
            self.trajectory_length = check_positive("trajectory_length", trajectory_length)
        elif self._num_steps is not None:
            self.trajectory_length = self._start_step_size * self._num_steps
        else:
            self.trajectory_length = 2 * math.pi

    def transition(self) -> Kernel:
        """The engine's HMC."""
        fixed = None if self._adapts_step_size else self._num_steps
        return kernels.HMC(fixed, self.trajectory_length, jitter=JITTER)

    @property
    def num_steps(self) -> int:
        """Leapfrog steps of a trajectory at the present step size."""
        return int(kernels.HMC(None, self.trajectory_length).steps(np.array(self.step_size)))


class NUTS(SiteKernel):
    """The No-U-Turn sampler, multinomial, in place of `pyro.infer.NUTS`.

    Args:
        model: a callable with Pyro primitives.
        potential_fn: instead of it, U of {name: unconstrained tensor}; `MCMC` then needs `initial_params`.
        step_size: where the step size starts, or what it is if it isn't adapted; None is 1.
        adapt_step_size: whether warm-up adapts the step size.
        adapt_mass_matrix: whether warm-up adapts the mass matrix.
        full_mass: dense (True), diagonal (False), or tuples of the sites that share a dense block.
        use_multinomial_sampling: without effect: it is multinomial in any case.
        transforms: site -> transform to the real line, for all sites; None takes Pyro's.
        max_plate_nesting: how deep plates are nested; needed for some models with discrete sites.
        jit_compile, jit_options, ignore_jit_warnings: without effect: the gradient is captured in any case.
        target_accept_prob: the mean acceptance that the step size is adapted to.
        max_tree_depth: the most doublings of a trajectory.
        init_strategy: where to start, one of `pyro.infer.autoguide.initialization`.

    Example:
        >>> import pyro
        >>> waiting = pyro.distributions.Exponential(1.0)
        >>> kernel = hnbayes.pyro.NUTS(lambda: pyro.sample("x", waiting), max_tree_depth=5)
        >>> mcmc = pyro.infer.MCMC(kernel, num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> bool((mcmc.get_samples()["x"] > 0).all())
        True
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: PotentialFn | None = None,
        step_size: float | None = 1,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: FullMass = False,
        use_multinomial_sampling: bool = True,
        transforms: Mapping[str, Any] | None = None,
        max_plate_nesting: int | None = None,
        jit_compile: bool = False,
        jit_options: dict[str, Any] | None = None,
        ignore_jit_warnings: bool = False,
        target_accept_prob: float = 0.8,
        max_tree_depth: int = 10,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        super().__init__(
            model,
            potential_fn,
            step_size=step_size,
            adapt_step_size=adapt_step_size,
            adapt_mass_matrix=adapt_mass_matrix,
            full_mass=full_mass,
            transforms=transforms,
            max_plate_nesting=max_plate_nesting,
            target_accept_prob=target_accept_prob,
            init_strategy=init_strategy,
        )
        self.use_multinomial_sampling = True
        self._max_tree_depth = check_count("max_tree_depth", max_tree_depth)

    def transition(self) -> Kernel:
        """The engine's NUTS."""
        return kernels.NUTS(self._max_tree_depth)


class RandomWalkMetropolis(SiteKernel):
    """Gaussian random walk, in place of `pyro.infer.RandomWalkKernel`.

    Args:
        model: a callable with Pyro primitives.
        init_step_size: the initial scale of proposals.
        target_accept_prob: the mean acceptance that warm-up adapts it to.
        potential_fn: instead of a model, U of {name: unconstrained tensor}; `MCMC` then needs `initial_params`.
        adapt_mass_matrix: whether warm-up adapts the shape of proposals too; False keeps them isotropic, as in Pyro.
        full_mass: a dense shape (True), a diagonal one, or tuples of the sites that share a dense block.

    Example:
        >>> import pyro
        >>> kernel = hnbayes.pyro.RandomWalkKernel(lambda: pyro.sample("x", pyro.distributions.Normal(0.0, 1.0)))
        >>> mcmc = pyro.infer.MCMC(kernel, num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        init_step_size: float = 0.1,
        target_accept_prob: float = OPTIMAL_ACCEPTANCE,
        *,
        potential_fn: PotentialFn | None = None,
        adapt_mass_matrix: bool = True,
        full_mass: FullMass = False,
    ) -> None:
        super().__init__(
            model,
            potential_fn,
            step_size=check_positive("init_step_size", init_step_size),
            adapt_step_size=True,
            adapt_mass_matrix=adapt_mass_matrix,
            full_mass=full_mass,
            transforms=None,
            max_plate_nesting=None,
            target_accept_prob=target_accept_prob,
            init_strategy=init_to_uniform,
        )

    def transition(self) -> Kernel:
        """The engine's random walk."""
        return kernels.RandomWalkMetropolis(self._target_accept)
