"""Weights stored by existing code load: a numbered list of all tensors, and parts of it again under other names."""

from __future__ import annotations

import pytest
import torch

from hnbayes.hnets import HMLP, ChunkedHMLP
from hnbayes.mnets import ChunkSqueezer
from tests.mnets.nets import BUILD, build, inputs


def as_existing_code_stores(tensors, rest=()):
    stored = {f"_internal_params.{i}": t.detach().clone() for i, t in enumerate(tensors)}
    stored |= {f"_weights.{i}": t for i, t in enumerate(stored.values())}
    stored |= {"_layer_weight_tensors.0": tensors[0].detach(), "_layer_bias_vectors.0": tensors[0].detach()}
    return stored | dict(rest)


@pytest.mark.parametrize("name", list(BUILD))
def test_main_networks(name):
    net, other, x = build(name), build(name, seed=4), inputs(name)
    statistics = {k: v for k, v in net.state_dict().items() if "mean_" in k or "var_" in k}
    other.load_state_dict(as_existing_code_stores(list(net.internal_params), statistics))
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


def test_networks_with_networks_inside():
    net = ChunkSqueezer(7, 3, 3, 2, 2, verbose=False)
    other = ChunkSqueezer(7, 3, 3, 2, 2, verbose=False)
    stored = as_existing_code_stores(list(net.internal_params), {"_cembs": net._cembs, "_reducer._weights.0": 0})
    other.load_state_dict(stored)
    x = torch.randn(4, 7)
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("conditional", [False, True])
def test_hypernetworks_store_embeddings_of_conditions_first(conditional):
    for make in (
        lambda: HMLP([[4, 3], [4]], layers=(5,), num_cond_embs=2, verbose=False),
        lambda: ChunkedHMLP([[4, 3], [4]], 5, 2, conditional, layers=(5,), num_cond_embs=2, verbose=False),
    ):
        hnet, other = make(), make()
        cond, uncond = hnet.conditional_params, hnet.unconditional_params
        other.load_state_dict(as_existing_code_stores([*cond[:2], *uncond, *cond[2:]]))
        torch.testing.assert_close(other.forward(cond_id=1), hnet.forward(cond_id=1), rtol=0, atol=0)


def test_other_shapes_are_refused():
    stored = as_existing_code_stores([torch.zeros(2)] * 6)
    with pytest.raises(RuntimeError, match="size mismatch"):
        build("mlp").load_state_dict(stored)
