"""The page on migration: each difference that it tells of is there."""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import logging
import pathlib
import re
import warnings

import migration_table
import numpy as np
import pytest
import torch
from torch import nn

import hnbayes
from hnbayes.utils import (
    batchnorm_layer,
    cli_args,
    context_mod_layer,
    ewc_regularizer,
    gan_helpers,
    hmc,
    hnet_regularizer,
    local_conv2d_layer,
    logger_config,
    misc,
    optim_step,
    self_attention_layer,
    si_regularizer,
    sim_utils,
    torch_ckpts,
)

PAGE = migration_table.PAGE.read_text()

# Each difference, by the words that are bold on the page, and what shows it.
CHECKS = {}


def check(words):
    def add(function):
        CHECKS[words] = function
        return function

    return add


def test_each_difference_is_checked():
    assert re.findall(r"^\| `.*?\| \*\*(.*?)\.?\*\*", PAGE, re.MULTILINE) == list(CHECKS)


@check("Spectral norm is exact")
def _(tmp_path):
    torch.manual_seed(0)
    layer = self_attention_layer.SelfAttnLayerV2(8, True, no_weights=True)
    weights = [torch.randn(shape) for shape in layer.weight_shapes]
    x = torch.randn(2, 8, 3, 3)
    first = layer.forward(x, weights=weights)
    assert torch.equal(layer.forward(x, weights=weights), first)
    scaled = [w / torch.linalg.matrix_norm(w.flatten(1), 2) if w.ndim == 4 else w for w in weights]
    plain = self_attention_layer.SelfAttnLayerV2(8, False, no_weights=True)
    torch.testing.assert_close(plain.forward(x, weights=scaled), first)


@check("Local convolutions start like convolutions")
def _(tmp_path):
    torch.manual_seed(0)
    layer = local_conv2d_layer.LocalConv2dLayer(3, 8, 12, 12, 5)
    assert 0.99 * (3 * 25) ** -0.5 < layer.weights[0].abs().max() <= (3 * 25) ** -0.5


@check("Raw gains under a softplus are reset to 1")
def _(tmp_path):
    layer = context_mod_layer.ContextModLayer(3, apply_gain_softplus=True)
    with torch.no_grad():
        layer.get_weights()[0].fill_(5.0)
    layer.checkpoint_weights()
    assert torch.equal(layer.get_weights()[0], torch.ones(3))
    assert torch.equal(layer.get_weights(0)[0], torch.full((3,), 5.0))


@check("Softplus and offset exclude each other")
def _(tmp_path):
    with pytest.raises(ValueError, match="softplus"):
        context_mod_layer.ContextModLayer(3, apply_gain_offset=True, apply_gain_softplus=True)


@check("No momentum means 0.1 for given statistics")
def _(tmp_path):
    layer = batchnorm_layer.BatchNormLayer(2, momentum=None)
    mean, var, x = torch.zeros(2), torch.ones(2), torch.randn(20, 2)
    layer.forward(x, running_mean=mean, running_var=var)
    torch.testing.assert_close(mean, 0.1 * x.mean(0))


@check("Given statistics that require gradients are never updated")
def _(tmp_path):
    mean, var = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    batchnorm_layer.BatchNormLayer(2).forward(torch.randn(20, 2), running_mean=mean, running_var=var)
    assert torch.equal(mean, torch.zeros(2))


@check("Bottleneck blocks stride in the 3x3 convolution")
def _(tmp_path):
    options = {"num_feature_maps": (2, 2, 3, 4, 4), "blocks_per_group": (1, 1, 1, 1), "bottleneck_blocks": True}
    nets = [hnbayes.mnets.ResNetIN((32, 32, 3), 2, verbose=False, **options)]
    nets.append(hnbayes.mnets.ResNetIN((32, 32, 3), 2, verbose=False, stride_first=True, **options))
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3 * 32 * 32)
    assert not torch.allclose(nets[0].eval().forward(x), nets[1].eval().forward(x))


@check("Generated biases start at 0")
def _(tmp_path):
    torch.manual_seed(0)
    hnet = hnbayes.hnets.HMLP([[40, 50], [40]], cond_in_size=8, layers=(30,), num_cond_embs=200, verbose=False)
    hnet.apply_hyperfan_init()
    weights = [hnet.forward(cond_id=i) for i in range(200)]
    assert all(torch.equal(b, torch.zeros(40)) for _, b in weights)
    variance = torch.stack([w for w, _ in weights]).var().item()
    assert 0.7 < variance / (2 / 50) < 1.4


def _hnet():
    torch.manual_seed(0)
    return hnbayes.hnets.HMLP([[2, 3], [2]], cond_in_size=4, layers=(5,), num_cond_embs=4, verbose=False)


