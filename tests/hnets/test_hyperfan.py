"""Generated weights have the variance of He's or Xavier's rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hnbayes.hnets import HMLP, ChunkedHMLP
from hnbayes.mnets import MLP

MNET = {"n_in": 40, "n_out": 10, "hidden_layers": (60,), "no_weights": True, "verbose": False}


def rule(method, xavier, shape):
    """Var(w) from torch's own initialisers' formulas: gain / fan."""
    gain = 1 if xavier else 2
    n_out, n_in = shape
    return {"in": gain / n_in, "out": gain / n_out, "harmonic": 2 * gain / (n_in + n_out)}[method]


def variances(make, init, runs=40):
    """The mean square of each generated tensor over initialisations, inputs and weights."""
    squares = []
    for seed in range(runs):
        torch.manual_seed(seed)
        hnet = make()
        init(hnet)
        with torch.no_grad():
            noise = torch.randn(8, hnet._inputs.uncond) if hnet._inputs.uncond else None
            outputs = hnet.forward(noise, cond_id=list(range(8)), ret_format="sequential")
        squares.append([np.mean([float(o[i].square().mean()) for o in outputs]) for i in range(len(outputs[0]))])
    return np.mean(squares, axis=0)


@pytest.mark.parametrize("method", ["in", "out", "harmonic"])
@pytest.mark.parametrize("xavier", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_whole_weights(method, xavier, given):
    shapes = MLP(**MNET).param_shapes

    def make():
        return HMLP(shapes, 4, 16, (60, 60), num_cond_embs=8, verbose=False)

    mnet = MLP(**MNET) if given else None
    found = variances(make, lambda h: h.apply_hyperfan_init(method, xavier, mnet=mnet))
    assert found[0] == pytest.approx(rule(method, xavier, shapes[0]), rel=0.1)
    assert found[2] == pytest.approx(rule(method, xavier, shapes[2]), rel=0.1)
    assert found[1] == found[3] == 0


def test_the_default_initialisation_would_not_pass():
    shapes = MLP(**MNET).param_shapes
    found = variances(lambda: HMLP(shapes, 0, 16, (60, 60), num_cond_embs=8, verbose=False), lambda _: None, runs=5)
    assert abs(found[0] / rule("in", False, shapes[0]) - 1) > 0.2
    chunked = variances(
        lambda: ChunkedHMLP([[60, 40]], 100, 24, layers=(60,), num_cond_embs=8, verbose=False), lambda _: None, runs=5
    )
    assert abs(chunked[0] / rule("in", False, (60, 40)) - 1) > 0.2


@pytest.mark.parametrize("activation", [nn.ReLU(), None])
def test_input_variances_and_no_hidden_layers(activation):
    shapes = MLP(**MNET).param_shapes
    for layers in ((), (80,)):
        make = lambda layers=layers: HMLP(  # noqa: E731
            shapes, 0, 30, layers, num_cond_embs=8, activation_fn=activation, verbose=False
        )
        found = variances(make, lambda h: h.apply_hyperfan_init(cond_var=0.25))
        assert found[0] == pytest.approx(rule("in", False, shapes[0]), rel=0.1)


def test_other_tensors_and_values_given():
    net = MLP(
        4,
        3,
        (5,),
        use_batch_norm=True,
        no_weights=True,
        use_context_mod=True,
        context_mod_no_weights=True,
        verbose=False,
    )
    torch.manual_seed(0)
    hnet = HMLP(net.param_shapes, cond_in_size=8, num_cond_embs=2, verbose=False)
    hnet.apply_hyperfan_init(mnet=net)
    made = dict(
        zip([m["name"] + str(i) for i, m in enumerate(net.param_shapes_meta)], hnet.forward(cond_id=0), strict=True)
    )
    for name, value in made.items():
        if name.startswith(("cm_scale", "bn_scale")):
            assert (value == 1).all()
        if name.startswith(("cm_shift", "bn_shift", "bias")):
            assert (value == 0).all()
    hnet.apply_hyperfan_init(mnet=net, w_var={"bias": 0.0}, b_val={"bias": 0.25, "weight": -3.0})
    biases = [v for m, v in zip(net.param_shapes_meta, hnet.forward(cond_id=0), strict=True) if m["name"] == "bias"]
    assert all((b == 0.25).all() for b in biases)
    values = [None] * (len(net.param_shapes) - 1) + [0.5]
    hnet.apply_hyperfan_init(mnet=net, b_val=values)
    assert (hnet.forward(cond_id=0)[-1] == 0.5).all()


@pytest.mark.parametrize("method", ["in", "out", "harmonic"])
@pytest.mark.parametrize("normal", [False, True])
def test_chunks(method, normal):
    # 60 * 40 weights are 24 chunks, the next of the biases, then 10 * 60 weights are 6 chunks.
    shapes = [[60, 40], [100], [10, 60]]

    def make():
        return ChunkedHMLP(shapes, 100, 24, layers=(60,), cond_in_size=8, num_cond_embs=8, verbose=False)

    found = variances(
        make, lambda h: h.apply_chunked_hyperfan_init(method, cond_var=1e-3, cemb_normal_init=normal), runs=40
    )
    assert found[0] == pytest.approx(rule(method, False, shapes[0]), rel=0.1)
    assert found[1] == pytest.approx(1 / (3 * 40), rel=0.1)
    assert found[2] == pytest.approx(rule(method, False, shapes[2]), rel=0.1)


def test_chunk_variance_that_cant_be_reached_is_said():
    hnet = ChunkedHMLP([[60, 40]], 100, 4, layers=(10,), num_cond_embs=2, verbose=False)
    with pytest.warns(UserWarning, match="choose uncond_var and cond_var of at most"):
        hnet.apply_chunked_hyperfan_init()
    hnet.apply_chunked_hyperfan_init(cond_var=1e-4, target_vars={"weight": 0.5})
    assert float(hnet.get_chunk_emb().detach().var()) == pytest.approx(0.5 * 3, rel=0.3)


def test_bad_arguments():
    shapes = [[5, 4], [5]]
    hnet = HMLP(shapes, verbose=False)
    chunked = ChunkedHMLP(shapes, 5, verbose=False)
    other = MLP(2, 2, verbose=False)
    for call, message in (
        (lambda: hnet.apply_hyperfan_init("fan"), "method"),
        (lambda: hnet.apply_hyperfan_init(cond_var=-1), "cond_var"),
        (lambda: hnet.apply_hyperfan_init(mnet=other), "mnet must have"),
        (lambda: hnet.apply_hyperfan_init(w_var=[1.0]), "w_var must be 2 values"),
        (lambda: hnet.apply_hyperfan_init(w_var=[-1.0, None]), "variances"),
        (lambda: HMLP(shapes, no_uncond_weights=True, verbose=False).apply_hyperfan_init(), "outside"),
        (lambda: chunked.apply_chunked_hyperfan_init(eps=0), "eps"),
        (lambda: chunked.apply_chunked_hyperfan_init(cond_var=float("nan")), "variances"),
        (
            lambda: ChunkedHMLP([[5], [5, 4]], 5, verbose=False).apply_chunked_hyperfan_init(cond_var=0),
            "no weights before",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
