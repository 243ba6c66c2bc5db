"""What holds for every main network."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch.func import vmap

import hnbayes
from hnbayes.hnets import HMLP, ChunkedHDeconv, ChunkedHMLP, HDeconv, StructuredHMLP
from tests.mnets.nets import BUILD, build, inputs, random_weights

NETS = pytest.mark.parametrize("name", list(BUILD))


@NETS
def test_weights_given_are_the_weights_used(name):
    net, other, x = build(name), build(name, no_weights=True), inputs(name)
    weights = random_weights(net)
    assert other.internal_params is None
    assert other.hyper_shapes_learned == net.param_shapes == [list(w.shape) for w in weights]
    assert net.hyper_shapes_learned is None
    before = net(x)
    given = other(x, weights=weights)
    assert given.isfinite().all()
    torch.testing.assert_close(net(x, weights=weights), given, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(net(x, weights={"internal_weights": weights}), given, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    assert (before - given).abs().max() > 1e-3
    net.overwrite_internal_params(weights)
    torch.testing.assert_close(net(x), given, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(build(name, init_weights=[w.float() for w in weights])(x), given, rtol=1e-4, atol=1e-4)


def hypernetworks(shapes):
    shared = {"cond_in_size": 3, "num_cond_embs": 2, "verbose": False}
    half = len(shapes) // 2
    parts = [part for part in (shapes[:half], shapes[half:]) if part]
    small = {
        "num_layers": 3,
        "num_filters": (3, 2),
        "kernel_size": 3,
        "sa_units": (0,) if sum(torch.Size(s).numel() for s in shapes) < 2000 else (),
    }
    size = 2 * int(sum(torch.Size(s).numel() for s in shapes) ** 0.5) + 4
    return {
        "hmlp": HMLP(shapes, layers=(4,), **shared),
        "chunked_hmlp": ChunkedHMLP(shapes, 101, 2, layers=(4,), **shared),
        "structured_hmlp": StructuredHMLP(
            shapes,
            parts,
            [1] * len(parts),
            2,
            {"layers": (4,)},
            lambda chunks: [t for chunk in chunks for t in chunk],
            **shared,
        ),
        "hdeconv": HDeconv(shapes, (size, size // 2), **small, **shared),
        "chunked_hdeconv": ChunkedHDeconv(shapes, (24, 24), 2, **small, **shared),
    }


@NETS
def test_generated_weights_and_their_gradients(name):
    net, other, x = build(name), build(name, no_weights=True), inputs(name)
    torch.manual_seed(3)
    for kind, hnet in hypernetworks(net.param_shapes).items():
        hnet.double()
        first, _ = hnet.forward(cond_id=[0, 1])
        generated = [w.detach() for w in first]
        net.overwrite_internal_params(generated)
        output = other(x, weights=first)
        torch.testing.assert_close(output, net(x), rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad(output.square().sum(), first)
        net.zero_grad()
        net(x).square().sum().backward()
        for gradient, parameter in zip(gradients, net.internal_params, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-10)
        loss = sum(other(x, weights=w).square().sum() for w in hnet.forward(cond_id=[0, 1]))
        loss.backward()
        missing = [n for n, p in hnet.named_parameters() if p.grad is None]
        assert not missing, f"{kind}: no gradient for {missing}"


@NETS
def test_gradients_reach_every_weight(name):
    net, x = build(name, no_weights=True), inputs(name)
    touched = [False] * len(net.param_shapes)
    for seed in range(4):
        weights = [w.requires_grad_() for w in random_weights(net, seed)]
        for i, gradient in enumerate(torch.autograd.grad(net(x, weights=weights).sum(), weights)):
            touched[i] |= bool((gradient != 0).any())
    assert all(touched)


@NETS
def test_vectorised_weights_equal_a_loop(name):
    net, x = build(name, no_weights=True), inputs(name)
    sets = [random_weights(net, seed) for seed in range(3)]
    stacked = [torch.stack(tensors) for tensors in zip(*sets, strict=True)]
    together = vmap(lambda w: net.forward(x, weights=w))(stacked)
    for output, weights in zip(together, sets, strict=True):
        torch.testing.assert_close(output, net(x, weights=weights), rtol=1e-9, atol=1e-10)


@NETS
@pytest.mark.parametrize("no_weights", [False, True])
def test_potential_and_hmc(name, no_weights):
    net, x = build(name, no_weights=no_weights), inputs(name)
    D = net.num_params
    position = torch.cat([w.flatten() for w in random_weights(net, scale=0.1)])
    targets = torch.zeros_like(net(x, weights=random_weights(net)))
    U = hnbayes.nn_pot_energy(net, x, targets, hnbayes.log_prob_standard_normal_prior, compile=False)
    weights = net.flatten_params(position, net.param_shapes, unflatten=True)
    expected = 0.5 * net(x, weights=weights).square().sum() - torch.distributions.Normal(0, 1).log_prob(position).sum()
    torch.testing.assert_close(U(position), expected, rtol=1e-9, atol=1e-9)
    chain = hnbayes.HMC(position, U, stepsize=1e-3, num_steps=2)
    chain.simulate_chain(3)
    assert chain.current_position.shape == (D,)
    assert chain.acceptance_probability > 0.5
    assert (chain.current_position - position).abs().max() > 0


class Generated(torch.nn.Module):
    """A network whose weights a hypernetwork makes for a task."""

    def __init__(self, net, hnet):
        super().__init__()
        self.net, self.hnet = net, hnet

    def forward(self, x):
        return self.net(x, weights=self.hnet.forward(cond_id=1))


@NETS
def test_potential_and_hmc_of_generated_weights(name):
    """Of the hypernetwork's own weights: the potential, a batch of positions by `vmap`, and three steps of HMC."""
    net, x = build(name, no_weights=True), inputs(name)
    torch.manual_seed(3)
    targets = torch.zeros_like(net(x, weights=random_weights(net)))
    for kind, hnet in hypernetworks(net.param_shapes).items():
        whole = Generated(net, hnet).double().eval()
        spec = hnbayes.ParamSpec.from_module(whole)
        position = spec.flatten([p.detach() for p in whole.parameters()])
        U = hnbayes.nn_pot_energy(whole, x, targets, hnbayes.log_prob_standard_normal_prior, compile=False)
        nll = 0.5 * whole(x).square().sum()
        prior = torch.distributions.Normal(0, 1).log_prob(position).sum()
        torch.testing.assert_close(U(position), (nll - prior).detach(), rtol=1e-9, atol=1e-9, msg=kind)
        positions = torch.stack([position, 0.9 * position])
        each = torch.stack([U(q) for q in positions])
        torch.testing.assert_close(vmap(lambda q, U=U: U(q))(positions), each, rtol=1e-9, atol=1e-9, msg=kind)
        slope = torch.func.grad(lambda q, U=U: U(q))(position)
        chain = hnbayes.HMC(position, U, stepsize=float(0.1 / slope.norm().clamp(min=100)), num_steps=2)
        chain.simulate_chain(3)
        assert chain.acceptance_probability > 0.5, kind
        assert (chain.current_position != position).any(), kind


