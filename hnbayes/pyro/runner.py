"""All chains of a Pyro model in one batch, behind the interface of `pyro.infer.MCMC`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.api import AbstractMCMC
from pyro.infer.mcmc.util import diagnostics, print_summary, select_samples
from pyro.util import optional
from torch import Tensor

from hnbayes._checks import check_choice, check_count, describe
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import Potential
from hnbayes.pyro import checks
from hnbayes.pyro.chain import report
from hnbayes.pyro.engine_options import check_options, device_of_run, engine_options
from hnbayes.pyro.kernel import SiteKernel
from hnbayes.pyro.model_potential import ModelPotential
from hnbayes.pyro.potentials import constrain, spec_of
from hnbayes.rng import resolve_seed
from hnbayes.sampling.arguments import check_interval, check_storage
from hnbayes.sampling.callbacks import Event
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.resume import resume_potential
from hnbayes.sampling.run_folder import folder_of
from hnbayes.sampling.sample import sample_potential

Hook = Callable[[Any, dict[str, Tensor], str, int], None]


class VectorizedMCMC(AbstractMCMC):  # type: ignore[misc]
    """MCMC whose chains share one process and one batched gradient, for any Pyro model.

    A model whose gradient can't be vectorised (data-dependent control flow, `.item()`) is evaluated one chain after
    another, with one warning that names the cause.

        mcmc = VectorizedMCMC(hnbayes.pyro.NUTS(model), num_samples=1000, warmup_steps=1000, num_chains=4)
        mcmc.run(data)
        idata = mcmc.to_inference_data()

    Args:
        kernel: one of `hnbayes.pyro`: NUTS, HMC or RandomWalkMetropolis.
        num_samples: draws of each chain after warm-up.
        warmup_steps: transitions of warm-up; None is as many as draws.
        num_chains: C.
        initial_params: site -> unconstrained tensor, with a leading dimension of C unless C is 1, as in Pyro. None
            starts by the kernel's init strategy.
        hook_fn: called as `hook_fn(kernel, params, stage, i)` after each transition of each chain, with the chain in
            `stage` ("Sample [2]").
        disable_progbar: show no progress.
        disable_validation: switch Pyro's validation off while the model is set up (True), on (False), or leave it
            (None). It is always off while chains run.
        transforms: site -> transform to the real line, for kernels with a `potential_fn`.
        save_params: the sites to keep; None keeps all.
        seed: chain c is a function of (seed, c); None draws a seed from torch's global generator (`set_rng_seed`).
        adaptation: "per-chain", or "pooled" to learn each mass matrix from the draws of all chains.
        save_warmup: keep the draws of warm-up for `to_inference_data`.
        checkpoint: a folder for the run, from which `resume` goes on should it be stopped; see docs/resume.md.
        checkpoint_every: seconds between checkpoints.
        storage: "zarr" writes the unconstrained draws to `posterior.zarr` in that folder too, while the run goes on.

    Attributes:
        draws: after `run`, the unconstrained `hnbayes.Draws`.

    Raises:
        TypeError: if the kernel is not one of ours.
        ValueError: if initial parameters are missing for a `potential_fn`, or not one for each chain; or storage is
            given without checkpoint.

    Example:
        >>> import pyro
        >>> def model(y):
        ...     mu = pyro.sample("mu", pyro.distributions.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", pyro.distributions.Normal(mu, 1.0), obs=y)
        >>> mcmc = hnbayes.pyro.VectorizedMCMC(
        ...     hnbayes.pyro.NUTS(model), num_samples=20, warmup_steps=20, num_chains=3, seed=0, disable_progbar=True
        ... )
        >>> mcmc.run(torch.ones(10))
        >>> mcmc.get_samples(group_by_chain=True)["mu"].shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        kernel: SiteKernel,
        num_samples: int,
        warmup_steps: int | None = None,
        num_chains: int = 4,
        *,
        initial_params: Mapping[str, Tensor] | None = None,
        hook_fn: Hook | None = None,
        disable_progbar: bool = False,
        disable_validation: bool | None = True,
        transforms: Mapping[str, Any] | None = None,
        save_params: Sequence[str] | None = None,
        seed: int | None = None,
        adaptation: Literal["per-chain", "pooled"] = "per-chain",
        save_warmup: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        storage: Literal["zarr"] | None = None,
    ) -> None:
        if not isinstance(kernel, SiteKernel):
            raise TypeError(
                f"kernel must be a kernel of hnbayes.pyro; received {describe(kernel)}. Import NUTS or HMC from "
                "hnbayes.pyro, with the same arguments."
            )
        super().__init__(
            kernel, check_count("num_chains", num_chains), None if transforms is None else dict(transforms)
        )
        self.transforms: Any
        self.num_samples = check_count("num_samples", num_samples)
        self.warmup_steps = num_samples if warmup_steps is None else check_count("warmup_steps", warmup_steps, 0)
        self.disable_progbar = disable_progbar
        self.disable_validation = disable_validation
        self.seed = seed
        self.draws: Draws | None = None
        self._hook = hook_fn
        self._adaptation = check_choice("adaptation", adaptation, ("per-chain", "pooled"))
        self._save_warmup = save_warmup
        self._folder = None if checkpoint is None else folder_of(checkpoint)
        self._every = check_interval(checkpoint_every)
        self._storage = check_storage(storage, checkpoint)
        if save_params is not None:
            kernel.save_params = list(save_params)
        self._initial_params = self._one_a_chain(initial_params or {})
        if kernel.model is None:
            kernel.build_potential((), {}, self._shapes())  # says what is missing, before anything is run
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._samples: dict[str, Tensor] = {}
        self._potential: Potential | None = None
        self._device = torch.device("cpu")

    @poutine.block  # type: ignore[untyped-decorator]
    def run(self, *args: Any, **kwargs: Any) -> None:
        """Sample.

        Args:
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.
        """
        seed = resolve_seed(self.seed)
        with self._validation():
            U, kept = self._built(args, kwargs)
            positions = self._positions(U, spec_of(U), seed)
        draws = sample_potential(
            U,
            positions,
            **engine_options(self.kernel.settings()),
            warmup=self.warmup_steps,
            draws=self.num_samples,
            seed=seed,
            progress=not self.disable_progbar,
            save_warmup=self._save_warmup,
            callbacks=self._callbacks(U),
            adaptation=self._adaptation,
            checkpoint=self._folder,
            checkpoint_every=self._every,
            storage=self._storage,
        )
        self._keep(U, kept, draws, positions.device)

    @poutine.block  # type: ignore[untyped-decorator]
    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Go on with a run that was stopped, from its `checkpoint` folder, as if it had not been: bit for bit.

        Make kernel and `VectorizedMCMC` as for the run and call this in place of `run`. A run that is complete is read;
        with more `num_samples` than it has, the others are added.

        Args:
            *args: the model's arguments, those of the run.
            **kwargs: its keyword arguments, likewise.

        Raises:
            ValueError: if there is no run or no undamaged checkpoint in the folder, or it is one of another kernel,
                other options, or another model or data.
        """
        if self._folder is None:
            raise ValueError("resume needs the folder of a run; received none. Give VectorizedMCMC checkpoint=...")
        own = {"num_chains": self.num_chains, "warmup_steps": self.warmup_steps, "seed": self.seed}
        own |= {"adaptation": self._adaptation, "save_warmup": self._save_warmup}
        check_options(self._folder, engine_options(self.kernel.settings()), own)
        with self._validation():
            U, kept = self._built(args, kwargs)
        draws = resume_potential(
            self._folder,
            U,
            draws=self.num_samples,
            checkpoint_every=self._every,
            progress=not self.disable_progbar,
            callbacks=self._callbacks(U),
        )
        self._keep(U, kept, draws, device_of_run(self._folder))

    def get_samples(self, num_samples: int | None = None, group_by_chain: bool = False) -> dict[str, Tensor]:
        """The draws on the sites' own scales.

        Args:
            num_samples: draw so many of them, with replacement; None gives all in order.
            group_by_chain: keep the chains apart: (C, S, ...) instead of (C * S, ...).
        """
        self._finished()
        samples: dict[str, Tensor] = select_samples(self._samples, num_samples, group_by_chain)
        return samples

    def diagnostics(self) -> dict[str, Any]:
        """Effective sample sizes and R-hat of each site, and of each chain what its kernel reports, as in Pyro."""
        chains = self._reports()
        result: dict[str, Any] = dict(diagnostics(self._samples))
        for name in chains[0]:
            result[name] = {f"chain {c}": chain[name] for c, chain in enumerate(chains)}
        return result

    def summary(self, prob: float = 0.9) -> None:
        """Print a table of the draws, as Pyro's MCMC does.

        Args:
            prob: probability mass of the credible intervals.
        """
        divergences = sum(len(chain["divergences"]) for chain in self._reports())
        print_summary(self._samples, prob=prob)
        print(f"Number of divergences: {divergences}")

    def all_sites(self) -> dict[str, Tensor]:
        """The draws of all sites on their own scales, also of those that `save_params` leaves out: (C, S, *shape)."""
        return self._constrained(self._finished()[0].positions)

    def warmup_sites(self) -> dict[str, Tensor] | None:
        """The same of the warm-up, if it was kept."""
        positions = self._finished()[0].warmup_positions
        return None if positions is None else self._constrained(positions)

    def to_draws(self) -> Draws:
        """The kept sites on their own scales as `Draws`, what `hnbayes.to_inference_data` takes."""
        draws, _ = self._finished()
        spec = ParamSpec(tuple(self._samples), tuple(tuple(value.shape[2:]) for value in self._samples.values()))
        values = self.warmup_sites()
        warmup = None if values is None else spec.flatten({name: values[name] for name in self._samples}).cpu()
        positions = spec.flatten(self._samples).cpu()
        return dataclasses.replace(
            draws, positions=positions, spec=spec, warmup_positions=warmup, ragged_positions=None
        )

    def to_inference_data(self, **kwargs: Any) -> Any:
        """All that ArviZ can use of the run; see `hnbayes.pyro.to_inference_data` for the arguments."""
        from hnbayes.pyro.inference_data import to_inference_data

        return to_inference_data(self, **kwargs)

    def _validation(self) -> AbstractContextManager[Any]:
        """Pyro's validation, as it is to be while the model is set up."""
        on = pyro.validation_enabled(not self.disable_validation)
        context: AbstractContextManager[Any] = optional(on, self.disable_validation is not None)
        return context

    def _built(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Potential, Sequence[str]]:
        """The potential of the model with its arguments, and the sites to keep."""
        self._args, self._kwargs = args, kwargs
        U = self.kernel.build_potential(args, kwargs, self._shapes())
        return U, self.kernel.kept_sites(spec_of(U))

    def _callbacks(self, U: Potential) -> list[Callable[[Event], None]]:
        return [] if self._hook is None else [self._tell_hook(self._hook, spec_of(U))]

    def _keep(self, U: Potential, kept: Sequence[str], draws: Draws, device: torch.device) -> None:
        """Keep what was sampled."""
        if isinstance(U, ModelPotential):
            self.transforms = self.kernel.transforms = U.transforms
        elif self.transforms is None:
            self.transforms = self.kernel.transforms or {}
        self.draws, self._potential, self._device = draws, U, device
        values = self._constrained(draws.positions)
        self._samples = {name: values[name] for name in kept}

    def _constrained(self, positions: Tensor) -> dict[str, Tensor]:
        _, potential = self._finished()
        return constrain(spec_of(potential), self.transforms, positions.to(self._device))

    def _finished(self) -> tuple[Draws, Potential]:
        if self.draws is None or self._potential is None:
            raise RuntimeError("there are no draws yet; call run(...) first.")
        return self.draws, self._potential

    def _reports(self) -> list[dict[str, Any]]:
        draws, _ = self._finished()
        return [
            report({name: values[c].numpy() for name, values in draws.stats.items()}, float(draws.step_size[c]))
            for c in range(draws.chains)
        ]

    def _one_a_chain(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Initial parameters with a leading dimension of C."""
        if self.num_chains == 1:
            return {name: value[None] for name, value in params.items()}
        for name, value in params.items():
            if value.ndim == 0 or len(value) != self.num_chains:
                raise ValueError(
                    f"initial_params must have a leading dimension of num_chains = {self.num_chains}; received shape "
                    f"{tuple(value.shape)} for {name!r}. Stack one value for each chain."
                )
        return dict(params)

    def _shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the sites in the initial parameters, if there are any."""
        return {name: tuple(value.shape[1:]) for name, value in self._initial_params.items()} or None

    def _positions(self, U: Potential, spec: ParamSpec, seed: int) -> Tensor:
        """Where the chains start, (C, D)."""
        if self._initial_params:
            positions = spec.flatten(self._initial_params).detach()
        elif isinstance(U, ModelPotential):
            positions = U.initial_positions(self.num_chains, seed)
        else:
            raise ValueError("a kernel with a potential_fn needs initial_params; received none.")
        if isinstance(U, ModelPotential) and not self.kernel.transition().uses_gradient:
            checks.check_repeatable(U.function, positions[0])
        return positions

    def _tell_hook(self, hook: Hook, spec: ParamSpec) -> Callable[[Event], None]:
        """A callback of the engine that calls the hook for each chain."""

        def tell(event: Event) -> None:
            for row, chain in enumerate(event.chains):
                params = spec.unflatten(torch.tensor(event.positions[row]))
                done = int(event.done[row]) - 1
                warm = done < event.warmup
                stage = f"{'Warmup' if warm else 'Sample'} [{chain}]"
                hook(self.kernel, params, stage, done if warm else done - event.warmup)

        return tell
