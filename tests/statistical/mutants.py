"""Samplers and models that are wrong on purpose: the real ones with one line changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from problems import DESIGN, JOINTS, Joint
from torch import Tensor

from hnbayes.kernels import MAMCLMC, NUTS, hmc, mclmc, metropolis, microcanonical, nuts
from hnbayes.kernels.isokinetic import Splitting
from hnbayes.kernels.kernel import evaluate, kinetic
from hnbayes.kernels.metropolis import log_acceptance

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """A change to the real kernels.

    Attributes:
        name: what is wrong.
        family: of the samplers that it spoils.
        apply: makes the change.
        stretch: of the step size, so that what is wrong about energies shows.
        by: the tests that have to see it. Geweke's sees single transitions, each a run of its own, and few of them; an
            error that an easy target hardly shows is left to the other two. Warm-up hides many a wrong acceptance by
            short steps, so adapted moments are asked about one mutant of each family.
    """

    name: str
    family: str
    apply: Callable[[Patch], None]
    stretch: float = 1.0
    by: tuple[str, ...] = ("invariance", "ranks", "Geweke")


def _accept_all(module: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(module, "log_acceptance", lambda start, end: np.zeros_like(end))


def _weak_acceptance(module: object, power: float = 0.5) -> Callable[[Patch], None]:
    """A root of the acceptance probability."""
    return lambda patch: patch.setattr(module, "log_acceptance", lambda start, end: power * log_acceptance(start, end))


def _drift(patch: Patch) -> None:
    """Proposals that lean to one side, accepted as if they didn't."""
    real = metropolis.draw_normal
    patch.setattr(metropolis, "draw_normal", lambda state, rows: real(state, rows) + 0.3)


def _stale(module: object) -> Callable[[Patch], None]:
    """The second half kick takes the gradient from before the move."""

    def integrate(state, path, step):
        path.p -= step * path.gradient
        path.q += step * state.metric.velocity(path.p + 0.5 * step * path.gradient)
        energy, path.gradient = evaluate(state, path.q)
        return energy

    return lambda patch: patch.setattr(module, "integrate", integrate)


def _light_kinetic(module: object) -> Callable[[Patch], None]:
    """Half the kinetic energy."""

    def light(state, p, rows=None, velocity=None):
        return 0.5 * kinetic(state, p, rows, velocity)

    return lambda patch: patch.setattr(module, "kinetic", light)


def _same_momentum(module: object) -> Callable[[Patch], None]:
    """Momentum is drawn at a chain's first transition and never again."""

    def apply(patch: Patch) -> None:
        real, kept = module.draw_normal, {}

        def draw(state, rows):
            fresh = real(state, rows)
            for place, row in enumerate(rows.tolist()):
                # A chain's stream goes with it to smaller batches.
                key = id(state.streams[row])
                kept.setdefault(key, (state.streams[row], fresh[place].copy()))
                fresh[place] = kept[key][1]
            return fresh

        patch.setattr(module, "draw_normal", draw)

    return apply


def _forwards(patch: Patch) -> None:
    """Trees grow to where the first coordinate increases."""
    patch.setattr(NUTS, "_direction", lambda self, state, rows: (state.path.end_p[rows, 1, 0] > 0).astype(np.int64))


def _newest_subtree(patch: Patch) -> None:
    patch.setattr(NUTS, "_choose_subtree", lambda self, state, rows, log_probability: np.ones(len(rows), bool))


def _newest_leaf(patch: Patch) -> None:
    patch.setattr(NUTS, "_choose_leaf", lambda self, state, log_probability: np.ones(state.chains, bool))


def _keep_invalid(patch: Patch) -> None:
    """A subtree that has turned is merged all the same."""
    real = NUTS._check_subtrees

    def check(self, state):
        turning = real(self, state)
        if turning.any():
            depth = state.path.depth.copy()
            saved = state.path.saturated.copy()
            NUTS._merge(self, state, np.flatnonzero(turning))
            state.path.depth[:], state.path.saturated[:] = depth, saved
        return turning

    patch.setattr(NUTS, "_check_subtrees", check)


def _no_kinetic(patch: Patch) -> None:
    """Turns of a direction leave the kinetic energy alone."""
    real = microcanonical.turn

    def turn(state, u, gradient, share):
        turned, kinetic_change = real(state, u, gradient, share)
        return turned, np.zeros_like(kinetic_change)

    patch.setattr(microcanonical, "turn", turn)


def _downhill(patch: Patch) -> None:
    """Trajectories set out to where U falls, from which there is no way back."""
    real = MAMCLMC._aim

    def aim(self, state, rows):
        real(self, state, rows)
        uphill = (state.path.u[rows] * state.path.gradient[rows]).sum(1) > 0
        state.path.u[rows[uphill]] *= -1

    patch.setattr(MAMCLMC, "_aim", aim)