@pytest.mark.parametrize("name", ["mlp", "resnet", "simple_rnn", "chunked_mlp"])
def test_chains_are_sampled_in_one_batch(name):
    """Warnings are errors here: the potential is vectorised, never evaluated chain by chain."""
    net, x = build(name), inputs(name)
    U = hnbayes.nn_pot_energy(net, x, torch.zeros_like(net(x)), hnbayes.log_prob_standard_normal_prior)
    starts = [torch.cat([w.flatten() for w in random_weights(net, seed, 0.1)]) for seed in range(3)]
    kernel = {"kernel": "hmc", "num_steps": 2, "step_size": 1e-3, "adapt_step_size": False}
    draws = hnbayes.sample_potential(U, starts, warmup=0, draws=4, seed=0, progress=False, **kernel)
    assert draws.positions.shape == (3, 4, net.num_params)
    assert (draws.positions[:, 0] != draws.positions[:, -1]).any()


@NETS
def test_flat_vectors(name):
    net = build(name)
    weights = random_weights(net)
    flat = net.flatten_params(weights)
    assert flat.shape == (net.num_params,) == (net.shapes_to_num_weights(net.param_shapes),)
    back = net.flatten_params(flat, net.param_shapes, unflatten=True)
    assert all(torch.equal(a, b) for a, b in zip(back, weights, strict=True))
    batch = [torch.stack([w, 2 * w]) for w in weights]
    flat = net.flatten_params(batch, net.param_shapes)
    assert flat.shape == (2, net.num_params)
    back = net.flatten_params(flat, net.param_shapes, unflatten=True)
    assert all(torch.equal(a, b) for a, b in zip(back, batch, strict=True))


