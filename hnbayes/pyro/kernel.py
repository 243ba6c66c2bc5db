"""What the kernels for `pyro.infer.MCMC` share: an engine kernel with one chain behind Pyro's interface."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.infer.mcmc.adaptation import BlockMassMatrix
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from hnbayes._checks import check_count, check_fraction, check_positive, describe
from hnbayes.kernels.kernel import Kernel
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import Potential
from hnbayes.pyro import checks
from hnbayes.pyro.chain import Settings, SingleChain, report
from hnbayes.pyro.mass import FullMass, block_shapes, split_blocks
from hnbayes.pyro.model_potential import ModelPotential, NoLatentSiteError
from hnbayes.pyro.potentials import PotentialFn, from_potential_fn
from hnbayes.rng import resolve_seed

Params = dict[str, Tensor]


class SiteKernel(MCMCKernel):  # type: ignore[misc]
    """A kernel of the engine for one chain over the sites of a Pyro model, or over named tensors.

    Random numbers come from a stream of their own, whose seed is drawn from torch's global generator at `setup`: so
    `pyro.set_rng_seed` makes a run repeatable, and the processes of several chains differ.

    Attributes:
        model: the Pyro model, or None.
        potential_fn: U of {site: unconstrained tensor}.
        transforms: site -> transform to the real line; of a model, they are known after `setup`.
        trajectory_length: for HMC.
    """

    def __init__(
        self,
        model: Callable[..., Any] | None,
        potential_fn: PotentialFn | None,
        *,
        step_size: float | None,
        adapt_step_size: bool,
        adapt_mass_matrix: bool,
        full_mass: FullMass,
        transforms: Mapping[str, Any] | None,
        max_plate_nesting: int | None,
        target_accept_prob: float,
        init_strategy: Callable[..., Any],
        step_limits: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        if (model is None) == (potential_fn is None):
            raise ValueError(
                "a kernel needs either a model or a potential_fn; "
                f"received {'neither' if model is None else 'both'}. Pass one of them."
            )
        for name, function in (("model", model), ("potential_fn", potential_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable; received {describe(function)}.")
        self.model = model
        self.potential_fn = potential_fn
        self.transforms = None if transforms is None else dict(transforms)
        self._given_transforms = self.transforms
        self._model_options: dict[str, Any] = {"init_strategy": init_strategy, "max_plate_nesting": max_plate_nesting}
        self._start_step_size = 1.0 if step_size is None else check_positive("step_size", step_size)
        self._adapts_step_size, self._adapts_mass_matrix = bool(adapt_step_size), bool(adapt_mass_matrix)
        self._full_mass = full_mass
        self._target_accept = check_fraction("target_accept_prob", target_accept_prob)
        self._step_limits = step_limits
        self._adapter: Any = None
        self._save_params: list[str] | None = None
        self._potential: Potential | None = None
        self._chain: SingleChain | None = None
        self._ended: SingleChain | None = None
        self._initial_params: Params | None = None
        self._given = self._moved = False
        self._forget()
        super().__init__()

    @abstractmethod
    def transition(self) -> Kernel:
        """The engine's kernel."""

    def settings(self) -> Settings:
        """How to sample, for the engine."""
        return Settings(
            transition=self.transition(),
            step_size=self._start_step_size,
            adapt_step_size=self._adapts_step_size,
            adapt_mass_matrix=self._adapts_mass_matrix,
            full_mass=self._full_mass,
            target_accept=self._target_accept,
            step_limits=self._step_limits,
            adapter=self._adapter,
        )

    def build_potential(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None
    ) -> Potential:
        """The potential of the model with its arguments, or of the `potential_fn`.

        Args:
            args: the model's arguments; not used for a `potential_fn`.
            kwargs: its keyword arguments.
            shapes: of the initial parameters, if they are given.

        Raises:
            ValueError: if there is a `potential_fn` and no initial parameters.
        """
        if self.model is not None:
            return ModelPotential(self.model, args, kwargs, transforms=self._given_transforms, **self._model_options)
        if shapes is None or self.potential_fn is None:
            raise ValueError(
                "a kernel with a potential_fn needs initial parameters, which say what there is to sample; received "
                "none. Pass initial_params={name: unconstrained tensor} to MCMC."
            )
        return from_potential_fn(self.potential_fn, shapes)

    # What `pyro.infer.MCMC` calls.

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Prepare a chain, from `initial_params` if they are set.

        Args:
            warmup_steps: steps of warm-up; the end of warm-up is found by counting.
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.
        """
        given = self._initial_params if self._given else None
        seed = resolve_seed(None)
        self._forget()
        self._warmup_steps, self._seed = check_count("warmup_steps", warmup_steps, 0), seed
        self._initial_params, self._given = given, given is not None
        if self.model is None and given is not None and not given:
            return  # nothing to sample, which Pyro's kernels allow
        shapes = None if given is None else {name: tuple(value.shape) for name, value in given.items()}
        try:
            self._potential = self.build_potential(args, kwargs, shapes)
        except NoLatentSiteError as error:
            if not error.collapsed:
                raise
            # All sites were collapsed (`pyro.contrib.conjugate`): their posterior is known, there is nothing to sample.
            self.transforms, self._initial_params = {}, {}
            return
        spec = self._spec()
        if isinstance(self._potential, ModelPotential):
            self.transforms = self._potential.transforms
            self.potential_fn = self._potential.potential_fn
            if given is None:
                self._initial_params = spec.unflatten(self._potential.initial_positions(1, seed)[0])
        if given is not None:
            spec.flatten(given)  # its error says what does not fit
        block_shapes(self._full_mass, spec)
        self.kept_sites(spec)

    def sample(self, params: Params) -> Params:
        """One transition from where the chain is; `params` count after `clear_cache` only, as in Pyro."""
        if self._initial_params is None:
            raise RuntimeError("a kernel must be set up before it samples; call setup(warmup_steps, ...), or use MCMC.")
        if not self._initial_params:
            return params
        spec = self._spec()
        chain = self._running()
        if self._moved:
            chain.move(spec.flatten(params))
            self._moved = False
        return spec.unflatten(chain.step())

    def logging(self) -> OrderedDict[str, str]:
        """What the progress bar shows."""
        acceptance = self._chain.mean_acceptance if self._chain else 1.0
        return OrderedDict([("step size", f"{self.step_size:.2e}"), ("acc. prob", f"{acceptance:.3f}")])

    def diagnostics(self) -> dict[str, Any]:
        """Divergences, acceptance rate, step size, and in "sample_stats" the statistics of each draw as arrays."""
        return report(self._chain.stats if self._chain else {}, self.step_size)

    def cleanup(self) -> None:
        """Forget the chain, but for its step size and mass matrix, and the initial parameters."""
        ended = self._chain or self._ended
        self._forget()
        self._ended = ended

    def clear_cache(self) -> None:
        """Let the next `sample` go on from its argument."""
        self._moved = True

    @property
    def initial_params(self) -> Params | None:
        """Where the chain starts, unconstrained; known after `setup` if it was not given."""
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: Params | None) -> None:
        self._initial_params = params
        self._given = params is not None

    @property
    def save_params(self) -> list[str]:
        """The sites to keep, if `MCMC` was told; sorted, as `MCMC` takes them to be."""
        if self._save_params is None:
            raise AttributeError("save_params was not set")
        return self._save_params

    @save_params.setter
    def save_params(self, names: Sequence[str]) -> None:
        self._save_params = sorted(names)

    def kept_sites(self, spec: ParamSpec) -> list[str]:
        """The sites to keep: those of `save_params`, or all.

        Raises:
            ValueError: if `save_params` has unknown sites.
        """
        kept = sorted(spec.names) if self._save_params is None else self._save_params
        unknown = set(kept) - set(spec.names)
        if unknown:
            raise ValueError(f"save_params must be of the sites {', '.join(spec.names)}; received {sorted(unknown)}.")
        return kept

    def save_params_are_all(self) -> bool:
        """Whether no choice of sites to keep was made."""
        return self._save_params is None

    # What users read.

    @property
    def step_size(self) -> float:
        """The present step size."""
        chain = self._chain or self._ended
        return chain.step_size if chain else self._start_step_size

    @property
    def inverse_mass_matrix(self) -> dict[tuple[str, ...], Tensor]:
        """The present inverse mass matrix, {site names: block}; dense blocks are (size, size), the diagonal (size,)."""
        blocks: dict[tuple[str, ...], Tensor] = self.mass_matrix_adapter.inverse_mass_matrix
        return blocks

    @property
    def mass_matrix_adapter(self) -> Any:
        """Pyro's view of the mass matrix; set an `ArrowheadMassMatrix` to have that one learn it."""
        if self._adapter is not None:
            return self._adapter
        view = BlockMassMatrix()
        chain = self._chain or self._ended
        if chain is not None:
            spec = chain.spec
            shapes = block_shapes(self._full_mass, spec)
            view.configure(shapes, adapt_mass_matrix=False)
            view.inverse_mass_matrix = split_blocks(chain.inverse_mass, shapes, spec)
        return view

    @mass_matrix_adapter.setter
    def mass_matrix_adapter(self, adapter: Any) -> None:
        self._adapter = adapter

    def _cache(self, z: Params, potential_energy: Tensor, z_grads: Params | None = None) -> None:
        """Go on from elsewhere, where U and its gradient are known. Pyro's own tests call it."""
        spec = self._spec()
        gradient = None if z_grads is None else spec.flatten(z_grads)
        self._running().move(spec.flatten(z), potential_energy, gradient)

    def _running(self) -> SingleChain:
        """The chain, begun when it is first needed: `MCMC` also calls `setup` to learn the transforms alone."""
        if self._chain is None:
            potential, spec = self._potential, self._spec()
            if potential is None or self._initial_params is None:
                raise RuntimeError("a kernel must be set up before it samples; call setup(warmup_steps, ...).")
            start = spec.flatten(self._initial_params).detach()
            settings = self.settings()
            if isinstance(potential, ModelPotential) and not settings.transition.uses_gradient:
                checks.check_repeatable(potential.function, start)
            self._chain = SingleChain(potential, start, settings, self._warmup_steps, self._seed)
        return self._chain

    def _spec(self) -> ParamSpec:
        if self._potential is None or self._potential.spec is None:
            raise RuntimeError("a kernel must be set up before it samples; call setup(warmup_steps, ...).")
        return self._potential.spec

    def _forget(self) -> None:
        self._potential = self._chain = self._ended = self._initial_params = None
        self._given = False
        self._moved = False
        self._warmup_steps = 0
        self._seed = 0

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to set the kernel up; graphs of a potential can't be sent."""
        state = self.__dict__.copy()
        for name in ("_potential", "_chain", "_ended"):
            state[name] = None
        if self.model is not None:
            state |= {"transforms": self._given_transforms, "potential_fn": None}
            if not self._given:
                state["_initial_params"] = None
        return state
