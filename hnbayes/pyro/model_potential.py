"""The potential energy of a Pyro model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.infer.mcmc.util import initialize_model
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from hnbayes._checks import check_count, describe
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode, OnError, check_positions
from hnbayes.pyro import checks
from hnbayes.pyro.potentials import PotentialFn, SitePotential, constrain
from hnbayes.rng import resolve_seed


class NoLatentSiteError(ValueError):
    """A model has no continuous latent site to be sampled.

    Args:
        trace: of a run of the model.

    Attributes:
        collapsed: whether that is so because `collapse_conjugate` has integrated latent sites out.
    """

    def __init__(self, trace: Any) -> None:
        sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
        self.collapsed = any(getattr(site["fn"], "parent", None) is not None for site in sites)
        super().__init__(
            "a model must have at least one continuous latent site to be sampled; received one whose sites are all "
            "observed or discrete. Use pyro.infer.infer_discrete for discrete sites alone."
        )


class ModelPotential(SitePotential):
    """The potential of a Pyro model on its unconstrained continuous sites.

    Attributes:
        spec: the sites, sorted, and their unconstrained shapes.
        transforms: site -> transform from its support to the real line, as Pyro's kernels have them.
        sites: what a run of the model records of the sites (a Pyro trace).

    What the model computes of its data alone is computed once, when it is first evaluated.

    Example:
        >>> import pyro
        >>> U = hnbayes.pyro.ModelPotential(lambda: pyro.sample("x", pyro.distributions.Exponential(1.0)))
        >>> U.spec.names
        ('x',)
        >>> U.constrain(torch.zeros(1))["x"]  # exp(0)
        tensor(1.)
    """

    fold_data = True

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        init_strategy: Callable[..., Any] = init_to_uniform,
        max_plate_nesting: int | None = None,
        transforms: Mapping[str, Any] | None = None,
        compile: CompileMode = "auto",
        on_error: OnError = "diverge",
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be a callable with Pyro primitives; received {describe(model)}.")
        self._model = checks.SameSites(model)
        self._args, self._kwargs = args, dict(kwargs or {})
        self._options = {"init_strategy": init_strategy, "max_plate_nesting": max_plate_nesting}
        self._given_transforms = transforms
        # Two runs, with different values, tell what of the model is fixed. An empty start skips the search for one.
        with own_randomness(0), checks.refusing_training_mode():
            _, potential_fn, self.transforms, self.sites = self._initialize(initial_params={})
            _, _, _, other = self._initialize(initial_params={})
        shapes = {
            name: tuple(self.transforms[name](site["value"]).shape)
            for name, site in self.sites.iter_stochastic_nodes()
            if not isinstance(site["fn"], _Subsample) and not site["fn"].has_enumerate_support
        }
        if not shapes:
            raise NoLatentSiteError(self.sites)
        if not any(site["fn"].has_enumerate_support for _, site in self.sites.iter_stochastic_nodes()):
            # The handler that sums out discrete sites has nothing to do, and asks for what vmap doesn't have.
            maker: Any = getattr(potential_fn, "__self__", None)
            maker.model = self._model
        names = sorted(shapes)
        checks.check_same_supports(self.sites, other, names)
        spec = ParamSpec(tuple(names), tuple(shapes[name] for name in names))
        super().__init__(potential_fn, spec, compile=compile, on_error=on_error)

    def prepare(self, positions: Tensor, evaluations: int | None = None) -> str:
        """See `Potential.prepare`; it also checks that the model gives one density at one position."""
        check_positions(positions, self.spec)
        checks.check_repeatable(self.function, positions[0].detach())
        return super().prepare(positions, evaluations)

    def initial_positions(self, chains: int, seed: int | None = None) -> Tensor:
        """Where chains may start, by the init strategy; torch's global random state is left as it is.

        Args:
            chains: C.
            seed: chain c starts where (seed, c) says; None draws a seed from torch's generator.

        Returns:
            Unconstrained positions (C, D) of finite density.

        Raises:
            ValueError: if no position of finite density was found.
        """
        check_count("chains", chains)
        seed = resolve_seed(seed)
        return torch.stack([self._start(np.random.SeedSequence(seed, spawn_key=(c, 0))) for c in range(chains)])

    def constrain(self, positions: Tensor) -> dict[str, Tensor]:
        """Positions on the sites' own scales.

        Args:
            positions: unconstrained, `(*batch, D)`.

        Returns:
            Site -> tensor of shape `(*batch, *shape of the site)`.
        """
        return constrain(self.spec, self.transforms, positions)

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `constrain`.

        Args:
            values: site -> tensor of shape `(*batch, *shape of the site)`.

        Returns:
            Unconstrained positions, `(*batch, D)`.
        """
        if set(values) != set(self.spec.names):
            raise ValueError(f"values must be of the sites {', '.join(self.spec.names)}; received {sorted(values)}.")
        return self.spec.flatten({name: self.transforms[name](value) for name, value in values.items()})

    def _initialize(self, **options: Any) -> tuple[Any, PotentialFn, dict[str, Any], Any]:
        given = None if self._given_transforms is None else dict(self._given_transforms)
        result: tuple[Any, PotentialFn, dict[str, Any], Any] = initialize_model(
            self._model, self._args, self._kwargs, transforms=given, **self._options, **options
        )
        return result

    def _start(self, sequence: np.random.SeedSequence) -> Tensor:
        with own_randomness(int(sequence.generate_state(1)[0])):
            try:
                params = self._initialize()[0]
            except ValueError as error:
                if "valid initial params" not in str(error):
                    raise
                with pyro.validation_enabled(False):
                    reason = checks.explain_no_start(self._model, self._args, self._kwargs)
                raise ValueError(reason) from error
        return self.spec.flatten({name: params[name].detach() for name in self.spec.names})