@check("Targets are those of earlier tasks only")
def _(tmp_path):
    assert hnet_regularizer.get_current_targets(0, _hnet()) == []
    assert len(hnet_regularizer.get_current_targets(2, _hnet())) == 2


@check("Terms of tasks are averaged")
def _(tmp_path):
    hnet = _hnet()
    targets = [[w + 1 for w in hnet.forward(cond_id=i)] for i in range(3)]
    found = hnet_regularizer.calc_fix_target_reg(hnet, 3, targets=targets)
    torch.testing.assert_close(found, torch.tensor(8.0))  # 8 weights, each off by 1, for each of three tasks


def _fisher(net, task=0, **options):
    data = hnbayes.data.ArrayDataset(np.random.default_rng(task).normal(size=(20, 3)), np.arange(20) % 2)
    params = list(net.parameters())
    ewc_regularizer.compute_fisher(task, data, params, "cpu", net, **options)
    return params


def _net():
    torch.manual_seed(0)
    return hnbayes.mnets.MLP(3, 2, (), verbose=False)


@check("No penalty for the first task")
def _(tmp_path):
    net = _net()
    assert ewc_regularizer.ewc_regularizer(0, list(net.parameters()), net) == 0


@check("A loss only")
def _(tmp_path):
    net = _net()
    params = _fisher(net, online=True)
    moved = [p.detach() + 1 for p in params]
    before = copy.deepcopy(dict(net.named_buffers()))
    losses = [ewc_regularizer.ewc_regularizer(1, moved, net, online=True, gamma=0.5) for _ in range(3)]
    assert losses[0] == losses[1] == losses[2] > 0
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


@check("The prior has a buffer of its own")
def _(tmp_path):
    net = _net()
    for task in range(2):
        params = _fisher(net, task, online=True, gamma=0.5, prior_strength=2.0)
    assert torch.equal(net.ewc_prior_strength_weights_0, torch.full_like(params[0], 2.0))
    without = _net()
    for task in range(2):
        _fisher(without, task, online=True, gamma=0.5)
    difference = net.ewc_fisher_estimate_weights_0 - without.ewc_fisher_estimate_weights_0
    torch.testing.assert_close(difference, torch.full_like(params[0], 2.0))
    with pytest.raises(ValueError, match="online"):
        _fisher(_net(), prior_strength=2.0)


@check("The exact Fisher matrix")
def _(tmp_path):
    net = _net()
    weight, _ = _fisher(net, empirical_fisher=False)
    x = torch.as_tensor(
        hnbayes.data.ArrayDataset(np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2).get_train_inputs(),
        dtype=weight.dtype,
    )
    p = net.forward(x).softmax(-1)
    expected = (p * (1 - p)).T @ x.square() / len(x)
    torch.testing.assert_close(net.ewc_fisher_estimate_task_0_weights_0, expected.detach())


@check("NaN marks an empty buffer")
def _(tmp_path):
    net = _net()
    si_regularizer.si_pre_optim_step(net, list(net.parameters()), no_pre_step_ckpt=True)
    keys = set(net.state_dict())
    assert net.si_running_omega_weights_0.isnan().all()
    loss = net.forward(torch.randn(4, 3)).square().sum()
    loss.backward()
    si_regularizer.si_pre_optim_step(net, list(net.parameters()))
    si_regularizer.si_post_optim_step(net, list(net.parameters()))
    assert not net.si_running_omega_weights_0.isnan().any()
    assert set(net.state_dict()) == keys


@check("The first task costs 0")
def _(tmp_path):
    net = _net()
    si_regularizer.si_pre_optim_step(net, list(net.parameters()))
    assert si_regularizer.si_regularizer(net, list(net.parameters())) == 0


@check("`task_id` is the task about to be learned")
def _(tmp_path):
    net = _net()
    params = _fisher(net)
    moved = torch.cat([p.detach().flatten() for p in params]) + 0.5
    prior = hnbayes.laplace.from_ewc(net, task_id=1, params=params)
    shaped = [moved[:6].reshape(2, 3), moved[6:]]
    expected = ewc_regularizer.ewc_regularizer(1, shaped, net)
    torch.testing.assert_close(prior.log_prob(prior.mean) - prior.log_prob(moved), expected)
    with pytest.raises(ValueError, match="at least 1"):
        hnbayes.laplace.from_ewc(net, task_id=0, params=params)


def _chain(cls=hmc.HMC, **options):
    return cls(torch.zeros(2), lambda q: 0.5 * q.square().sum(), stepsize=0.3, seed=1, **options)