def _lopsided(patch: Patch) -> None:
    """Steps that turn first and then move aren't their own way back."""
    patch.setitem(microcanonical.SPLITTINGS, "mclachlan", Splitting((1.0, 0.0, 0.0), (0.5, 0.5)))


def _steps_by_direction(patch: Patch) -> None:
    """Trajectories that set out to one side are longer."""
    patch.setattr(MAMCLMC, "_draw_steps", lambda self, state, rows: np.where(state.path.u[rows, 0] > 0, 4, 1))


EVERY = ("invariance", "ranks", "Geweke", "adapted moments")
BY_MOVES = ("invariance",)
NOT_GEWEKE = ("invariance", "ranks")
MUTANTS = (
    Mutant("accepts always", "metropolis", _accept_all(metropolis)),
    Mutant("root of the acceptance", "metropolis", _weak_acceptance(metropolis)),
    Mutant("drifting proposal", "metropolis", _drift, by=EVERY),
    Mutant("accepts always", "hmc", _accept_all(hmc), 1.5),
    Mutant("root of the acceptance", "hmc", _weak_acceptance(hmc), 1.5, NOT_GEWEKE),
    Mutant("stale gradient", "hmc", _stale(hmc), by=BY_MOVES),
    Mutant("half the kinetic energy", "hmc", _light_kinetic(hmc), by=EVERY),
    Mutant("momentum not refreshed", "hmc", _same_momentum(hmc), by=NOT_GEWEKE),
    Mutant("stale gradient", "nuts", _stale(nuts), by=NOT_GEWEKE),
    Mutant("half the kinetic energy", "nuts", _light_kinetic(nuts)),
    Mutant("momentum not refreshed", "nuts", _same_momentum(nuts), by=NOT_GEWEKE),
    Mutant("direction by the momentum", "nuts", _forwards, 2.0, EVERY),
    Mutant("always the newest subtree", "nuts", _newest_subtree, 2.0),
    Mutant("always the newest leaf", "nuts", _newest_leaf, 2.0, ("ranks",)),
    Mutant("keeps a turning subtree", "nuts", _keep_invalid, by=("invariance", "Geweke")),
    Mutant("accepts always", "microcanonical", _accept_all(mclmc), 1.7, EVERY),
    Mutant("fourth root of the acceptance", "microcanonical", _weak_acceptance(mclmc, 0.25), 1.7, BY_MOVES),
    Mutant("kinetic energy left out", "microcanonical", _no_kinetic),
    Mutant("sets out downhill", "microcanonical", _downhill, 0.7, BY_MOVES),
    Mutant("turns, then moves", "microcanonical", _lopsided, by=BY_MOVES),
    Mutant("steps by the direction", "microcanonical", _steps_by_direction),
)


def mutants_of(test: str) -> Any:
    """A parametrisation by those that a test has to see; NUTS's, whose runs take longest, are left to the suite."""
    seen = [
        pytest.param(m, id=f"{m.family}, {m.name}", marks=pytest.mark.slow if m.family == "nuts" else ())
        for m in MUTANTS
        if test in m.by
    ]
    return pytest.mark.parametrize("mutant", seen)


def _wrong(joint: Joint, energy: Callable[[Tensor, Tensor], Tensor]) -> Joint:
    return replace(joint, energy=energy)


def _models() -> dict[str, Joint]:
    """Models other than those that made the data."""
    regression, schools = JOINTS["regression"], JOINTS["eight schools"]

    def wide_prior(b: Tensor, y: Tensor) -> Tensor:
        return regression.energy(b, y) - 0.375 * b.square().sum()

    def loud(b: Tensor, y: Tensor) -> Tensor:
        return regression.energy(b, y) - 0.25 * ((y - DESIGN @ b) / 0.7).square().sum()

    def without_jacobian(q: Tensor, y: Tensor) -> Tensor:
        return schools.energy(q, y) + q[9]

    def wide_schools(q: Tensor, y: Tensor) -> Tensor:
        return schools.energy(q, y) - 0.375 * q[:8].square().sum()

    def forgets_data(q: Tensor, y: Tensor) -> Tensor:
        return schools.energy(q, y + 0.3 * torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=y.dtype))

    return {
        "prior sd doubled": _wrong(regression, wide_prior),
        "noise variance doubled": _wrong(regression, loud),
        "no Jacobian": _wrong(schools, without_jacobian),
        "schools' prior sd doubled": _wrong(schools, wide_schools),
        "data shifted by 0.3 sd": _wrong(schools, forgets_data),
    }


WRONG_MODELS = _models()
