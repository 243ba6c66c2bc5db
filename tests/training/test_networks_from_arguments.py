"""From a command line to what it describes: networks, hypernetworks, optimisers, lengths of training."""

from __future__ import annotations

import argparse
import re

import pytest
import torch
from torch import nn

from hnbayes.training.arguments.network_options import WITHOUT_EFFECT
from hnbayes.utils.cli_args import check_invalid_argument_usage, hnet_args, main_net_args, train_args
from hnbayes.utils.sim_utils import calc_train_iter, get_hypernet, get_mnet_model
from hnbayes.utils.torch_utils import get_optimizer

# For each type of network: options beside the defaults, shapes, and an input (samples last but one for the RNN).
MAIN_NETS = {
    "mlp": ("--mlp_arch 7,5 --net_act tanh --no_bias --dropout_rate 0.1 --batchnorm", [6], [3], (4, 6)),
    "lenet": ("--dropout_rate 0.2", [28, 28, 1], [3], (4, 784)),
    "resnet": (
        "--resnet_block_depth 1 --resnet_channel_sizes 2,2,3,4 --batchnorm --bn_no_running_stats",
        [8, 8, 3], [3], (4, 192),
    ),
    "wrn": (
        "--wrn_block_depth 1 --wrn_widening_factor 1 --wrn_use_fc_bias --dropout_rate 0.3",
        [8, 8, 3], [3], (4, 192),
    ),
    "iresnet": (
        "--iresnet_channel_sizes 2,2,3,4,4 --iresnet_blocks_per_group 1,1,1,1 --iresnet_projection_shortcut "
        "--iresnet_bottleneck_blocks --iresnet_use_fc_bias --no_bias",
        [16, 16, 3], [3], (4, 768),
    ),
    "zenke": ("--dropout_rate 0.25", [10, 10, 1], [3], (4, 100)),
    "bio_conv_net": ("", [13, 13, 1], [3], (4, 169)),
    "chunked_mlp": (
        "--cmlp_arch 5 --cmlp_chunk_arch 4 --cmlp_in_cdim 3 --cmlp_out_cdim 2 --cmlp_cemb_dim 2 --specnorm",
        [7], [3], (4, 7),
    ),
    "simple_rnn": (
        "--srnn_rec_layers 4 --srnn_pre_fc_layers 5 --srnn_post_fc_layers 6 --srnn_rec_type elman --net_act tanh",
        [2], [3], (5, 4, 2),
    ),
}  # fmt: skip
HNETS = {
    "hmlp": "--hmlp_arch 6 --hnet_net_act elu --hnet_dropout_rate 0.1",
    "chunked_hmlp": "--hmlp_arch 6 --chmlp_chunk_size 7 --chunk_emb_size 3 --use_cond_chunk_embs --hnet_no_bias",
    "structured_hmlp": "--hmlp_arch 6 --chunk_emb_size 2 --hnet_specnorm",
    "hdeconv": "--hdeconv_shape 8,6,2 --hdeconv_num_layers 3 --hdeconv_filters 3,2 --hdeconv_kernels 3 "
    "--hdeconv_attention_layers 1",
    "chunked_hdeconv": "--hdeconv_shape 4,4,1 --hdeconv_num_layers 3 --hdeconv_filters 3,2 --hdeconv_kernels 3 "
    "--hdeconv_attention_layers=-1 --chunk_emb_size 2 --hnet_batchnorm",
}
TARGET = [[5, 6], [5], [3, 5], [3]]


def parse(line: str, prefix: str | None) -> argparse.Namespace:
    """A line parsed by a parser with all options of all groups, for networks with a prefix."""
    parser = argparse.ArgumentParser()
    shown = {"show_no_bias": True, "show_bn_no_running_stats": True, "show_bn_distill_stats": True}
    main_net_args(parser, list(MAIN_NETS), prefix=prefix, **shown)
    hnet_args(parser, list(HNETS), prefix=prefix, **shown)
    train_args(parser, show_lr=True, show_epochs=True, show_use_adam=True, show_use_rmsprop=True)
    args = parser.parse_args(line.replace("--", f"--{prefix or ''}").split())
    check_invalid_argument_usage(args)
    return args


@pytest.mark.parametrize("prefix", [None, "gen_"])
@pytest.mark.parametrize("net_type", MAIN_NETS)
def test_main_networks(net_type, prefix):
    line, in_shape, out_shape, shape = MAIN_NETS[net_type]
    args = parse(f"--net_type {net_type} {line}", prefix)
    chosen = getattr(args, f"{prefix or ''}net_type")
    torch.manual_seed(0)
    net = get_mnet_model(args, chosen, in_shape, out_shape, "cpu", cprefix=prefix)
    x = torch.randn(shape)
    outputs = net.eval().forward(x)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    assert outputs.shape == (*shape[:-1], 3)
    assert torch.isfinite(outputs).all()
    # The same from the outside, with no weights of its own.
    empty = get_mnet_model(args, chosen, in_shape, out_shape, "cpu", cprefix=prefix, no_weights=True)
    assert empty.param_shapes == net.param_shapes
    assert list(empty.internal_params or []) == []
    if net.batchnorm_layers is None:  # statistics are the network's own, whoever has the weights
        again = empty.eval().forward(x, weights=list(net.weights))
        torch.testing.assert_close(again[0] if isinstance(again, tuple) else again, outputs)