@check("Other draws from the same seed")
def _(tmp_path):
    alone, among = (
        _chain(chain=1),
        hmc.MultiChainHMC([torch.zeros(2)] * 3, lambda q: 0.5 * q.square().sum(), stepsize=0.3, seed=1),
    )
    torch.manual_seed(5)
    alone.simulate_chain(5)
    among.simulate_chains(5)
    assert torch.equal(torch.stack(alone.position_trajectory), torch.stack(among.chains[1].position_trajectory))


@check("Multinomial sampling in log space")
def _(tmp_path):
    moved = []
    for constant in (-300.0, 0.0, 300.0):
        chain = hmc.NUTS(torch.zeros(2, dtype=torch.float64), lambda q, c=constant: 0.5 * q.square().sum() + c, seed=1)
        chain.simulate_chain(5)
        moved.append(chain.current_position)
    torch.testing.assert_close(moved[0], moved[1])
    torch.testing.assert_close(moved[2], moved[1])
    assert "max_tree_depth" in inspect.signature(hmc.NUTS).parameters


@check("States are plain")
def _(tmp_path):
    chain = _chain()
    chain.simulate_chain(4)
    assert (chain.num_states, len(chain.position_trajectory)) == (4, 5)
    assert torch.equal(chain.position_trajectory[0], torch.zeros(2))
    assert not any(state.requires_grad for state in chain.position_trajectory)


@check("Chains advance in one batch")
def _(tmp_path):
    shapes = []

    def potential(q):
        shapes.append(q.shape)
        return 0.5 * q.square().sum()

    chains = hmc.MultiChainHMC([torch.zeros(2)] * 3, potential, seed=0)
    with pytest.warns(UserWarning, match="once"):
        chains.simulate_chains(3, num_chains=[0, 0, 2])
    assert [chain.num_states for chain in chains.chains] == [3, 0, 3]


@check("Nothing is broadcast, and training mode is refused")
def _(tmp_path):
    x = torch.randn(5, 3)
    prior = hmc.log_prob_standard_normal_prior
    with pytest.raises(ValueError, match="shape"):
        hmc.nn_pot_energy(nn.Linear(3, 1), x, torch.randn(5), prior)
    with pytest.raises(ValueError, match="eval"):
        hmc.nn_pot_energy(nn.Sequential(nn.Linear(3, 1), nn.Dropout()), x, torch.randn(5, 1), prior)


def _save(path, scores, **options):
    for i, score in enumerate(scores):
        content = {"state_dict": nn.Linear(1, 1).state_dict()}
        torch_ckpts.save_checkpoint(content, path / "net", score, i, timestamp=1e6 + i, **options)
        assert set(content) == {"state_dict"}
    return sorted(p.name for p in path.glob("net_*"))


@check("The best of a running window stays")
def _(tmp_path):
    assert _save(tmp_path, [1.0, 5.0, 3.0, 2.0], max_ckpts_to_keep=1) == ["net_1", "net_3"]


@check("Files are written in one step")
def _(tmp_path):
    _save(tmp_path, [1.0])
    before = (tmp_path / "net_0").read_bytes()
    with pytest.raises((AttributeError, TypeError)):
        torch_ckpts.save_checkpoint({"state_dict": {}, "x": (i for i in ())}, tmp_path / "net", 2.0, 0)
    assert (tmp_path / "net_0").read_bytes() == before


@check("Loading is safe")
def _(tmp_path):
    net = nn.Linear(1, 1)
    for value, safe in ((argparse.Namespace(a=1), True), (np.float64(2.0), True), (pytest.approx(1.0), False)):
        torch_ckpts.save_checkpoint({"state_dict": net.state_dict(), "value": value}, tmp_path / "net", 1.0)
        if safe:
            assert torch_ckpts.load_checkpoint(tmp_path / "net", net)["value"] == value
        else:
            with pytest.raises(ValueError, match="trusted=True"):
                torch_ckpts.load_checkpoint(tmp_path / "net", net)


@check("The list is for reading")
def _(tmp_path):
    _save(tmp_path, [1.0, 5.0])
    torch_ckpts.make_ckpt_list(tmp_path / "net")
    (tmp_path / "net_1").unlink()
    assert torch_ckpts.get_best_ckpt_path(tmp_path / "net").endswith("net_0")


@check("Steps equal those of the optimisers installed")
def _(tmp_path):
    weight, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight, unused], lr=0.1, weight_decay=0.5)
    weight.square().sum().backward()
    steps = optim_step.calc_delta_theta(optimizer, False)
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(steps[0], weight.detach() - before)
    assert torch.equal(steps[1], torch.zeros(2))
    with pytest.raises(ValueError, match="LBFGS"):
        optim_step.calc_delta_theta(torch.optim.LBFGS([weight]), False)


