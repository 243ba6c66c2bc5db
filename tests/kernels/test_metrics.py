"""The metric: velocity, momentum and displacement are the linear maps that M^-1 calls for, whatever its form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from targets import standard_normal

from hnbayes.kernels.arrays import DeviceVectors, HostVectors
from hnbayes.kernels.metrics import DenseMetric, DiagonalMetric, as_metric, identity_metric

D = 4
DIAGONAL = torch.tensor([0.5, 1.0, 2.0, 8.0], dtype=torch.float64)
IDENTITY = torch.eye(D, dtype=torch.float64)
FACTOR = standard_normal(D, D, 0)
FORMS = {"number": 0.3, "diagonal": DIAGONAL, "dense": FACTOR @ FACTOR.mT + 0.1 * IDENTITY}
VECTORS = {
    "arrays": HostVectors(torch.float64),
    "tensors": DeviceVectors(torch.float64, torch.device("cpu")),
}
every_form = pytest.mark.parametrize("inverse_mass", FORMS.values(), ids=FORMS.keys())
every_vectors = pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS.keys())


class LowerMomentum(DenseMetric):
    """Mutant: momenta L^-1 z, which are N(0, M) for diagonal matrices only."""

    def momentum(self, z, ix=None):
        return z @ np.linalg.inv(self._lower[0]).T


class UpperDisplacement(DenseMetric):
    """Mutant: displacements L^T z."""

    def displacement(self, z, ix=None):
        return z @ self._lower[0]


class SwappedRoots(DenseMetric):
    """Mutant: momenta and displacements exchanged."""

    def momentum(self, z, ix=None):
        return super().displacement(z, ix)

    def displacement(self, z, ix=None):
        return super().momentum(z, ix)


def as_matrix(inverse_mass):
    """M^-1 in full, as a NumPy array."""
    matrix = torch.as_tensor(inverse_mass, dtype=torch.float64)
    return (matrix if matrix.ndim == 2 else matrix.expand(D).diag()).numpy()


def map_errors(metric, inverse):
    """How far velocity is from M^-1, and A A^T from M and M^-1 for the maps A of momentum and displacement."""
    identity = metric.vectors.from_host(np.eye(D))
    # Each row is the image of a basis vector, so these are transposed.
    velocity, momentum, displacement = (
        np.asarray(linear(identity)).T for linear in (metric.velocity, metric.momentum, metric.displacement)
    )
    return np.array(
        [
            np.abs(velocity - inverse).max(),
            np.abs(momentum @ momentum.T @ inverse - np.eye(D)).max(),
            np.abs(displacement @ displacement.T - inverse).max(),
        ]
    )


@every_form
@every_vectors
def test_maps_have_the_right_covariances(inverse_mass, vectors):
    """Momenta are N(0, M) and displacements N(0, M^-1) exactly, as images of standard normal vectors."""
    assert map_errors(as_metric(inverse_mass, D, vectors), as_matrix(inverse_mass)).max() < 1e-12


@pytest.mark.parametrize("mutant", [LowerMomentum, UpperDisplacement, SwappedRoots])
def test_covariances_reject_mutants(mutant):
    inverse = as_matrix(FORMS["dense"])
    assert map_errors(mutant(HostVectors(torch.float64), inverse[None]), inverse).max() > 0.1


COINCIDING = {
    "scalar": (0.3, torch.tensor(0.3, dtype=torch.float64), 0.3 * IDENTITY.diag(), 0.3 * IDENTITY),
    "diagonal": (DIAGONAL, DIAGONAL.diag()),
}


@every_vectors
@pytest.mark.parametrize("forms", COINCIDING.values(), ids=COINCIDING.keys())
def test_forms_agree_where_they_coincide(forms, vectors):
    z = vectors.from_host(standard_normal(6, D, 1).numpy())
    metrics = [as_metric(form, D, vectors) for form in forms]
    for linear in ("velocity", "momentum", "displacement"):
        expected, *others = (np.asarray(getattr(metric, linear)(z)) for metric in metrics)
        for received in others:
            np.testing.assert_allclose(received, expected, rtol=1e-14)


@pytest.mark.parametrize("kind", ["diag", "dense"])
@every_vectors
def test_chains_have_their_own_metrics(kind, vectors):
    """Rows can be replaced, selected and indexed; other rows stay as they are."""
    metric = identity_metric(kind, 3, D, vectors)
    inverse = FORMS["dense"].numpy() if kind == "dense" else DIAGONAL.numpy()
    metric.replace_rows(np.array([2]), inverse[None])
    z = vectors.from_host(standard_normal(3, D, 2).numpy())
    lone = as_metric(torch.from_numpy(inverse), D, vectors)
    for linear in ("velocity", "momentum", "displacement"):
        whole = np.asarray(getattr(metric, linear)(z))
        np.testing.assert_array_equal(whole[:2], np.asarray(z)[:2])
        np.testing.assert_allclose(whole[2:], np.asarray(getattr(lone, linear)(z[2:])), rtol=1e-14)
        ix = vectors.index(np.array([2, 0]))
        np.testing.assert_array_equal(np.asarray(getattr(metric, linear)(z[ix], ix)), whole[[2, 0]])
        selected = metric.select(np.array([2, 1]))
        ix = vectors.index(np.array([2, 1]))
        np.testing.assert_array_equal(np.asarray(getattr(selected, linear)(z[ix])), whole[[2, 1]])


@every_form
def test_single_precision(inverse_mass):
    metric = as_metric(inverse_mass, D, HostVectors(torch.float32))
    assert metric.velocity(np.ones((2, D), np.float32)).dtype == np.float32
    assert map_errors(metric, as_matrix(inverse_mass)).max() < 1e-5


def test_one_dimension():
    for form in (0.3, torch.tensor(0.3), torch.tensor([0.3]), torch.tensor([[0.3]])):
        metric = as_metric(form, 1, HostVectors(torch.float32))
        assert isinstance(metric, DenseMetric if np.ndim(form) == 2 else DiagonalMetric)
        np.testing.assert_allclose(metric.velocity(np.ones((1, 1))), 0.3, rtol=1e-6)


def test_argument_is_left_unchanged():
    for form in (DIAGONAL.clone(), FORMS["dense"].clone()):
        before = form.clone()
        metric = as_metric(form, D, HostVectors(torch.float64))
        metric.replace_rows(np.array([0]), 2 * metric.host_inverse())
        assert torch.equal(form, before)


NAN = float("nan")


@pytest.mark.parametrize(
    ("inverse_mass", "match"),
    [
        (0.0, "positive"),
        (-1.0, "positive"),
        (NAN, "finite"),
        (float("inf"), "finite"),
        (torch.tensor([1.0, 1.0, 0.0, 1.0]), "positive"),
        (torch.tensor([1.0, NAN, 1.0, 1.0]), "finite"),
        (torch.ones(D + 1), "shape"),
        (torch.ones(D, D + 1), "shape"),
        (torch.ones(1, D, D), "shape"),
        (torch.eye(D + 1), "shape"),
        (torch.eye(D) + torch.diag(torch.ones(D - 1), 1), "symmetric"),
        (torch.ones(D, D), "positive definite"),
        (-torch.eye(D), "positive definite"),
        (torch.diag(torch.tensor([1.0, 1.0, NAN, 1.0])), "finite"),
    ],
)
def test_what_is_no_inverse_mass_is_refused(inverse_mass, match):
    with pytest.raises(ValueError, match=match):
        as_metric(inverse_mass, D, HostVectors(torch.float64))


@pytest.mark.parametrize("inverse_mass", [True, None, "dense", [1.0] * D])
def test_wrong_types_are_refused(inverse_mass):
    with pytest.raises(TypeError, match="inverse mass must be a number, or a tensor"):
        as_metric(inverse_mass, D, HostVectors(torch.float64))
