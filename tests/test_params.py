"""ParamSpec: flat vectors and named tensors, there and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hnbayes import ParamSpec

NAMES = ("weight", "scale", "bias")
SHAPES = ((2, 3), (), (2,))
SPEC = ParamSpec(NAMES, SHAPES)
D = 9

BATCHES = [(), (1,), (4,), (4, 5), (4, 5, 2)]


def numbered(batch: tuple[int, ...]) -> torch.Tensor:
    """(*batch, D) with every number different."""
    count = int(np.prod(batch, dtype=int)) * D
    return torch.arange(count, dtype=torch.float64).reshape(*batch, D)


def test_sizes():
    assert SPEC.sizes == (6, 1, 2)
    assert SPEC.size == D


def test_is_a_frozen_value():
    same = ParamSpec(list(NAMES), [torch.Size([2, 3]), [], np.array([2])])
    assert same == SPEC
    assert hash(same) == hash(SPEC)
    assert all(type(n) is int for shape in same.shapes for n in shape)
    assert ParamSpec(NAMES, ((3, 2), (), (2,))) != SPEC
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.names = ("other",)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_unflatten_puts_each_number_where_it_belongs(batch, kind):
    flat = numbered(batch) if kind == "torch" else numbered(batch).numpy()
    parts = SPEC.unflatten(flat)
    assert list(parts) == list(NAMES)
    whole = np.asarray(flat)
    for name, shape, start in zip(NAMES, SHAPES, (0, 6, 7), strict=True):
        assert isinstance(parts[name], type(flat))
        assert tuple(parts[name].shape) == batch + shape
        # Row-major: entry (i, j) of a (2, 3) tensor is number start + 3 i + j.
        for index in np.ndindex(*shape):
            offset = start + sum(i * int(np.prod(shape[k + 1 :])) for k, i in enumerate(index))
            np.testing.assert_array_equal(np.asarray(parts[name])[(..., *index)], whole[..., offset])


@pytest.mark.parametrize("as_what", [dict, list, tuple])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_flatten_undoes_unflatten(batch, as_what):
    flat = numbered(batch)
    parts = SPEC.unflatten(flat)
    back = SPEC.flatten(parts if as_what is dict else as_what(parts.values()))
    assert torch.equal(back, flat)
    assert back.dtype == flat.dtype


def test_flatten_of_a_mapping_goes_by_name_not_by_order():
    parts = {"bias": torch.tensor([7.0, 8.0]), "weight": torch.arange(6.0).reshape(2, 3), "scale": torch.tensor(6.0)}
    assert torch.equal(SPEC.flatten(parts), torch.arange(9.0))


def test_flatten_copies_and_leaves_its_arguments_alone():
    parts = {name: torch.zeros(shape) for name, shape in zip(NAMES, SHAPES, strict=True)}
    SPEC.flatten(parts).fill_(1.0)
    assert not any(part.any() for part in parts.values())


def test_flatten_is_differentiable():
    parts = [torch.ones(shape, requires_grad=True) for shape in SHAPES]
    (SPEC.flatten(parts) * torch.arange(9.0)).sum().backward()
    assert torch.equal(parts[0].grad, torch.arange(6.0).reshape(2, 3))
    assert parts[1].grad == 6
    assert torch.equal(parts[2].grad, torch.tensor([7.0, 8.0]))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_unflatten_gives_views(batch):
    flat = numbered(batch)
    SPEC.unflatten(flat)["bias"].fill_(-1.0)
    assert (flat[..., 7:] == -1).all()
    assert (flat[..., :7] >= 0).all()

    array = numbered(batch).numpy()
    SPEC.unflatten(array)["scale"][...] = -1.0
    assert (array[..., 6] == -1).all()
    assert (array[..., [0, 7]] >= 0).all()


def test_unflatten_works_inside_transforms():
    def norm(q):
        return SPEC.unflatten(q)["weight"].square().sum()

    gradients = torch.vmap(torch.func.grad(norm))(numbered((3,)))
    expected = 2 * numbered((3,))
    expected[:, 6:] = 0
    assert torch.equal(gradients, expected)


def test_scalars_and_empty_tensors():
    spec = ParamSpec(("a", "none", "b"), ((), (0,), ()))
    assert spec.size == 2
    parts = spec.unflatten(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert parts["a"].tolist() == [1.0, 3.0]
    assert parts["b"].tolist() == [2.0, 4.0]
    assert parts["none"].shape == (2, 0)
    assert torch.equal(spec.flatten(parts), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("names", "shapes", "message"),
    [
        (("a", "b"), ((1,),), "2 names and 1 shapes"),
        (("a",), ((1,), ()), "1 names and 2 shapes"),
        (("a", "b", "a"), ((1,), (2,), (3,)), "more than once: a"),
    ],
)
def test_bad_specs(names, shapes, message):
    with pytest.raises(ValueError, match=message):
        ParamSpec(names, shapes)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weight": torch.zeros(2, 3), "scale": torch.zeros(())}, r"missing: \['bias'\], unknown: none"),
        (
            {"weight": torch.zeros(2, 3), "scale": torch.zeros(()), "bais": torch.zeros(2)},
            r"missing: \['bias'\], unknown: \['bais'\]",
        ),
        ([torch.zeros(2, 3), torch.zeros(())], "3 parameters are needed; received 2"),
        ([torch.zeros(2, 3), torch.zeros(()), torch.zeros(3)], r"'bias' must have shape \(2,\); received \(3,\)"),
        ([torch.zeros(3, 2), torch.zeros(()), torch.zeros(2)], r"'weight' must have shape .*; received \(3, 2\)"),
        # Batches that would broadcast: all must be the same.
        ([torch.zeros(4, 2, 3), torch.zeros(()), torch.zeros(4, 2)], r"'scale' must have shape \(4,\); received \(\)"),
        ([torch.zeros(4, 2, 3), torch.zeros(4), torch.zeros(2)], r"'bias' must have shape \(4, 2\); received \(2,\)"),
    ],
)
def test_flatten_refuses(params, message):
    with pytest.raises(ValueError, match=message):
        SPEC.flatten(params)


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
@pytest.mark.parametrize("shape", [(), (8,), (10,), (9, 1), (2, 8), (0,)], ids=str)
def test_unflatten_refuses(shape, make):
    with pytest.raises(ValueError, match=r"last dimension must be 9.*received shape"):
        SPEC.unflatten(make(shape))


def test_from_module_follows_named_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2)))
    spec = ParamSpec.from_module(net)
    assert spec.names == ("0.weight", "0.bias", "2.0.weight", "2.1.weight", "2.1.bias")
    assert spec.shapes == ((4, 3), (4,), (2, 4), (2,), (2,))
    # torch's own way of laying parameters out is the oracle.
    assert torch.equal(spec.flatten(dict(net.named_parameters())), nn.utils.parameters_to_vector(net.parameters()))


def test_from_module_leaves_frozen_parameters_out():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    net[0].weight.requires_grad_(False)
    assert ParamSpec.from_module(net).names == ("0.bias", "1.weight", "1.bias")


def test_from_module_names_a_tied_parameter_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    spec = ParamSpec.from_module(net)
    assert spec.names == ("0.weight", "0.bias", "1.bias")
    assert spec.size == 15


@pytest.mark.parametrize("module", [nn.Tanh(), nn.Linear(2, 1).requires_grad_(False)], ids=["none", "frozen"])
def test_from_module_refuses_what_has_nothing_to_sample(module):
    with pytest.raises(ValueError, match=rf"{type(module).__name__} must have at least one .*requires_grad=True"):
        ParamSpec.from_module(module)