@check("Logits are compared with 0")
def _(tmp_path):
    assert gan_helpers.accuracy(torch.tensor([0.2, -0.2]), torch.tensor([0.3, -0.3]), 0) == 0.5
    real, fake = torch.tensor([1.5]), torch.tensor([-0.5])
    bce = nn.functional.binary_cross_entropy_with_logits
    smoothed, hard = bce(real, torch.tensor([0.9])), bce(fake, torch.tensor([0.0]))
    found = gan_helpers.dis_loss(real, fake, 0)
    assert any(torch.isclose(found, scale * (smoothed + hard)) for scale in (0.5, 1.0))


@check("The mean comes first")
def _(tmp_path):
    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(gan_helpers.concat_mean_stats(x), torch.cat([x.mean(0).expand(3, 2), x], 1))


@check("Batches depend on `seed`")
def _(tmp_path):
    def batch(seed):
        data = hnbayes.data.ArrayDataset(np.arange(40.0)[:, None], np.arange(40.0), seed=seed)
        return data.next_train_batch(20)[0]

    assert np.array_equal(batch(1), batch(1))
    assert not np.array_equal(batch(1), batch(2))


@check("A logger set up twice prints once")
def _(tmp_path):
    for _ in range(2):
        logger = logger_config.config_logger("hnbayes.migration", tmp_path / "log", logging.DEBUG, logging.ERROR)
    logger.info("once")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().count("once") == 1


@check("A single number is a list of one")
def _(tmp_path):
    assert misc.str_to_ints(7) == misc.str_to_ints("7") == [7]
    assert misc.str_to_floats(0.5) == [0.5]


def _options(function, line=(), **options):
    parser = argparse.ArgumentParser()
    function(parser, **options)
    return parser.parse_args(list(line))


@check("`fc_arch` is left out")
def _(tmp_path):
    found = _options(cli_args.main_net_args)
    assert not hasattr(found, "fc_arch")
    assert found.mlp_arch == "100,100"


@check("`batchnorm` and `no_batchnorm` may both be offered")
def _(tmp_path):
    found = _options(cli_args.main_net_args, ["--batchnorm", "--no_batchnorm"], show_no_batchnorm=True)
    with pytest.raises(ValueError, match="--batchnorm and --no_batchnorm"):
        cli_args.check_invalid_argument_usage(found)


@check("Prefixes are checked")
def _(tmp_path):
    found = _options(cli_args.main_net_args, ["--gen_net_act", "elu"], allowed_nets=["simple_rnn"], prefix="gen_")
    with pytest.raises(ValueError, match="--gen_net_act"):
        cli_args.check_invalid_argument_usage(found)


@check("A structured hypernetwork has `chunk_emb_size`")
def _(tmp_path):
    assert _options(cli_args.hnet_args, allowed_nets=["structured_hmlp"]).chunk_emb_size == 8


@check("The two networks are MLPs with the options of `main_net_args`")
def _(tmp_path):
    with pytest.warns(DeprecationWarning, match="main_net_args"):
        found = _options(cli_args.gan_args)
    net = sim_utils.get_mnet_model(found, "mlp", [3], [2], "cpu", cprefix="gen_", verbose=False)
    assert net.param_shapes[0] == [100, 3]


@check("The year has two digits")
def _(tmp_path):
    assert re.fullmatch(r"\./out/run_\d\d-\d\d-\d\d_\d\d-\d\d-\d\d", _options(cli_args.miscellaneous_args).out_dir)


def _environment(folder):
    pytest.importorskip("tensorboard")
    args = argparse.Namespace(out_dir=str(folder))
    _, writer, logger = sim_utils.setup_environment(args)
    writer.close()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    return pathlib.Path(args.out_dir)


@check("Never a prompt, never a deletion")
def _(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result").write_text("kept")
    assert _environment(tmp_path / "run") == tmp_path / "run_1"
    assert (tmp_path / "run" / "result").read_text() == "kept"


@check("Options are written as JSON")
def _(tmp_path):
    made = _environment(tmp_path / "run")
    assert json.loads((made / "config.json").read_text()) == {"out_dir": str(made)}
    assert not list(made.glob("*.pickle"))


@check("`lenet` is built too")
def _(tmp_path):
    net = sim_utils.get_mnet_model(argparse.Namespace(), "lenet", [28, 28, 1], [10], "cpu", verbose=False)
    assert net.num_params == 21840


@pytest.mark.parametrize("words", CHECKS)
def test_it_differs_so(words, tmp_path):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("error")
        CHECKS[words](tmp_path)