def test_options_reach_the_network():
    net = get_mnet_model(parse("--mlp_arch 7,5 --net_act tanh --no_bias", None), "mlp", [6], [3], "cpu")
    first, second, last = net.weights
    x = torch.randn(4, 6)
    torch.testing.assert_close(net.forward(x), torch.tanh(torch.tanh(x @ first.T) @ second.T) @ last.T)
    by_default = get_mnet_model(parse("", None), "mlp", [6], [3], "cpu")
    assert by_default.param_shapes == [[100, 6], [100], [100, 100], [100], [3, 100], [3]]
    biased = get_mnet_model(
        parse(MAIN_NETS["iresnet"][0].removesuffix("--no_bias"), None), "iresnet", [16, 16, 3], [3], "cpu"
    )
    plain = get_mnet_model(parse(MAIN_NETS["iresnet"][0], None), "iresnet", [16, 16, 3], [3], "cpu")
    assert len(biased.param_shapes) > len(plain.param_shapes)
    assert plain.param_shapes[-1] == [3]


# Small networks of each type, with nothing but their sizes said.
PLAIN = {
    name: " ".join(re.findall(r"--(?:mlp|lenet|resnet|wrn|iresnet|cmlp|srnn)_\S+ [\w,]+", line))
    for name, (line, *_) in MAIN_NETS.items()
}


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize("option", ["net_act", "no_bias", "dropout_rate", "specnorm", "batchnorm"])
@pytest.mark.parametrize("net_type", MAIN_NETS)
def test_options_have_an_effect_where_nothing_is_said(net_type, option):
    """The table that warnings are made from is what networks do."""

    def made(line):
        _, in_shape, out_shape, shape = MAIN_NETS[net_type]
        torch.manual_seed(0)
        args = parse(f"--net_type {net_type} {PLAIN[net_type]} {line}", None)
        net = get_mnet_model(args, net_type, in_shape, out_shape, "cpu")
        weights = [0.5 * torch.randn(size) for size in net.param_shapes]
        outputs = net.train().forward(torch.randn(shape), weights=weights)
        return net.param_shapes, outputs[0] if isinstance(outputs, tuple) else outputs

    value = {"net_act": " tanh", "dropout_rate": " 0.4"}.get(option, "")
    (shapes, outputs), (other_shapes, other) = made(""), made(f"--{option}{value}")
    same = shapes == other_shapes and torch.equal(outputs, other)
    assert same == (option in WITHOUT_EFFECT[net_type])


@pytest.mark.parametrize("prefix", [None, "gen_"])
@pytest.mark.parametrize("hnet_type", HNETS)
def test_hypernetworks(hnet_type, prefix):
    args = parse(f"--hnet_type {hnet_type} --cond_emb_size 4 {HNETS[hnet_type]}", prefix)
    torch.manual_seed(0)
    hnet = get_hypernet(
        args, "cpu", getattr(args, f"{prefix or ''}hnet_type"), TARGET, 3, verbose=False, cprefix=prefix,
        shmlp_chunk_shapes=[TARGET[:2], TARGET[2:]], shmlp_num_per_chunk=[1, 1],
        shmlp_assembly_fct=lambda chunks: [*chunks[0], *chunks[1]],
    ).eval()  # fmt: skip
    first, second = (hnet.forward(cond_id=i) for i in (0, 1))
    assert [list(w.shape) for w in first] == TARGET
    assert not torch.equal(first[0], second[0])
    conditional = [shape for shape in hnet.conditional_param_shapes if shape == [4]]
    assert len(conditional) == 3, "an embedding of the size that was asked for, for each condition"
    # Its weights are those that the main network of the same command line takes.
    net = get_mnet_model(
        parse("--mlp_arch 5", prefix), "mlp", [6], [3], "cpu", cprefix=prefix, no_weights=True, verbose=False
    )
    assert net.forward(torch.randn(2, 6), weights=first).shape == (2, 3)


def test_the_deconvolutional_defaults_fit_together():
    args = parse("--hdeconv_shape 16,16,1", None)
    hnet = get_hypernet(args, "cpu", "hdeconv", TARGET, 2, verbose=False)
    assert [list(w.shape) for w in hnet.forward(cond_id=1)] == TARGET


def test_filters_that_do_not_fit_are_refused():
    args = parse("--hdeconv_shape 16,16,1 --hdeconv_num_layers 3", None)
    with pytest.raises(ValueError, match="num_filters"):
        get_hypernet(args, "cpu", "hdeconv", TARGET, 2, verbose=False)


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        ("", torch.optim.SGD, {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}),
        ("--lr 0.01 --momentum 0.9 --weight_decay 0.1", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        ("--use_adam --adam_beta1 0.5 --weight_decay 0.1", torch.optim.Adam, {"betas": (0.5, 0.999)}),
        ("--use_rmsprop --momentum 0.3", torch.optim.RMSprop, {"momentum": 0.3, "lr": 0.1}),
    ],
)
def test_optimisers(line, kind, expected):
    args = parse(line, None)
    optimizer = get_optimizer(
        nn.Linear(2, 1).parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay,
        use_adam=args.use_adam, adam_beta1=args.adam_beta1, use_rmsprop=args.use_rmsprop,
    )  # fmt: skip
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected


def test_length_of_training():
    args = parse("", None)
    assert calc_train_iter(100, args.batch_size, args.n_iter, args.epochs) == (100001, -1)
    args = parse("--epochs 3 --batch_size 30", None)
    assert calc_train_iter(100, args.batch_size, args.n_iter, args.epochs) == (12, 4)
