"""Potentials over named tensors: a `potential_fn` of Pyro's kernels as a native one, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.ops.integrator import _EXCEPTION_HANDLERS
from torch import Tensor

from hnbayes._checks import describe
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode, OnError, Potential, check_positions
from hnbayes.rng import resolve_seed

PotentialFn = Callable[[dict[str, Tensor]], Tensor]


class FlatFunction:
    """U of a flat position from a function of named tensors; picklable where that function is.

    Args:
        function: U of {site: tensor}.
        spec: the sites and their unconstrained shapes.
    """

    def __init__(self, function: PotentialFn, spec: ParamSpec) -> None:
        self.function = function
        self.spec = spec

    def __call__(self, position: Tensor) -> Tensor:
        """U at a position (D,)."""
        # Checks of arguments look at values, which the vectorised gradient doesn't have.
        with pyro.validation_enabled(False):
            return self.function(self.spec.unflatten(position))


class SitePotential(Potential):
    """A potential over named sites, with Pyro's treatment of numerical errors.

    Args:
        function: U of {site: unconstrained tensor}, afterwards the attribute `potential_fn`.
        spec: the sites and their shapes.
        compile, on_error: see `Potential`.
    """

    spec: ParamSpec

    def __init__(
        self, function: PotentialFn, spec: ParamSpec, *, compile: CompileMode = "auto", on_error: OnError = "diverge"
    ) -> None:
        super().__init__(FlatFunction(function, spec), spec=spec, compile=compile, on_error=on_error)

        self.potential_fn = function

    def _refuse(self, error: Exception) -> None:
        """Errors that are registered with Pyro (singular matrices) reject a proposal without a word, as in Pyro."""
        if not any(handles(error) for handles in _EXCEPTION_HANDLERS.values()):
            super()._refuse(error)


class NamedFunction:
    """A native potential as Pyro's kernels want one: a function of {name: tensor}. Picklable where the potential is.

    Args:
        potential: U.
        spec: names and shapes of what its position is made of.
    """

    def __init__(self, potential: Potential, spec: ParamSpec) -> None:
        self.potential = potential
        self.spec = spec

    def __call__(self, params: Mapping[str, Tensor]) -> Tensor:
        """U at named tensors."""
        return self.potential(self.spec.flatten(params))


def as_potential_fn(
    potential: Potential, positions: Tensor | None = None, *, seed: int | None = None
) -> tuple[NamedFunction, dict[str, Tensor]]:
    """A native potential for the kernels of Pyro, and for ours.

        potential_fn, initial_params = hnbayes.pyro.as_potential_fn(nn_pot_energy(net, X, y, prior))
        MCMC(NUTS(potential_fn=potential_fn), num_samples=500, initial_params=initial_params).run()

    Args:
        potential: U, such as `nn_pot_energy` gives.
        positions: where to start, (D,) for one chain or (C, D) for C; None draws one position uniformly from (-2, 2).
        seed: for that draw; None draws one from torch's generator.

    Returns:
        The function, and the positions as {name: tensor}.

    Raises:
        TypeError, ValueError: if it is no `Potential`, its parameters are not known (no `spec`) and no positions are
            given, or the positions don't fit.

    Example:
        >>> net, X = torch.nn.Linear(1, 1), torch.randn(10, 1)
        >>> U = hnbayes.nn_pot_energy(net, X, X, hnbayes.log_prob_standard_normal_prior)
        >>> potential_fn, initial_params = hnbayes.pyro.as_potential_fn(U, seed=0)
        >>> {name: tuple(value.shape) for name, value in initial_params.items()}
        {'weight': (1, 1), 'bias': (1,)}
        >>> potential_fn(initial_params).shape
        torch.Size([])
    """
    if not isinstance(potential, Potential):
        raise TypeError(f"potential must be an hnbayes.Potential; received {describe(potential)}. Wrap it as one.")
    if positions is None:
        if potential.spec is None:
            raise ValueError("positions are needed where the potential has no spec; received none. Pass a start (D,).")
        generator = torch.Generator().manual_seed(resolve_seed(seed))
        positions = torch.rand(potential.spec.size, generator=generator) * 4 - 2
    check_positions(positions[None] if positions.ndim == 1 else positions, potential.spec)
    spec = potential.spec or ParamSpec(("position",), ((positions.shape[-1],),))
    return NamedFunction(potential, spec), {name: part.clone() for name, part in spec.unflatten(positions).items()}


def from_potential_fn(potential_fn: PotentialFn, shapes: Mapping[str, tuple[int, ...]]) -> Potential:
    """The native potential of a function as Pyro's kernels take it; what `as_potential_fn` wrapped is unwrapped."""
    if isinstance(potential_fn, NamedFunction) and potential_fn.potential.spec is not None:
        return potential_fn.potential
    names = sorted(shapes)
    return SitePotential(potential_fn, ParamSpec(tuple(names), tuple(shapes[name] for name in names)))


def spec_of(potential: Potential) -> ParamSpec:
    """The spec of a potential that must have one.

    Raises:
        ValueError: if it has none.
    """
    if potential.spec is None:
        raise ValueError(
            "the potential must know its sites; received one without a spec. Give Potential(..., spec=...)."
        )
    return potential.spec


def constrain(spec: ParamSpec, transforms: Mapping[str, Any], positions: Tensor) -> dict[str, Tensor]:
    """Unconstrained positions `(*batch, D)` on the sites' own scales; sites without a transform stay as they are."""
    values = spec.unflatten(positions)
    return {name: transforms[name].inv(value) if name in transforms else value for name, value in values.items()}
