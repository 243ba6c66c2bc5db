"""The leapfrog integrator is reversible, preserves volume, is of second order, and solves the harmonic oscillator."""

from __future__ import annotations

import math

import pytest
import torch
from targets import banana, standard_normal
from torch.func import grad, grad_and_value, jacrev, vmap

from hnbayes.kernels import leapfrog
from hnbayes.kernels.arrays import DeviceVectors, HostVectors
from hnbayes.kernels.integrators import leapfrog_step
from hnbayes.kernels.metrics import as_metric

pytestmark = pytest.mark.statistical
TARGET = banana([1.0, 0.8, 1.2, 1.5, 0.9], [0.3, -0.4, 0.2, 0.5])
DIAGONAL = torch.tensor([0.5, 1.0, 1.5, 2.0, 0.8], dtype=torch.float64)
DENSE = torch.diag(DIAGONAL) + 0.2
INVERSE_MASSES = {"scalar": 0.7, "diagonal": DIAGONAL, "dense": DENSE}


def steps_on_tensors(position, momentum, stepsize, num_steps, inv_mass, pot_energy):
    """`leapfrog_step` on tensors (1, D), as kernels use it on an accelerator."""
    metric = as_metric(inv_mass, len(position), DeviceVectors(position.dtype, position.device))

    def value_and_grad(q):
        return vmap(grad_and_value(pot_energy))(q)[::-1]

    q, p = position[None], momentum[None]
    _, gradient = value_and_grad(q)
    for _ in range(num_steps):
        q, p, _, gradient = leapfrog_step(q, p, gradient, stepsize, metric.velocity, value_and_grad)
    return q[0], p[0]


def steps_on_arrays(position, momentum, stepsize, num_steps, inv_mass, pot_energy):
    """`leapfrog_step` on NumPy arrays (1, D), as kernels use it on a CPU."""
    vectors = HostVectors(position.dtype)
    metric = as_metric(inv_mass, len(position), vectors)

    def value_and_grad(q):
        gradient, value = vmap(grad_and_value(pot_energy))(vectors.tensor(q))
        return value.numpy(), gradient.numpy()

    q, p = vectors.array(position[None]), vectors.array(momentum[None])
    _, gradient = value_and_grad(q)
    for _ in range(num_steps):
        q, p, _, gradient = leapfrog_step(q, p, gradient, stepsize, metric.velocity, value_and_grad)
    return vectors.tensor(q[0]), vectors.tensor(p[0])


def as_matrix(inv_mass, dimension):
    """M^-1 in full."""
    inv_mass = torch.as_tensor(inv_mass, dtype=torch.float64)
    return inv_mass if inv_mass.ndim == 2 else inv_mass.expand(dimension).diag()


def euler(position, momentum, stepsize, num_steps, inv_mass, pot_energy):
    """Mutant: both halves move at once."""
    inverse = as_matrix(inv_mass, len(position)).to(position.dtype)
    q, p = position, momentum
    for _ in range(num_steps):
        q, p = q + stepsize * inverse @ p, p - stepsize * grad(pot_energy)(q)
    return q, p


def whole_kicks(position, momentum, stepsize, num_steps, inv_mass, pot_energy):
    """Mutant: the first and last half step of the momentum are whole ones."""
    kick = 0.5 * stepsize
    p = momentum - kick * grad(pot_energy)(position)
    q, p = leapfrog(position, p, stepsize, num_steps, inv_mass, pot_energy)
    return q, p - kick * grad(pot_energy)(q)


def stale_gradient(position, momentum, stepsize, num_steps, inv_mass, pot_energy):
    """Mutant: the second half step of the momentum takes the gradient from before the move."""
    inverse = as_matrix(inv_mass, len(position)).to(position.dtype)
    q, p = position, momentum
    for _ in range(num_steps):
        p = p - stepsize * grad(pot_energy)(q)
        q = q + stepsize * inverse @ (p + 0.5 * stepsize * grad(pot_energy)(q))
    return q, p


INTEGRATORS = (leapfrog, steps_on_tensors, steps_on_arrays)
MUTANTS = (euler, whole_kicks, stale_gradient)
every_integrator = pytest.mark.parametrize("integrate", INTEGRATORS)
every_mass = pytest.mark.parametrize("inv_mass", INVERSE_MASSES.values(), ids=INVERSE_MASSES.keys())


def start(dtype=torch.float64):
    """A position and a momentum."""
    return TARGET.draw(1, 3)[0].to(dtype), standard_normal(1, 5, 4)[0].to(dtype)