@NETS
def test_state_dict_and_copies(name):
    net, other, x = build(name), build(name, seed=5), inputs(name)
    assert (net(x) - other(x)).abs().max() > 1e-6
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(net)(x), net(x), rtol=0, atol=0)
    assert [tuple(p.shape) for p in net.parameters()] == [tuple(s) for s in net.param_shapes] or name == "chunked_mlp"
    assert len(net.state_dict()) >= len(net.param_shapes)


@NETS
def test_book_keeping(name):
    net, other = build(name), build(name, no_weights=True)
    meta = net.param_shapes_meta
    assert [m["index"] for m in meta] == list(range(len(meta))) == net.internal_params_ref
    assert {m["index"] for m in other.param_shapes_meta} == {-1}
    assert other.hyper_shapes_learned_ref == list(range(len(meta)))
    assert net.hyper_shapes_learned_ref is None
    assert other.internal_params_ref is None
    assert net.num_internal_params == net.num_params == sum(p.numel() for p in net.internal_params)
    assert other.num_internal_params == 0
    weights = {m["layer"] for m in meta if m["name"] == "weight"}
    assert {m["layer"] for m in meta if m["name"] == "bias"} <= weights
    assert len(net.layer_weight_tensors) == sum(m["name"] == "weight" for m in meta)
    assert len(net.layer_bias_vectors) == sum(m["name"] == "bias" for m in meta)
    assert net.weights is not None
    assert net.has_fc_out
    assert net.has_linear_out


@NETS
def test_masks_of_outputs(name):
    net, x = build(name), inputs(name)
    masks = net.get_output_weight_mask(out_inds=[1])
    assert len(masks) == len(net.param_shapes)
    weights = random_weights(net)
    before = net(x, weights=weights)
    # Output 1 hears of a change in its rows, the others don't.
    changed = [w if m is None else w + m for w, m in zip(weights, masks, strict=True)]
    difference = (net(x, weights=changed) - before).abs().flatten(0, -2).amax(0)
    assert difference[1] > 1e-6
    assert difference[0] == difference[2] == 0
    everything = net.get_output_weight_mask()
    assert all((m is None) == (e is None) and (e is None or e.all()) for m, e in zip(masks, everything, strict=True))
    with pytest.raises(ValueError, match=r"out_inds must lie in 0\.\.2"):
        net.get_output_weight_mask(out_inds=[3])


@NETS
def test_custom_init(name):
    net = build(name)
    net.custom_init()
    for weight in net.layer_weight_tensors:
        bound = torch.empty_like(weight)
        torch.nn.init.xavier_uniform_(bound)
        assert 0.5 < weight.std() / bound.std() < 2
    assert all((bias == 0).all() for bias in net.layer_bias_vectors)
    net.custom_init(normal_init=True, normal_std=3.0)
    assert torch.cat([w.detach().flatten() for w in net.layer_weight_tensors]).std() == pytest.approx(3, rel=0.2)
    with pytest.raises(ValueError, match="normal_std"):
        net.custom_init(normal_std=-1)


@NETS
def test_bad_weights_are_explained(name):
    net, other, x = build(name), build(name, no_weights=True), inputs(name)
    weights = random_weights(net)
    for bad, message in (
        (weights[:-1], "weights must be a list of"),
        ([*weights, weights[0]], "weights must be a list of"),
        ([weights[0][..., None], *weights[1:]], r"tensor 0 in weights must have shape"),
        ({"internal": weights}, "keys"),
        ({}, "keys"),
        (weights[0], "list of tensors"),
        ([w.long() for w in weights], "floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x, weights=bad)
    with pytest.raises(ValueError, match="weights must hold the tensors"):
        other(x)
    with pytest.raises(ValueError, match=re.escape("new_params")):
        net.overwrite_internal_params(weights[:-1])
    with pytest.raises(ValueError, match="x must have shape"):
        net(x[..., :-1], weights=weights)
    with pytest.raises(TypeError, match="floating-point"):
        net(x.long(), weights=weights)


def test_flattening_needs_shapes():
    net = build("mlp")
    with pytest.raises(ValueError, match="param_shapes must be given"):
        net.flatten_params(torch.zeros(3), unflatten=True)
    with pytest.raises(ValueError, match="one tensor"):
        net.flatten_params([torch.zeros(3)], [[3]], unflatten=True)