def potential(
    model: Callable[..., Any],
    *args: Any,
    init_strategy: Callable[..., Any] = init_to_uniform,
    max_plate_nesting: int | None = None,
    transforms: Mapping[str, Any] | None = None,
    compile: CompileMode = "auto",
    on_error: OnError = "diverge",
    **kwargs: Any,
) -> ModelPotential:
    """The potential energy of a Pyro model, to be sampled with `hnbayes.sample_potential`.

    U(q) = -log p(sites, observations) - log |Jacobian|, of the model's continuous latent sites on the real line, as
    Pyro's own kernels define it; discrete latent sites are summed out.

        U = hnbayes.pyro.potential(model, data)
        draws = hnbayes.sample_potential(U, U.initial_positions(chains=4, seed=0))
        U.constrain(draws.positions)["sigma"]

    Args:
        model: a callable with Pyro primitives.
        *args: its arguments.
        init_strategy: where `initial_positions` looks, one of `pyro.infer.autoguide.initialization`.
        max_plate_nesting: how deep plates are nested; needed for some models with discrete latent sites.
        transforms: site -> transform from its support to the real line, for all sites; None takes Pyro's.
        compile: see `Potential`.
        on_error: see `Potential`.
        **kwargs: the model's keyword arguments.

    Raises:
        ValueError: if no site is continuous and latent, or a network in the model is in training mode with dropout
            or batch normalisation.
        ModelError: if sites, shapes or supports change from one run of the model to the next.

    Example:
        >>> import pyro
        >>> def model(y):
        ...     scale = pyro.sample("scale", pyro.distributions.HalfNormal(1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", pyro.distributions.Normal(0.0, scale), obs=y)
        >>> U = hnbayes.pyro.potential(model, torch.ones(10))
        >>> starts = U.initial_positions(chains=2, seed=0)
        >>> draws = hnbayes.sample_potential(U, starts, warmup=20, draws=20, seed=0, progress=False)
        >>> bool((U.constrain(draws.positions)["scale"] > 0).all())
        True
    """
    return ModelPotential(
        model,
        args,
        kwargs,
        init_strategy=init_strategy,
        max_plate_nesting=max_plate_nesting,
        transforms=transforms,
        compile=compile,
        on_error=on_error,
    )


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Torch's generators seeded, and put back as they were at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        # Not torch.manual_seed, which would also seed a GPU that has yet to be initialised, for good.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
