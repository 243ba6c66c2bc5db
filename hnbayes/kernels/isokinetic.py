r"""Isokinetic dynamics: positions move at unit speed, and the potential turns the direction.

\(\dot z = u\), \(\dot u = -(I - u u^T) \nabla U(z) / (d - 1)\), on axes z on which the metric is the identity
(\(q = M^{-1/2} z\)); Robnik et al. (2023). The flow keeps the density \(e^{-U(z)}\), with u uniform on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.kernel import State, column, draw_normal, evaluate


@dataclass(frozen=True)
class Splitting:
    r"""A symmetric splitting B A B ... A B, where A moves positions and B turns directions.

    Attributes:
        turns: shares of the step size of each B; the first and the last are alike.
        moves: of each A, one fewer. Each A is followed by one evaluation of the gradient.
    """

    turns: tuple[float, ...]
    moves: tuple[float, ...]


# McLachlan (1995): of the splittings with two gradients a step, the one of the smallest error's norm.
SHARE = 0.1931833275037836
SPLITTINGS = {
    "leapfrog": Splitting((0.5, 0.5), (1.0,)),
    "mclachlan": Splitting((SHARE, 1 - 2 * SHARE, SHARE), (0.5, 0.5)),
}


def normalised(state: State, u: Array) -> Array:
    """Directions (R, D) of length 1."""
    length = np.sqrt(state.vectors.rowdot(u, u).astype(np.float64))
    return u / column(state, np.where(length > 0, length, 1.0))


def random_direction(state: State, rows: Host) -> Array:
    """Uniform directions (R, D) from the rows' own streams."""
    return normalised(state, draw_normal(state, rows))


def turn(state: State, u: Array, gradient: Array, share: Host) -> tuple[Array, Host]:
    r"""B: the exact flow of the direction under a constant gradient, for every chain.

    With \(e = -\nabla U / |\nabla U|\), \(\delta = \epsilon |\nabla U| / (d - 1)\) and \(\zeta = e^{-\delta}\):
    \(u' \propto e (1 - \zeta)(1 + \zeta + (e \cdot u)(1 - \zeta)) + 2 \zeta u\), and the kinetic energy changes by
    \((d - 1) (\delta - \log 2 + \log(1 + e \cdot u + (1 - e \cdot u) \zeta^2))\). No exponential can overflow.

    Args:
        state: for the metric.
        u: directions (C, D).
        gradient: of U with respect to q, (C, D).
        share: step sizes \(\epsilon\), (C,).

    Returns:
        The new directions, and the changes of the kinetic energy (C,).
    """
    others = u.shape[1] - 1
    force = state.metric.pullback(gradient)
    size = np.sqrt(state.vectors.rowdot(force, force).astype(np.float64))
    safe = np.where(size > 0, size, 1.0)
    cosine = np.clip(-state.vectors.rowdot(force, u).astype(np.float64) / safe, -1.0, 1.0)
    delta = share * size / others
    zeta = np.exp(-delta)
    towards = -(1 - zeta) * (1 + zeta + cosine * (1 - zeta)) / safe
    turned = normalised(state, column(state, towards) * force + column(state, 2 * zeta) * u)
    # 1 + e.u + (1 - e.u) zeta^2, without the cancellation where e.u is -1 and zeta near 1.
    kinetic = others * (delta + np.log1p(-0.5 * (1 - cosine) * -np.expm1(-2 * delta)))
    return turned, kinetic


def move(state: State, q: Array, u: Array, share: Host) -> Array:
    """A: positions after time `share` in the direction u."""
    return q + column(state, share) * state.metric.displacement(u)


def refresh(state: State, u: Array, rows: Host, time: Host, length: Host) -> Array:
    r"""Directions that forget where they pointed within about `length`.

    \(u' = (u + \nu z) / |u + \nu z|\), \(z \sim N(0, I)\), \(\nu = \sqrt{(e^{2 \epsilon / L} - 1) / d}\).

    Args:
        state: for the streams.
        u: directions (R, D).
        rows: which chains.
        time: \(\epsilon\), since the last refreshment, (R,).
        length: L, (R,).
    """
    noise = np.sqrt(np.expm1(np.minimum(2 * time / length, 50.0)) / u.shape[1])
    return normalised(state, u + column(state, noise) * draw_normal(state, rows))


def whole_step(state: State, splitting: Splitting, u: Array, step: Host) -> tuple[Array, Array, Host, Array, Host]:
    """One step of every chain from its last draw, for what needs no path.

    Args:
        state: not changed.
        splitting: the integrator.
        u: directions (C, D).
        step: step sizes (C,).

    Returns:
        Position, direction, U, its gradient, and the change of the total energy.
    """
    q, gradient, energy = state.position, state.gradient, state.energy
    u, change = turn(state, u, gradient, splitting.turns[0] * step)
    for share, next_turn in zip(splitting.moves, splitting.turns[1:], strict=True):
        q = move(state, q, u, share * step)
        energy, gradient = evaluate(state, q)
        u, kinetic = turn(state, u, gradient, next_turn * step)
        change = change + kinetic
    return q, u, energy, gradient, change + energy - state.energy


def search(state: State, splitting: Splitting, target: float, first: Host, tries: int = 12) -> Host:
    """Step sizes at which the squared energy error of one step is about `target` times D, (C,).

    From the error's growth with the third power of the step size (both splittings are of second order).
    """
    step, dimension = first.copy(), state.position.shape[1]
    everyone = state.rows
    for _ in range(tries):
        error = whole_step(state, splitting, random_direction(state, everyone), step)[-1]
        ratio = np.where(np.isfinite(error), error * error, np.inf) / (dimension * target)
        step = step * np.clip((ratio + 1e-8) ** (-1.0 / 6.0), 0.1, 4.0)
    return step