def reversal_error(integrate, inv_mass, num_steps, stepsize, dtype=torch.float64):
    """How far from its start a trajectory ends that goes forth, turns round and comes back, relative to the start."""
    q, p = start(dtype)
    there = integrate(q, p, stepsize, num_steps, inv_mass, TARGET.potential)
    back = integrate(there[0], -there[1], stepsize, num_steps, inv_mass, TARGET.potential)
    return max(float((back[0] - q).abs().max() / q.abs().max()), float((back[1] + p).abs().max() / p.abs().max()))


def volume_error(integrate, inv_mass):
    """|log |det d(q', p') / d(q, p)|| over a trajectory."""

    def flow(point):
        return torch.cat(integrate(point[:5], point[5:], 0.2, 5, inv_mass, TARGET.potential))

    return abs(float(torch.linalg.slogdet(jacrev(flow)(torch.cat(start()))).logabsdet))


def order_ratio(integrate, inv_mass):
    """max |dH| at a step size over max |dH| at half of it, along one stretch of time: 4 for the second order."""

    def largest_error(stepsize, num_steps):
        inverse = as_matrix(inv_mass, 5)
        q, p = start()
        energies = []
        for _ in range(num_steps + 1):
            energies.append(float(TARGET.potential(q) + 0.5 * p @ inverse @ p))
            q, p = integrate(q, p, stepsize, 1, inv_mass, TARGET.potential)
        return max(abs(energy - energies[0]) for energy in energies)

    return largest_error(0.02, 100) / largest_error(0.01, 200)


def oscillator_errors(integrate):
    """Of q, p and H after time 1 on U = q^2 / 2 from (0, 1), whose solution is (sin t, cos t)."""
    q, p = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    q, p = integrate(q, p, 0.01, 100, 1.0, lambda q: 0.5 * q @ q)
    return abs(float(q) - math.sin(1)), abs(float(p) - math.cos(1)), abs(float(q @ q + p @ p - 1) / 2)


@every_integrator
@every_mass
@pytest.mark.parametrize("stepsize", [0.01, 0.1])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 20])
def test_reversible(integrate, inv_mass, stepsize, num_steps):
    assert reversal_error(integrate, inv_mass, num_steps, stepsize) <= 1e-12
    assert reversal_error(integrate, inv_mass, num_steps, stepsize, torch.float32) <= 1e-5


@pytest.mark.parametrize("mutant", [euler, stale_gradient])
@every_mass
def test_reversibility_rejects_mutants(mutant, inv_mass):
    assert reversal_error(mutant, inv_mass, 1, 0.01) > 1e-6


# NumPy arrays have no derivative; steps_on_arrays is compared with the others below.
@pytest.mark.parametrize("integrate", [leapfrog, steps_on_tensors])
@every_mass
def test_preserves_volume(integrate, inv_mass):
    assert volume_error(integrate, inv_mass) <= 1e-10


@pytest.mark.parametrize("mutant", [euler, stale_gradient])
@every_mass
def test_volume_rejects_mutants(mutant, inv_mass):
    assert volume_error(mutant, inv_mass) > 1e-3


@every_integrator
@every_mass
def test_second_order(integrate, inv_mass):
    assert 3.7 <= order_ratio(integrate, inv_mass) <= 4.3


@pytest.mark.parametrize("mutant", MUTANTS)
@every_mass
def test_order_rejects_mutants(mutant, inv_mass):
    assert not 3.7 <= order_ratio(mutant, inv_mass) <= 4.3


@every_integrator
def test_harmonic_oscillator(integrate):
    q_error, p_error, energy_error = oscillator_errors(integrate)
    assert q_error < 1e-4
    assert p_error < 1e-4
    assert energy_error < 1e-5


@pytest.mark.parametrize("mutant", MUTANTS)
def test_harmonic_oscillator_rejects_mutants(mutant):
    assert max(oscillator_errors(mutant)) > 1e-3


@every_integrator
def test_harmonic_oscillator_in_closed_form(integrate):
    """Leapfrog turns a harmonic oscillator by acos(1 - e^2 / 2) a step, on the ellipse (1 - e^2 / 4) q^2 + p^2."""
    step, count = 0.3, 40
    q, p = integrate(
        torch.tensor([0.6], dtype=torch.float64),
        torch.tensor([-1.1], dtype=torch.float64),
        step,
        count,
        1.0,
        lambda q: 0.5 * q @ q,
    )
    angle, axis = count * math.acos(1 - step**2 / 2), math.sqrt(1 - step**2 / 4)
    assert abs(float(q) - (0.6 * math.cos(angle) - 1.1 / axis * math.sin(angle))) < 1e-13
    assert abs(float(p) - (-1.1 * math.cos(angle) - 0.6 * axis * math.sin(angle))) < 1e-13


