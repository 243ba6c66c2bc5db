"""`compute_fisher` with the package's own main networks and hypernetworks, against a plain loop."""

from __future__ import annotations

import pytest
import torch
from laplace_fakes import assert_close, seeded, squares

from hnbayes.hnets.mlp_hnet import HMLP
from hnbayes.mnets.mlp import MLP
from hnbayes.utils.ewc_regularizer import compute_fisher, ewc_regularizer

X = seeded(20, 3, dtype=torch.float32)
LABELS = (X[:, 0] > 0).long()


def at_labels(forward, params):
    terms = [forward(x[None]).log_softmax(-1)[0, c] for x, c in zip(X, LABELS, strict=True)]
    return [part / len(X) for part in squares(params, terms)]


def kept(net, task, count):
    return [net._buffers[f"ewc_fisher_estimate_task_{task}_weights_{i}"] for i in range(count)]


def test_main_network():
    torch.manual_seed(0)
    net = MLP(n_in=3, n_out=2, hidden_layers=[5], verbose=False)
    params = list(net.weights)
    compute_fisher(0, [(X, LABELS)], params, None, net)
    assert_close(kept(net, 0, len(params)), at_labels(net, params), rtol=1e-5)
    assert ewc_regularizer(1, params, net) == 0


def test_hypernetwork():
    torch.manual_seed(0)
    net = MLP(n_in=3, n_out=2, hidden_layers=[5], no_weights=True, verbose=False)
    hnet = HMLP(net.param_shapes, num_cond_embs=3, verbose=False)
    params = list(hnet.unconditional_params)
    compute_fisher(1, [(X, LABELS)], params, None, net, hnet)

    def forward(x):
        return net.forward(x, weights=hnet.forward(cond_id=1, weights={"uncond_weights": params}))

    assert_close(kept(hnet, 1, len(params)), at_labels(forward, params), rtol=1e-5)


def test_a_task_that_the_hypernetwork_does_not_know():
    net = MLP(n_in=3, n_out=2, hidden_layers=[5], no_weights=True, verbose=False)
    hnet = HMLP(net.param_shapes, num_cond_embs=3, verbose=False)
    with pytest.raises(ValueError, match="cond_id must be below 3"):
        compute_fisher(3, [(X, LABELS)], list(hnet.unconditional_params), None, net, hnet)
    assert not list(hnet.buffers())
    assert not list(net.buffers())
