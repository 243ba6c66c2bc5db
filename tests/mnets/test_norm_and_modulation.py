"""Batch normalisation and context modulation within networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hnbayes.mnets import MLP, WRN, LeNet, ResNet, ResNetIN, SimpleRNN
from tests.mnets.nets import build, inputs, random_weights

F = nn.functional
NORMED = ["mlp", "resnet", "wrn", "iresnet", "chunked_mlp"]


def mlp(**kwargs):
    torch.manual_seed(0)
    return MLP(4, 3, (5, 6), nn.Tanh(), verbose=False, **kwargs).double()


def tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", NORMED)
def test_running_statistics(name):
    net = build(name, use_batch_norm=True)
    x = inputs(name)
    assert net.batchnorm_layers
    first = [layer.get_stats()[0].clone() for layer in net.batchnorm_layers]
    before = net(x)
    net.train()(x)
    assert all((layer.get_stats()[0] != m).any() for layer, m in zip(net.batchnorm_layers, first, strict=True))
    assert (net.eval()(x) - before).abs().max() > 1e-9


@pytest.mark.parametrize("name", NORMED)
def test_without_tracking_batches_are_used_in_both_modes(name):
    net = build(name, use_batch_norm=True, bn_track_stats=False)
    x = inputs(name)
    torch.testing.assert_close(net.eval()(x), net.train()(x))


@pytest.mark.parametrize("name", NORMED)
def test_distilled_statistics(name):
    net = build(name, use_batch_norm=True, distill_bn_stats=True)
    x = inputs(name)
    net.train()(x)
    net.eval()
    targets = [t.clone() for t in net.distillation_targets()]
    assert net.hyper_shapes_distilled == [list(t.shape) for t in targets]
    expected = net(x)
    net.train()(2 * x)
    net.eval()
    assert (net(x) - expected).abs().max() > 1e-9
    given = [t.requires_grad_() for t in targets]
    output = net(x, distilled_params=given)
    torch.testing.assert_close(output, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), given))
    with pytest.raises(ValueError, match="distilled_params must be"):
        net(x, distilled_params=given[:-1])
    with pytest.raises(ValueError, match="distill_bn_stats"):
        build(name, use_batch_norm=True)(x, distilled_params=given)
    with pytest.raises(ValueError, match="distill_bn_stats=True needs"):
        build(name, use_batch_norm=True, bn_track_stats=False, distill_bn_stats=True)


@pytest.mark.parametrize("name", NORMED)
def test_checkpointed_statistics(name):
    net = build(name, use_batch_norm=True)
    x = inputs(name)
    net.train()(x, condition=0)
    first = net.eval()(x, condition=0)
    for layer in net.batchnorm_layers:
        layer.checkpoint_stats()
    net.train()(3 * x, condition=1)
    net.eval()
    torch.testing.assert_close(net(x, condition=0), first)
    torch.testing.assert_close(net(x, condition={"bn_stats_id": 0}), first)
    assert (net(x, condition=1) - first).abs().max() > 1e-9
    other = build(name, use_batch_norm=True, seed=4)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x, condition=1), net(x, condition=1))
    with pytest.raises(ValueError, match="stats_id must say"):
        net(x)
    with pytest.raises(ValueError, match=r"stats_id must lie in 0\.\.1"):
        net(x, condition=2)
    with pytest.raises(ValueError, match="bn_stats_id and cmod_ckpt_id"):
        net(x, condition={"task": 1})


def test_normalised_mlp_is_torchs():
    net = mlp(use_batch_norm=True)
    # Linear, normalisation, activation; the gains come before the weights.
    layers = [
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Linear(5, 6),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ]
    plain = nn.Sequential(*layers).double()
    weights = random_weights(net)
    net.overwrite_internal_params(weights)
    with torch.no_grad():
        order = [layers[i].get_parameter(n) for i in (1, 4, 0, 3, 6) for n in ("weight", "bias")]
        for p, w in zip(order, weights, strict=True):
            p.copy_(w)
    x = tensor(8, 4)
    torch.testing.assert_close(net(x), plain(x))
    torch.testing.assert_close(net.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("after", [False, True])
def test_modulated_mlp(after):
    net = mlp(
        use_context_mod=True, context_mod_inputs=True, context_mod_post_activation=after, use_batch_norm=True
    ).eval()
    weights = random_weights(net)
    mods, norms, rest = weights[:8], weights[8:12], weights[12:]
    x = tensor(7, 4)
    h = x * mods[0] + mods[1]
    for i in range(2):
        gain, shift = mods[2 + 2 * i], mods[3 + 2 * i]
        h = h @ rest[2 * i].T + rest[2 * i + 1]
        h = h if after else h * gain + shift
        ones = torch.ones(h.shape[1]).double()
        h = F.batch_norm(h, 0 * ones, ones, norms[2 * i], norms[2 * i + 1]).tanh()
        h = h * gain + shift if after else h
    expected = (h @ rest[4].T + rest[5]) * mods[6] + mods[7]
    torch.testing.assert_close(net(x, weights=weights), expected)
    net.overwrite_internal_params(weights)
    torch.testing.assert_close(net(x), expected)


def test_modulation_and_weights_can_be_given_apart():
    net = mlp(use_context_mod=True).eval()
    x, weights = tensor(7, 4), random_weights(net)
    mods, rest = weights[:6], weights[6:]
    expected = net(x, weights=weights)
    own_mods, own_rest = list(net.internal_params[:6]), list(net.internal_params[6:])
    torch.testing.assert_close(net(x, weights={"internal_weights": rest, "mod_weights": mods}), expected)
    torch.testing.assert_close(net(x, weights=mods), net(x, weights=[*mods, *own_rest]))
    torch.testing.assert_close(net(x, weights={"internal_weights": rest}), net(x, weights=[*own_mods, *rest]))
    # One set of gains and shifts a sample.
    batch = [torch.stack([m, 2 * m, m, m, m, m, m]) for m in mods]
    torch.testing.assert_close(net(x, weights=batch)[[0, 2]], net(x, weights=mods)[[0, 2]])
    torch.testing.assert_close(net(x, weights=batch)[1], net(x, weights=[2 * m for m in mods])[1])
    with pytest.raises(ValueError, match="gain must have shape"):
        net(x, weights=[torch.ones(4).double(), *mods[1:]])


@pytest.mark.parametrize(("no_weights", "no_mods"), [(True, False), (False, True), (True, True)])
def test_which_weights_come_from_outside(no_weights, no_mods):
    net = mlp(use_context_mod=True, no_weights=no_weights, context_mod_no_weights=no_mods).eval()
    x, weights = tensor(7, 4), random_weights(net)
    outside = list(range(6)) * no_mods + list(range(6, 12)) * no_weights
    assert net.hyper_shapes_learned_ref == outside
    assert net.hyper_shapes_learned == [net.param_shapes[i] for i in outside]
    inside = [i for i in range(12) if i not in outside]
    assert net.internal_params_ref == (inside or None)
    own = dict(zip(inside, net.internal_params or [], strict=True))
    whole = [own.get(i, weights[i]) for i in range(12)]
    torch.testing.assert_close(net(x, weights=[weights[i] for i in outside]), net(x, weights=whole))
    with pytest.raises(ValueError, match="weights must hold the tensors"):
        net(x)


def test_stored_modulation():
    net = mlp(use_context_mod=True).eval()
    x = tensor(7, 4)
    for layer in net.context_mod_layers:
        layer.normal_init()
    first = net(x)
    for layer in net.context_mod_layers:
        layer.checkpoint_weights()
    assert (net(x) - first).abs().max() > 1e-6
    torch.testing.assert_close(net(x, condition={"cmod_ckpt_id": 0}), first)
    torch.testing.assert_close(net(x, condition={"cmod_ckpt_id": 1}), net(x))
    mods = list(net.internal_params[:6])
    torch.testing.assert_close(net(x, weights=mods, condition={"cmod_ckpt_id": 0}), net(x))
    with pytest.raises(ValueError, match="ckpt_id must lie"):
        net(x, condition={"cmod_ckpt_id": 2})


@pytest.mark.parametrize("offset", [False, True])
def test_options_of_gains(offset):
    net = mlp(use_context_mod=True, context_mod_gain_offset=offset, no_last_layer_context_mod=True)
    assert len(net.context_mod_layers) == 2
    assert net.context_mod_layers[0].gain_offset_applied == offset
    assert mlp().context_mod_layers is None
    assert mlp().batchnorm_layers is None


IMAGES = {
    "lenet": lambda **k: LeNet((16, 16, 1), 3, arch="mnist_small", verbose=False, **k),
    "resnet": lambda **k: ResNet((8, 8, 3), 3, num_feature_maps=(2, 2, 3, 4), n=1, verbose=False, **k),
    "wrn": lambda **k: WRN((8, 8, 3), 3, n=1, k=2, num_feature_maps=(2, 2, 3, 4), verbose=False, **k),
    "iresnet": lambda **k: ResNetIN(
        (16, 16, 3), 3, num_feature_maps=(2, 2, 3, 4, 4), blocks_per_group=(1, 1, 1, 1), verbose=False, **k
    ),
    "bottleneck": lambda **k: ResNetIN(
        (16, 16, 3), 3, num_feature_maps=(2, 2, 3, 4, 4), blocks_per_group=(1, 1, 1, 1), bottleneck_blocks=True,
        verbose=False, **k
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(IMAGES))
@pytest.mark.parametrize("after", [False, True])
def test_modulation_by_pixel_equals_modulation_by_map(name, after):
    options = {
        "use_context_mod": True,
        "context_mod_inputs": True,
        "context_mod_post_activation": after,
        "context_mod_no_weights": True,
    }
    torch.manual_seed(0)
    maps = IMAGES[name](**options).double().eval()
    torch.manual_seed(0)
    pixels = IMAGES[name](context_mod_apply_pixel_wise=True, **options).double().eval()
    mods = [0.5 + torch.rand(shape, dtype=torch.float64) for shape in maps.hyper_shapes_learned]
    x = inputs("iresnet" if name == "bottleneck" else name)
    spread = [m.expand(shape) for m, shape in zip(mods, pixels.hyper_shapes_learned, strict=True)]
    assert any(s.shape != m.shape for s, m in zip(spread, mods, strict=True))
    torch.testing.assert_close(pixels(x, weights=spread), maps(x, weights=mods))
    assert (maps(x, weights=mods) - maps(x, weights=[torch.ones_like(m) for m in mods])).abs().max() > 1e-6


def test_recurrent_modulation_by_time_step():
    options = {"use_context_mod": True, "context_mod_no_weights": True, "verbose": False, "no_weights": True}
    x = tensor(3, 2, 4)
    for lstm in (False, True):
        plain = SimpleRNN(4, (5,), (6,), (2,), use_lstm=lstm, **options)
        steps = SimpleRNN(4, (5,), (6,), (2,), use_lstm=lstm, context_mod_num_ts=4, **options)
        apart = SimpleRNN(
            4, (5,), (6,), (2,), use_lstm=lstm, context_mod_num_ts=4, context_mod_separate_layers_per_ts=True, **options
        )
        weights = random_weights(plain)
        mods, rest = weights[:6], weights[6:]
        expected = plain(x, weights=weights)
        by_step = [m.expand(4, 5) if i in (2, 3) else m for i, m in enumerate(mods)]
        torch.testing.assert_close(steps(x, weights=[*by_step, *rest]), expected)
        layers = [*mods[:2], *mods[2:4] * 4, *mods[4:]]
        torch.testing.assert_close(apart(x, weights=[*layers, *rest]), expected)
        last = SimpleRNN(4, (5,), (6,), (2,), use_lstm=lstm, context_mod_last_step=True, **options)
        ones = [torch.ones_like(mods[2]), torch.zeros_like(mods[3])]
        steps_last = [torch.stack([ones[i]] * 2 + [mods[2 + i]] * 2) for i in range(2)]
        expected = steps(x, weights=[*mods[:2], *steps_last, *mods[4:], *rest])
        torch.testing.assert_close(last(x, weights=weights), expected)
        with pytest.raises(ValueError, match="at most context_mod_num_ts=4"):
            steps(tensor(5, 2, 4), weights=[*by_step, *rest])
    with pytest.raises(ValueError, match="context_mod_separate_layers_per_ts"):
        SimpleRNN(4, context_mod_num_ts=3, use_context_mod=True, verbose=False)


def test_recurrent_parts():
    net = SimpleRNN(4, (5,), (6,), (2,), use_context_mod=True, verbose=False)
    assert len(net.get_cm_weights()) == 6
    assert net.get_cm_inds() == [0, 1, 2, 3, 4, 5]
    assert len(net.get_non_cm_weights()) == len(net.param_shapes) - 6
    inside, mods = net.split_weights(None)
    pre_w, pre_b, rec, post_w, post_b = net.split_internal_weights(inside)
    assert [len(part) for part in (pre_w, pre_b, rec, rec[0], post_w, post_b)] == [1, 1, 1, 6, 1, 1]
    cm_in, cm_pre, cm_rec, cm_post, count, _ = net.split_cm_weights(mods, None, 3)
    assert cm_in is None
    assert [len(part) for part in (cm_pre, cm_rec, cm_rec[0], cm_post)] == [1, 1, 1, 1]
    assert count == 1
    x = torch.randn(3, 2, 4)
    for layer in net.context_mod_layers:
        layer.checkpoint_weights()
    torch.testing.assert_close(net(x, condition=0), net(x))


def test_dropout_only_in_training():
    torch.manual_seed(0)
    net = mlp(dropout_rate=0.5)
    x = tensor(50, 4)
    assert (net(x) - net(x)).abs().max() > 0
    net.eval()
    torch.testing.assert_close(net(x), net(x))
    for rate in (1, 2, -0.5, float("nan")):
        with pytest.raises(ValueError, match="dropout_rate"):
            mlp(dropout_rate=rate)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MLP(0, 1, verbose=False), ValueError, "n_in"),
        (lambda: MLP(1.5, 1, verbose=False), TypeError, "n_in"),
        (lambda: MLP(1, 1, (0,), verbose=False), ValueError, "hidden_layers"),
        (lambda: MLP(1, 1, no_weights=True, init_weights=[torch.ones(1)], verbose=False), ValueError, "init_weights"),
        (lambda: MLP(1, 1, init_weights=[torch.ones(1)], verbose=False), ValueError, "new_params"),
        (lambda: LeNet((28, 28), verbose=False), ValueError, "in_shape"),
        (lambda: LeNet((8, 8, 1), verbose=False), ValueError, "at least 16"),
        (lambda: LeNet(arch="vgg", verbose=False), ValueError, "arch"),
        (lambda: LeNet(use_context_mods=True, verbose=False), TypeError, "use_context_mods"),
        (lambda: ResNet(n=0, verbose=False), ValueError, "n must"),
        (lambda: ResNet(num_feature_maps=(1, 2), verbose=False), ValueError, "num_feature_maps"),
        (lambda: ResNetIN(blocks_per_group=(1,), verbose=False), ValueError, "blocks_per_group"),
        (lambda: SimpleRNN(rnn_layers=(), verbose=False), ValueError, "rnn_layers"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_verbose_networks_say_their_size(capsys):
    MLP(1, 1, (2,))
    assert "7 weights" in capsys.readouterr().out
    MLP(1, 1, (2,), verbose=False)
    assert capsys.readouterr().out == ""


def test_losses_of_classifiers():
    logits, labels = tensor(6, 3), torch.arange(6) % 3
    one_hot = F.one_hot(labels, 3).double()
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(LeNet.logit_cross_entropy_loss(logits, one_hot), expected)
    torch.testing.assert_close(LeNet.softmax_and_cross_entropy(logits, one_hot), expected)
    soft = tensor(6, 3, seed=1).softmax(-1)
    written = -(soft * logits.log_softmax(-1)).sum()
    torch.testing.assert_close(LeNet.softmax_and_cross_entropy(logits, soft, reduction_sum=True), written)
    assert LeNet.accuracy(one_hot, one_hot) == 1
    assert LeNet.accuracy(one_hot.roll(1, 1), one_hot) == 0
    targets = tensor(6, 2, seed=2)
    p = (targets / 2).softmax(-1)
    written = -4 * (p * (logits / 2).log_softmax(-1)[:, [0, 2]]).sum(-1).mean()
    torch.testing.assert_close(LeNet.knowledge_distillation_loss(logits, targets, [0, 2]), written)
    assert build("lenet").num_classes == 3
