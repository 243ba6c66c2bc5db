"""Options that contradict each other, with and without prefixes."""

from __future__ import annotations

import argparse
import itertools
import warnings

import pytest

from hnbayes.utils.cli_args import check_invalid_argument_usage, hnet_args, main_net_args

OPTIMISERS = ("use_adam", "use_rmsprop", "use_adadelta", "use_adagrad")
STATISTICS = ("bn_no_running_stats", "bn_distill_stats", "bn_no_stats_checkpointing")
PREFIXES = pytest.mark.parametrize("prefix", ["", "gen_", "hnet_", "gen_hnet_", "no_net_"])

CONFLICTS = [
    *(dict.fromkeys(pair, True) for pair in itertools.combinations(OPTIMISERS, 2)),
    dict.fromkeys(OPTIMISERS, True),
    {"clip_grad_value": 1.0, "clip_grad_norm": 2.0},
    {"clip_grad_value": 0.0, "clip_grad_norm": 2.0},
    {"split_head_cl3": True, "cl_scenario": 1},
    {"split_head_cl3": True, "cl_scenario": 2},
    {"batchnorm": True, "no_batchnorm": True},
    *({"batchnorm": True, **dict.fromkeys(pair, True)} for pair in itertools.combinations(STATISTICS, 2)),
    {"net_type": "simple_rnn", "net_act": "sigmoid"},
    {"net_type": "simple_rnn", "net_act": "linear"},
    {"srnn_rec_layers": "10", "net_act": "elu"},  # allowed alone, so without a net_type
]
# One option changed in each conflict ends it.
FINE = [
    {"use_adam": True, "use_rmsprop": False, "use_adadelta": False, "use_adagrad": False},
    {"clip_grad_value": 1.0, "clip_grad_norm": -1},
    {"clip_grad_value": -1, "clip_grad_norm": -1},
    {"split_head_cl3": True, "cl_scenario": 3},
    {"split_head_cl3": False, "cl_scenario": 1},
    {"batchnorm": True, "no_batchnorm": False, "bn_distill_stats": True},
    {"no_batchnorm": True, "net_type": "resnet"},
    {"net_type": "simple_rnn", "net_act": "tanh"},
    {"net_type": "mlp", "net_act": "sigmoid", "srnn_rec_layers": "10"},
    {"bn_distill_stats": True},  # nothing says that there is no batch normalisation
]


def namespace(options, prefix=""):
    return argparse.Namespace(**{prefix + name: value for name, value in options.items()})


def quiet(args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_invalid_argument_usage(args)


@PREFIXES
@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda c: "-".join(c))
def test_each_conflict_is_refused(conflict, prefix):
    with pytest.raises(ValueError, match="must ") as error:
        check_invalid_argument_usage(namespace(conflict, prefix))
    named = [name for name in conflict if f"--{prefix}{name}" in str(error.value)]
    assert named, "the message names the options as they were typed"


@PREFIXES
@pytest.mark.parametrize("options", FINE, ids=lambda c: "-".join(c))
def test_what_fits_is_accepted(options, prefix):
    quiet(namespace(options, prefix))


def test_networks_are_checked_apart():
    quiet(argparse.Namespace(gen_batchnorm=True, dis_no_batchnorm=True, use_adam=True, gen_use_rmsprop=True))
    quiet(argparse.Namespace(gen_net_type="simple_rnn", gen_net_act="tanh", dis_net_type="mlp", dis_net_act="elu"))
    quiet(argparse.Namespace(hnet_type="hmlp", hnet_net_act="sigmoid", net_type="simple_rnn", net_act="relu"))


def test_parsed_lines():
    parser = argparse.ArgumentParser()
    nets = ["mlp", "simple_rnn"]
    for prefix in (None, "gen_"):
        main_net_args(
            parser, nets, show_no_batchnorm=True, show_bn_distill_stats=True, show_bn_no_running_stats=True,
            prefix=prefix,
        )  # fmt: skip
        hnet_args(parser, show_no_batchnorm=True, prefix=prefix)
    quiet(parser.parse_args([]))
    for line, message in (
        ("--gen_net_type simple_rnn --gen_net_act elu", "--gen_net_act must be one of relu, tanh"),
        ("--batchnorm --no_batchnorm", "--batchnorm and --no_batchnorm"),
        ("--gen_hnet_batchnorm --gen_hnet_no_batchnorm", "--gen_hnet_batchnorm and --gen_hnet_no_batchnorm"),
        ("--gen_bn_distill_stats --gen_bn_no_running_stats", "--gen_bn_no_running_stats and --gen_bn_distill_stats"),
    ):
        with pytest.raises(ValueError, match=message):
            check_invalid_argument_usage(parser.parse_args(line.split()))


@PREFIXES
@pytest.mark.parametrize(
    "options",
    [
        {"net_type": "resnet", "dropout_rate": 0.5},
        {"net_type": "simple_rnn", "net_act": "relu", "specnorm": True},
        {"net_type": "lenet", "no_bias": True},
        {"net_type": "wrn", "net_act": "tanh"},
        {"net_type": "zenke", "batchnorm": True},
        {"batchnorm": False, "bn_distill_stats": True},
        {"no_batchnorm": True, "bn_no_stats_checkpointing": True},
    ],
)
def test_what_has_no_effect_is_said(options, prefix):
    with pytest.warns(UserWarning, match=f"--{prefix}{list(options)[-1]} has no effect"):
        check_invalid_argument_usage(namespace(options, prefix))


def test_bad_input():
    with pytest.raises(TypeError, match="must be a namespace"):
        check_invalid_argument_usage({"use_adam": True}.items())