@every_integrator
def test_single_step_by_hand(integrate):
    """U = 2 q_0^2 + q_0 q_1^3 from q = (1, 2), p = (-1, 0.5) with M^-1 = diag(0.5, 2), step 0.1."""
    q, p = integrate(
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([-1.0, 0.5], dtype=torch.float64),
        0.1,
        1,
        torch.tensor([0.5, 2.0], dtype=torch.float64),
        lambda q: 2 * q[0] ** 2 + q[0] * q[1] ** 3,
    )
    # The gradient is (4 q_0 + q_1^3, 3 q_0 q_1^2), at the start (12, 12): the momentum halfway is (-1.6, -0.1).
    q0, q1 = 1 - 0.08, 2 - 0.02
    expected_q = torch.tensor([q0, q1], dtype=torch.float64)
    expected_p = torch.tensor([-1.6 - 0.05 * (4 * q0 + q1**3), -0.1 - 0.15 * q0 * q1**2], dtype=torch.float64)
    torch.testing.assert_close(q, expected_q, rtol=0, atol=5e-14)
    torch.testing.assert_close(p, expected_p, rtol=0, atol=5e-14)


@every_integrator
@pytest.mark.parametrize("dimension", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_of_inverse_mass_agree(integrate, dimension, dtype):
    """A number, a 0-dimensional tensor, a diagonal and a matrix that say the same give the same trajectory."""
    q, p = (vector[:dimension] for vector in start(dtype))
    forms = (
        0.7,
        torch.tensor(0.7, dtype=dtype),
        torch.full((dimension,), 0.7, dtype=dtype),
        0.7 * torch.eye(dimension, dtype=dtype),
    )
    expected, *others = (integrate(q, p, 0.1, 10, form, lambda q: (q**4).sum() + q.sum().cos()) for form in forms)
    for received in others:
        torch.testing.assert_close(received, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)
        assert received[0].dtype == received[1].dtype == dtype


@every_mass
@pytest.mark.parametrize("integrate", [steps_on_tensors, steps_on_arrays])
def test_steps_of_kernels_are_the_documented_leapfrog(integrate, inv_mass):
    received, expected = (f(*start(), 0.1, 20, inv_mass, TARGET.potential) for f in (integrate, leapfrog))
    torch.testing.assert_close(received, expected, rtol=1e-12, atol=1e-13)


def test_steps_are_signed_and_differ_between_chains():
    q, p = TARGET.draw(3, 0), standard_normal(3, 5, 1)
    value_and_grad = vmap(grad_and_value(TARGET.potential))
    sizes = torch.tensor([[0.1], [-0.1], [0.02]], dtype=torch.float64)
    at_q, at_p, value, gradient = leapfrog_step(
        q, p, value_and_grad(q)[0], sizes, lambda p: DIAGONAL * p, lambda at: value_and_grad(at)[::-1]
    )
    for row, size in enumerate(sizes[:, 0].tolist()):
        expected = leapfrog(q[row], p[row], size, 1, DIAGONAL, TARGET.potential)
        torch.testing.assert_close((at_q[row], at_p[row]), expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close((gradient, value), value_and_grad(at_q))


@every_mass
def test_arguments_are_left_unchanged(inv_mass):
    q, p = (vector.requires_grad_() for vector in start())
    before = q.detach().clone(), p.detach().clone(), torch.as_tensor(inv_mass).clone()
    end_q, end_p = leapfrog(q, p, 0.1, 3, inv_mass, TARGET.potential)
    for now, then in zip((q, p, torch.as_tensor(inv_mass)), before, strict=True):
        assert torch.equal(now, then)
    assert q.requires_grad
    assert q.grad is None
    assert p.grad is None
    assert end_q.data_ptr() != q.data_ptr()
    assert end_p.data_ptr() != p.data_ptr()


def test_counts_gradients():
    """L steps take L + 1 gradients."""
    calls = []

    def potential(q):
        calls.append(1)
        return TARGET.potential(q)

    leapfrog(*start(), 0.1, 7, 1.0, potential)
    assert len(calls) == 8


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"position": [0.0]}, TypeError, "position must be a tensor"),
        ({"momentum": torch.zeros(4)}, ValueError, "momentum must have shape"),
        ({"position": torch.zeros(1, 5)}, ValueError, "position must have shape"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"num_steps": 2.0}, TypeError, "num_steps must be an integer"),
        ({"inv_mass": torch.ones(4)}, ValueError, "inverse mass must"),
        ({"inv_mass": -1.0}, ValueError, "inverse mass must be positive"),
    ],
)
def test_arguments_are_checked(changed, error, match):
    position, momentum = start()
    arguments = {
        "position": position,
        "momentum": momentum,
        "stepsize": 0.1,
        "num_steps": 2,
        "inv_mass": 1.0,
        "pot_energy": TARGET.potential,
    }
    with pytest.raises(error, match=match):
        leapfrog(**(arguments | changed))
