"""The leapfrog integrator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hnbayes._checks import check_count, describe
from hnbayes.kernels.arrays import DeviceVectors
from hnbayes.kernels.metrics import as_metric
from hnbayes.potentials.sequential import check_scalar

# Arrays are NumPy arrays or tensors; each function uses one kind throughout.
Array = Any


def leapfrog_step(
    q: Array,
    p: Array,
    gradient: Array,
    step: Array,
    velocity: Callable[[Array], Array],
    value_and_grad: Callable[[Array], tuple[Any, Array]],
) -> tuple[Array, Array, Any, Array]:
    r"""One leapfrog step with one gradient evaluation (Neal 2011, eq. 2.28-2.30).

    \(p_{1/2} = p - \frac{\epsilon}{2} \nabla U(q)\), \(q' = q + \epsilon M^{-1} p_{1/2}\),
    \(p' = p_{1/2} - \frac{\epsilon}{2} \nabla U(q')\).

    Args:
        q: positions (C, D).
        p: momenta (C, D).
        gradient: the gradient of U at q, (C, D), known from the step before.
        step: \(\epsilon\), signed; a number or (C, 1).
        velocity: p -> M^-1 p.
        value_and_grad: q -> (U, gradient of U).

    Returns:
        q', p', U(q') and the gradient at q'.
    """
    half = 0.5 * step
    p = p - half * gradient
    q = q + step * velocity(p)
    value, gradient = value_and_grad(q)
    p = p - half * gradient
    return q, p, value, gradient


def leapfrog(
    position: Tensor,
    momentum: Tensor,
    stepsize: float,
    num_steps: int,
    inv_mass: float | Tensor,
    pot_energy: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    r"""Simulate Hamiltonian dynamics for L leapfrog steps of size \(\epsilon\) (Neal 2011, section 2.3).

    It takes L + 1 gradients, is reversible (flip the momentum to go back) and preserves volume. The arguments are
    left unchanged; gradients flow through it where they are asked for.

    Args:
        position: q, shape (D,).
        momentum: p, shape (D,).
        stepsize: \(\epsilon\); a negative one goes back in time.
        num_steps: L, at least 1.
        inv_mass: \(M^{-1}\): a number, a 0-dimensional tensor, (D,) for a diagonal or (D, D).
        pot_energy: U, from (D,) to a scalar, differentiable by torch.

    Returns:
        The new position and momentum, shape (D,) each.

    Raises:
        TypeError: if positions are no tensors, or `num_steps` is no integer.
        ValueError: if shapes don't fit, U is not a scalar, or the inverse mass isn't positive definite.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> q, p = torch.tensor([1.0]), torch.tensor([0.0])
        >>> q1, p1 = hnbayes.kernels.leapfrog(q, p, 0.1, 10, 1.0, U)  # about cos 1, -sin 1
        >>> back, _ = hnbayes.kernels.leapfrog(q1, -p1, 0.1, 10, 1.0, U)
        >>> torch.allclose(back, q, atol=1e-5)
        True
    """
    for name, tensor in (("position", position), ("momentum", momentum)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor of shape (D,); received {describe(tensor)}.")
        if tensor.ndim != 1 or tensor.shape != position.shape:
            raise ValueError(f"{name} must have shape (D,), as the position; received {tuple(tensor.shape)}.")
    check_count("num_steps", num_steps)
    metric = as_metric(inv_mass, len(position), DeviceVectors(position.dtype, position.device))
    scalar_gradient = torch.func.grad_and_value(lambda q: check_scalar(pot_energy(q)))

    def value_and_grad(q: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = scalar_gradient(q[0])
        return value, gradient[None]

    q, p = position[None], momentum[None]
    _, gradient = value_and_grad(q)
    for _ in range(num_steps):
        q, p, _, gradient = leapfrog_step(q, p, gradient, stepsize, metric.velocity, value_and_grad)
    return q[0], p[0]
