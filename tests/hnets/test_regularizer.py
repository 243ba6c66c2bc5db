"""The regulariser against its sum written out, and its derivatives against differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hnbayes.hnets import HMLP, ChunkedHMLP, calc_fix_target_reg, flatten_and_remove_out_heads, get_current_targets
from hnbayes.mnets import MLP
from hnbayes.utils import hnet_regularizer

T = 3


def mnet(no_weights=True):
    return MLP(3, 6, (4,), no_weights=no_weights, verbose=False)


def build(kind="hmlp", seed=0):
    torch.manual_seed(seed)
    shapes = mnet().hyper_shapes_learned
    if kind == "hmlp":
        hnet = HMLP(shapes, cond_in_size=2, layers=(5,), activation_fn=nn.Tanh(), num_cond_embs=5, verbose=False)
    else:
        hnet = ChunkedHMLP(shapes, 9, 2, kind == "cond", cond_in_size=2, layers=(5,), num_cond_embs=5, verbose=False)
    return hnet.double()


def moved(hnet):
    """Targets, then a change of all parameters."""
    targets = get_current_targets(T, hnet)
    before = (
        [p.detach().clone() for p in hnet.unconditional_params],
        [p.detach().clone() for p in hnet.conditional_params],
    )
    with torch.no_grad():
        for i, p in enumerate(hnet.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    return targets, *before


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KINDS = pytest.mark.parametrize("kind", ["hmlp", "chunked", "cond"])


@KINDS
def test_targets_are_present_outputs_without_a_graph(kind):
    hnet = build(kind).train()
    targets = get_current_targets(T, hnet)
    assert hnet.training
    assert len(targets) == T
    assert get_current_targets(0, hnet) == []
    for j, target in enumerate(targets):
        assert not any(t.requires_grad for t in target)
        torch.testing.assert_close(target, [t.detach() for t in hnet.forward(cond_id=j)])


@KINDS
@pytest.mark.parametrize("fisher", [False, True])
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_the_sum_written_out(kind, fisher, heads, ahead, scaled):
    hnet = build(kind)
    targets, prev_theta, prev_embs = moved(hnet)
    state = {name: value.clone() for name, value in hnet.state_dict().items()}
    F = [[numbers(*s, seed=10 * j + i) for i, s in enumerate(hnet.target_shapes)] for j in range(T)]
    inds = [[2 * j, 2 * j + 1] for j in range(T)]
    scale = [0.5, 2.0, 3.0] if scaled else [1.0] * 3
    dTheta = [0.1 * numbers(*p.shape, seed=i) for i, p in enumerate(hnet.unconditional_params)] if ahead else None
    dTembs = [0.1 * numbers(*p.shape, seed=i) for i, p in enumerate(hnet.conditional_params)][:4] if ahead else None

    weights = {"uncond_weights": list(hnet.unconditional_params), "cond_weights": list(hnet.conditional_params)}
    if ahead:
        weights["uncond_weights"] = [p + d for p, d in zip(hnet.unconditional_params, dTheta, strict=True)]
        weights["cond_weights"][:4] = [p + d for p, d in zip(hnet.conditional_params[:4], dTembs, strict=True)]
    expected = 0
    for j in range(T):
        for i, h in enumerate(hnet.forward(cond_id=j, weights=weights)):
            term = (targets[j][i] - h) ** 2 * (F[j][i] if fisher else 1)
            # Tensors 2 and 3 belong to the output layer.
            rows = inds[j] if heads and i >= 2 else range(len(term))
            expected = expected + scale[j] * sum(term[row].sum() for row in rows)
    options = {
        "dTheta": dTheta,
        "dTembs": dTembs,
        "fisher_estimates": F if fisher else None,
        "mnet": mnet() if heads else None,
        "inds_of_out_heads": inds if heads else None,
        "reg_scaling": scale if scaled else None,
    }
    value = calc_fix_target_reg(hnet, T, targets=targets, **options)
    torch.testing.assert_close(value, expected / T, rtol=1e-10, atol=1e-12)
    on_the_fly = calc_fix_target_reg(hnet, T, prev_theta=prev_theta, prev_task_embs=prev_embs, **options)
    torch.testing.assert_close(on_the_fly, value)
    flat = [torch.cat([t.flatten() for t in target]) for target in targets]
    torch.testing.assert_close(calc_fix_target_reg(hnet, T, targets=flat, **options), value)
    assert all(torch.equal(value, hnet.state_dict()[name]) for name, value in state.items())
    assert value > 0


def test_gradients_are_those_of_differences():
    hnet = build()
    targets, _, _ = moved(hnet)
    parameters = [p.detach().clone().requires_grad_() for p in hnet.internal_params]
    count = len(hnet.unconditional_params)
    zeros = [torch.zeros_like(p) for p in parameters]

    def loss(*changes):
        return calc_fix_target_reg(hnet, T, targets=targets, dTheta=changes[:count], dTembs=changes[count:])

    assert torch.autograd.gradcheck(loss, [z.requires_grad_() for z in zeros])
    calc_fix_target_reg(hnet, T, targets=targets).backward()
    through = torch.autograd.grad(loss(*zeros), zeros, allow_unused=True)
    for p, g in zip(hnet.internal_params, through, strict=True):
        torch.testing.assert_close(p.grad, g)
    # Tasks that aren't earlier ones play no part.
    assert hnet.conditional_params[4].grad is None
    assert hnet.conditional_params[0].grad.any()


def test_a_part_of_the_tasks():
    hnet = build()
    targets, _, _ = moved(hnet)
    each = [
        float(calc_fix_target_reg(hnet, T, targets=targets, reg_scaling=[T * (k == j) for k in range(T)]).detach())
        for j in range(T)
    ]
    seen = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        value = float(calc_fix_target_reg(hnet, T, targets=targets, batch_size=1, generator=generator).detach())
        seen.add(min(range(T), key=lambda j: abs(each[j] - value)))
        assert min(abs(value - e) for e in each) < 1e-12
        again = torch.Generator().manual_seed(seed)
        assert float(calc_fix_target_reg(hnet, T, targets=targets, batch_size=1, generator=again).detach()) == value
    assert seen == {0, 1, 2}
    everything = calc_fix_target_reg(hnet, T, targets=targets)
    for batch_size in (-1, 0, 3, 10, None):
        torch.testing.assert_close(calc_fix_target_reg(hnet, T, targets=targets, batch_size=batch_size), everything)
    before = torch.get_rng_state()
    calc_fix_target_reg(hnet, T, targets=targets, batch_size=1, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_keep_their_graph_unless_made_on_the_fly():
    hnet = build()
    targets = [[t.requires_grad_() for t in target] for target in moved(hnet)[0]]
    calc_fix_target_reg(hnet, T, targets=targets).backward()
    assert all(t.grad is not None for target in targets for t in target)


@KINDS
def test_targets_in_one_array_or_apart(kind):
    hnet = build(kind)
    made, _, _ = moved(hnet)
    apart = [[t.clone() for t in target] for target in made]
    turned = [[t if t.ndim < 2 or j else t.t().contiguous().t() for t in target] for j, target in enumerate(made)]
    # Parts of one array, but not one behind another: other tasks' targets, or the same numbers in another order.
    array = torch.cat([t.flatten() for target in made for t in target])
    shapes = hnet.target_shapes
    other = [[array[i : i + torch.Size(s).numel()].reshape(s) for i, s in enumerate(shapes)] for _ in range(T)]
    for given, same in ((made, apart), (turned, apart), (made[::-1], apart[::-1]), (other, None)):
        same = [[t.clone() for t in target] for target in given] if same is None else same
        for options in ({}, {"batch_size": 2}):
            values = [
                calc_fix_target_reg(hnet, T, targets=t, generator=torch.Generator().manual_seed(1), **options)
                for t in (given, same)
            ]
            assert torch.equal(*values)
    # More targets than tasks: those of the first tasks.
    assert torch.equal(calc_fix_target_reg(hnet, 2, targets=made), calc_fix_target_reg(hnet, 2, targets=apart[:2]))


def test_flattening_without_other_heads():
    for net in (mnet(), mnet(no_weights=False)):
        weights = [numbers(*s, seed=i) for i, s in enumerate(net.param_shapes)]
        expected = torch.cat([weights[0].flatten(), weights[1], weights[2][[1, 4]].flatten(), weights[3][[1, 4]]])
        torch.testing.assert_close(flatten_and_remove_out_heads(net, weights, [4, 1]), expected)
        with pytest.raises(ValueError, match="weights must have the shapes"):
            flatten_and_remove_out_heads(net, weights[:-1], [0])
        with pytest.raises(ValueError, match="out_inds"):
            flatten_and_remove_out_heads(net, weights, [6])


def test_documented_name():
    assert hnet_regularizer.calc_fix_target_reg is calc_fix_target_reg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_id": 0}, "task_id must be at least 1"),
        ({"task_id": 6}, "must know 6 conditions"),
        ({"targets": None}, "either targets"),
        ({"targets": None, "prev_theta": []}, "either targets"),
        ({"prev_theta": [], "prev_task_embs": []}, "either targets"),
        ({"targets": [torch.zeros(3)] * 3}, "each target must hold"),
        ({"targets": [[torch.zeros(3)]] * 3}, "each target must be tensors"),
        ({"task_id": 4}, "targets must have 4 entries"),
        ({"inds_of_out_heads": [[0]] * 3}, "mnet must be given"),
        ({"inds_of_out_heads": [[0]] * 2, "mnet": mnet()}, "inds_of_out_heads must have 3"),
        ({"inds_of_out_heads": [[9]] * 3, "mnet": mnet()}, "out_inds must lie"),
        ({"fisher_estimates": [[]]}, "fisher_estimates must have 3"),
        ({"reg_scaling": [1]}, "reg_scaling must have 3"),
        ({"dTembs": [torch.zeros(2)]}, "dTembs must be 3 to 5"),
        ({"dTembs": [torch.zeros(3)] * 3}, "embeddings' shapes"),
        ({"dTheta": [torch.zeros(3)]}, "dparams must be"),
    ],
)
def test_bad_input_is_explained(options, message):
    hnet = build()
    targets = get_current_targets(T, hnet)
    with pytest.raises(ValueError, match=message):
        calc_fix_target_reg(hnet, **{"task_id": T, "targets": targets, **options})


def test_task_id_must_be_an_integer():
    with pytest.raises(TypeError, match="task_id"):
        calc_fix_target_reg(build(), 1.5, targets=[])
