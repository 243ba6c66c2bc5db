"""What holds for every hypernetwork."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import vmap

from hnbayes.hnets import HMLP, ChunkedHDeconv, ChunkedHMLP, HDeconv, StructuredHMLP

TARGET = [[4, 3], [4], [2, 4], [2]]
SMALL = {"num_layers": 3, "num_filters": (3, 2), "kernel_size": 3, "sa_units": (0, 1)}


def together(chunks):
    return [tensor for chunk in chunks for tensor in chunk]


BUILD = {
    "hmlp": lambda **k: HMLP(TARGET, layers=(5, 6), activation_fn=nn.Tanh(), **k),
    "chunked_hmlp": lambda **k: ChunkedHMLP(TARGET, 7, 2, layers=(5,), **k),
    "chunked_hmlp_cond": lambda **k: ChunkedHMLP(TARGET, 7, 2, True, layers=(5,), **k),
    "structured_hmlp": lambda **k: StructuredHMLP(
        TARGET, [TARGET[:2], TARGET[2:]], [1, 1], [2, 0], {"layers": (5,)}, together, **k
    ),
    "structured_hmlp_cond": lambda **k: StructuredHMLP(
        TARGET, [[[4]], [[2, 4], [2]]], [4, 1], 2, {"layers": (5,)},
        lambda c: [torch.stack([c[0][0], c[1][0], c[2][0]], 1), c[3][0], *c[4]], True, **k
    ),
    "hdeconv": lambda **k: HDeconv(TARGET, (8, 5), **SMALL, **k),
    "chunked_hdeconv": lambda **k: ChunkedHDeconv(TARGET, (3, 3), 2, **SMALL, **k),
    "chunked_hdeconv_cond": lambda **k: ChunkedHDeconv(TARGET, (3, 3), 2, True, **SMALL, **k),
}  # fmt: skip
HNETS = pytest.mark.parametrize("name", list(BUILD))


def build(name, seed=0, **kwargs):
    torch.manual_seed(seed)
    shared = {"uncond_in_size": 2, "cond_in_size": 3, "num_cond_embs": 3, "verbose": False}
    return BUILD[name](**{**shared, **kwargs}).double().eval()


def noise(count=1, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@HNETS
def test_conditions_in_one_call_equal_calls_for_each(name):
    hnet = build(name)
    u = noise()
    flat = hnet.forward(uncond_input=u, cond_id=[2, 0, 2], ret_format="flattened")
    assert flat.shape == (3, 26) == (3, hnet.num_outputs)
    for row, condition in zip(flat, (2, 0, 2), strict=True):
        torch.testing.assert_close(row, hnet.forward(u, cond_id=condition, ret_format="flattened")[0])
    assert (flat[0] - flat[1]).abs().max() > 1e-6
    several = hnet.forward(uncond_input=noise(2), cond_id=1, ret_format="flattened")
    for row, one in zip(several, noise(2), strict=True):
        torch.testing.assert_close(row, hnet.forward(one, cond_id=1, ret_format="flattened")[0])


@HNETS
def test_formats(name):
    hnet = build(name)
    flat = hnet.forward(noise(), cond_id=[0, 1], ret_format="flattened")
    sequential = hnet.forward(noise(), cond_id=[0, 1], ret_format="sequential")
    assert [[list(t.shape) for t in one] for one in sequential] == [TARGET] * 2
    torch.testing.assert_close(torch.cat([t.flatten() for t in sequential[1]]), flat[1])
    assert len(hnet.forward(noise(), cond_id=[0, 1])) == 2
    one = hnet.forward(noise(), cond_id=1)
    assert [list(t.shape) for t in one] == TARGET == hnet.target_shapes
    assert len(hnet.forward(noise(), cond_id=1, ret_format="sequential")) == 1
    outputs = {"flattened": flat[:1], "sequential": sequential[:1], "squeezed": sequential[0]}
    for source, value in outputs.items():
        for target, expected in outputs.items():
            made = hnet.convert_out_format(value, source, target)
            torch.testing.assert_close(made, expected)
    with pytest.raises(ValueError, match="ret_format"):
        hnet.forward(noise(), cond_id=0, ret_format="list")
    with pytest.raises(ValueError, match="flattened weights"):
        hnet.convert_out_format(flat[0], "flattened", "squeezed")


@HNETS
def test_inside_and_outside_weights_agree(name):
    hnet = build(name)
    u, ids = noise(), [0, 2]
    expected = hnet.forward(u, cond_id=ids, ret_format="flattened")
    params = list(hnet.internal_params)
    uncond, cond = hnet.unconditional_params, hnet.conditional_params
    assert [list(p.shape) for p in params] == hnet.param_shapes
    assert hnet.param_shapes == hnet.unconditional_param_shapes + hnet.conditional_param_shapes
    assert all(params[i] is p for i, p in zip(hnet.unconditional_params_ref, uncond, strict=True))
    assert hnet.conditional_param_shapes_ref == [len(uncond) + i for i in range(len(cond))]
    assert sum(p.numel() for p in hnet.parameters()) == hnet.num_params

    def check(other, **kwargs):
        torch.testing.assert_close(other.forward(u, ret_format="flattened", **kwargs), expected)

    nothing = build(name, no_uncond_weights=True, no_cond_weights=True)
    assert nothing.internal_params is None
    check(nothing, cond_id=ids, weights=params)
    check(nothing, cond_id=ids, weights={"uncond_weights": uncond, "cond_weights": cond})
    embeddings_only = build(name, no_uncond_weights=True)
    assert embeddings_only.unconditional_params is None
    assert embeddings_only.hyper_shapes_learned == hnet.unconditional_param_shapes
    embeddings_only.overwrite_internal_params(cond)
    check(embeddings_only, cond_id=ids, weights=uncond)
    check(embeddings_only, cond_id=ids, weights={"uncond_weights": uncond})
    layers_only = build(name, no_cond_weights=True)
    assert layers_only.conditional_params is None
    layers_only.overwrite_internal_params(uncond)
    check(layers_only, cond_id=ids, weights={"cond_weights": cond})
    check(layers_only, cond_id=ids, weights=cond)
    # Conditional inputs instead of a condition's number.
    given = {"cond_input": torch.stack([cond[i] for i in ids]).detach()}
    if name.endswith("_cond"):
        count = len(cond) // 3 - 1
        kinds = [torch.stack([cond[3 + count * i + k] for i in ids]) for k in range(count)]
        given["weights"] = {"chunk_embs": kinds if name.startswith("structured") else kinds[0]}
    check(layers_only, **given)
    check(hnet, **given)


@HNETS
def test_gradients_vmap_and_state(name):
    hnet = build(name)
    sum(hnet.forward(noise(), cond_id=[0, 1, 2], ret_format="flattened").square().flatten()).backward()
    without = [n for n, p in hnet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Attention starts with gamma = 0, so that nothing passes through its convolutions yet.
    assert not [n for n in without if "_attention" not in n]
    other = build(name, seed=9)
    assert (other.forward(noise(), cond_id=0)[0] - hnet.forward(noise(), cond_id=0)[0]).abs().max() > 1e-6
    other.load_state_dict(hnet.state_dict())
    torch.testing.assert_close(other.forward(noise(), cond_id=0), hnet.forward(noise(), cond_id=0))
    torch.testing.assert_close(copy.deepcopy(hnet).forward(noise(), cond_id=0), hnet.forward(noise(), cond_id=0))
    if name == "structured_hmlp_cond":
        return
    sets = [[p.detach() + k for p in hnet.internal_params] for k in (0.0, 0.1)]
    stacked = [torch.stack(pair) for pair in zip(*sets, strict=True)]
    u = noise()
    rows = vmap(lambda w: hnet.forward(u, cond_id=1, weights=w, ret_format="flattened"))(stacked)
    for row, weights in zip(rows, sets, strict=True):
        torch.testing.assert_close(row, hnet.forward(noise(), cond_id=1, weights=weights, ret_format="flattened"))


@HNETS
def test_embeddings(name):
    hnet = build(name)
    assert hnet.num_known_conds == 3
    assert hnet.get_cond_in_emb(1) is hnet.conditional_params[1] is hnet.get_task_emb(1)
    assert hnet.get_task_embs()[2] is hnet.conditional_params[2]
    conditional = name.endswith("_cond")
    if name.startswith("chunked"):
        assert hnet.num_chunks == -(-26 // (7 if "hmlp" in name else 9))
        assert hnet.chunk_emb_size == 2
        assert hnet.cond_chunk_embs == conditional
        assert hnet.get_chunk_emb(cond_id=1).shape == (hnet.num_chunks, 2)
        torch.testing.assert_close(hnet.get_chunk_emb(2, cond_id=1), hnet.get_chunk_emb(cond_id=1)[2])
        with pytest.raises(ValueError, match="chunk_id must be below"):
            hnet.get_chunk_emb(99, cond_id=0)
    if name.startswith("structured"):
        assert hnet.num_chunks == (5 if conditional else 2)
        assert hnet.chunk_emb_shapes == ([[4, 2], [1, 2]] if conditional else [[1, 2]])
        assert [list(e.shape) for e in hnet.get_chunk_embs(cond_id=1)] == hnet.chunk_emb_shapes
        assert len(hnet.internal_hnets) == 2
    for bad in (3, -1):
        with pytest.raises(ValueError, match="cond_id must be"):
            hnet.get_cond_in_emb(bad)
    with pytest.raises(ValueError, match="outside"):
        build(name, no_cond_weights=True).get_cond_in_emb(0)
    with pytest.raises(ValueError, match="task_id must be below"):
        hnet.get_task_emb(99)


@HNETS
def test_adding_to_parameters(name):
    hnet = build(name)
    before = [p.detach().clone() for p in hnet.unconditional_params]
    changes = [torch.full_like(p, 0.5) for p in before]
    for p, total in zip(before, hnet.add_to_uncond_params(changes), strict=True):
        torch.testing.assert_close(total, p + 0.5)
    torch.testing.assert_close(hnet.add_to_uncond_params(changes, changes), [2 * c for c in changes])
    assert all(torch.equal(p, b) for p, b in zip(hnet.unconditional_params, before, strict=True))
    with pytest.raises(ValueError, match="dparams must be"):
        hnet.add_to_uncond_params(changes[1:])
    with pytest.raises(ValueError, match="shapes"):
        hnet.add_to_uncond_params([changes[0][None], *changes[1:]])


@HNETS
def test_bad_input_is_explained(name):
    hnet = build(name)
    u = noise()
    for kwargs, message in (
        ({"cond_id": 3}, "cond_id must be below 3"),
        ({"cond_id": [0, -1]}, "cond_id must be at least 0"),
        ({}, r"cond_input \(or cond_id\) must be a floating-point tensor"),
        ({"cond_id": 0, "cond_input": torch.zeros(1, 3)}, "received both"),
        ({"cond_input": torch.zeros(1, 4)}, "must have shape"),
        ({"cond_id": 0, "uncond_input": torch.zeros(1, 5)}, "uncond_input must have shape"),
        ({"cond_id": 0, "uncond_input": None}, "uncond_input must be"),
        ({"cond_id": [0, 1, 2], "uncond_input": noise(2)}, "agree on the number of samples"),
        ({"cond_id": 0, "weights": [u]}, "weights must be a list of"),
        ({"cond_id": 0, "weights": {"theta": [u]}}, "keys"),
        ({"cond_id": 0, "distilled_params": [u]}, "distilled_params"),
    ):
        with pytest.raises(ValueError, match=message):
            hnet.forward(**{"uncond_input": u, **kwargs})
    with pytest.raises(TypeError, match="cond_id must be an integer"):
        hnet.forward(u, cond_id=0.5)
    with pytest.raises(ValueError, match="weights must hold the unconditional ones"):
        build(name, no_uncond_weights=True).forward(u, cond_id=0)
    with pytest.raises(ValueError, match=r"outside|embeddings"):
        build(name, no_cond_weights=True).forward(u, cond_id=0)


def test_embeddings_without_other_inputs():
    hnet = ChunkedHMLP(TARGET, 7, 2, True, cond_in_size=0, num_cond_embs=2, layers=(5,), verbose=False)
    assert hnet.conditional_param_shapes == [[4, 2]] * 2
    first, second = hnet.forward(cond_id=[0, 1], ret_format="flattened")
    assert (first - second).abs().max() > 1e-6
    with pytest.raises(ValueError, match="chunk embeddings"):
        hnet.forward()
    given = torch.stack([hnet.get_chunk_emb(cond_id=0)] * 3)
    torch.testing.assert_close(hnet.forward(weights={"chunk_embs": given}, ret_format="flattened")[2], first)
    with pytest.raises(ValueError, match="received both"):
        hnet.forward(cond_id=0, weights={"chunk_embs": given})
    with pytest.raises(ValueError, match=r"chunk_embs.*must have shape"):
        hnet.forward(weights={"chunk_embs": given[:, 1:]})
    with pytest.raises(ValueError, match="without cond_input"):
        hnet.forward(cond_input=torch.zeros(1, 2), weights={"chunk_embs": given})


def test_the_documented_order_of_inputs():
    hnet = build("chunked_hmlp")
    w, b, v, c = (p.detach() for p in hnet.unconditional_params[:4])
    chunks = hnet.get_chunk_emb().detach()
    u, e = noise(), hnet.get_cond_in_emb(1).detach()
    x = torch.cat([u.expand(4, -1), chunks, e.expand(4, -1)], 1)
    expected = ((x @ w.T + b).relu() @ v.T + c).flatten()[:26]
    torch.testing.assert_close(hnet.forward(u, cond_id=1, ret_format="flattened")[0], expected)


def test_deconvolutions_draw_the_image_asked_for():
    for shape, layers, kernel in (((7, 12, 2), 4, (3, 5)), ((64, 64, 3), 5, 5), ((9, 6), 3, [4, 2]), ((5, 5), 2, 1)):
        target = [[torch.Size(shape).numel()]]
        hnet = HDeconv(target, shape, 0, 3, layers, [2] * (layers - 1), kernel, (), num_cond_embs=1, verbose=False)
        assert hnet.forward(cond_id=0)[0].shape == (torch.Size(shape).numel(),)
    hnet = HDeconv([[4096]], (64, 64), sa_units=(1,), num_layers=3, verbose=False)
    kernels = [p.shape for p in hnet.internal_params if p.ndim == 4 and p.shape[-1] == 5]
    # Filters double backwards from 128; sizes halve from 64.
    assert kernels == [(256, 128, 5, 5), (128, 1, 5, 5)]
    assert hnet.internal_params[0].shape == (256 * 16 * 16, 8)
    for options, message in (
        ({"hyper_img_shape": (3, 3)}, "at least 26 pixels"),
        ({"hyper_img_shape": (3,)}, "hyper_img_shape"),
        ({"hyper_img_shape": (6, 6), "num_filters": (3,)}, "num_filters"),
        ({"hyper_img_shape": (6, 6), "kernel_size": [3]}, "kernel_size"),
        ({"hyper_img_shape": (6, 6), "sa_units": (4,)}, "sa_units"),
        ({"hyper_img_shape": (6, 6), "num_layers": 1}, "num_layers"),
    ):
        with pytest.raises(ValueError, match=message):
            HDeconv(TARGET, verbose=False, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HMLP([], verbose=False), "at least one shape"),
        (lambda: HMLP(TARGET, cond_in_size=0, verbose=False), "needs inputs"),
        (lambda: HMLP(TARGET, num_cond_embs=-1, verbose=False), "num_cond_embs"),
        (lambda: ChunkedHMLP(TARGET, 0, verbose=False), "chunk_size"),
        (lambda: ChunkedHMLP(TARGET, 5, 0, verbose=False), "chunk_emb_size"),
        (lambda: StructuredHMLP(TARGET, [TARGET], [1, 1], 2, {}, together, verbose=False), "num_per_chunk"),
        (lambda: StructuredHMLP(TARGET, [TARGET], [2], 0, {}, together, verbose=False), "need embeddings"),
        (lambda: StructuredHMLP(TARGET, [TARGET[:2]], [1], 2, {}, together, verbose=False), "assembly_fct"),
        (lambda: StructuredHMLP(TARGET, [TARGET], [1], 2, {"cond_in_size": 1}, together, verbose=False), "hmlp_kwargs"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_of_layers(capsys):
    hnet = HMLP(TARGET, cond_in_size=3, num_cond_embs=4, use_batch_norm=True, use_spectral_norm=True, dropout_rate=0.1)
    assert "26" in capsys.readouterr().out
    assert len(hnet.batchnorm_layers) == 2
    assert hnet.get_output_weight_mask([0])[hnet.param_shapes.index([26, 100])].sum() == 100
    flat = hnet.forward(cond_id=[0, 1, 2], ret_format="flattened")
    assert (flat - hnet.forward(cond_id=[0, 1, 2], ret_format="flattened")).abs().max() > 0
    deconv = HDeconv(TARGET, (8, 8), use_batch_norm=True, use_spectral_norm=True, verbose=False, **SMALL)
    assert len(deconv.batchnorm_layers) == 2
    assert deconv.eval().forward(cond_id=0)[0].isfinite().all()
    with pytest.raises(ValueError, match="masks"):
        deconv.get_output_weight_mask()
