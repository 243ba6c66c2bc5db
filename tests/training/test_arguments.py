"""Groups of command-line options: defaults, what is shown when, prefixes, help texts."""

from __future__ import annotations

import argparse
import inspect
import pathlib
import re
import warnings

import pytest

from hnbayes.utils import cli_args

HELP = pathlib.Path(__file__).parent.parent / "data" / "help"

MAIN_NETS = ["mlp", "lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "chunked_mlp", "simple_rnn"]
HNETS = ["hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv"]

SHARED = {
    "net_act": "relu", "no_bias": False, "dropout_rate": -1, "specnorm": False, "batchnorm": False,
    "no_batchnorm": False, "bn_no_running_stats": False, "bn_distill_stats": False, "bn_no_stats_checkpointing": False,
}  # fmt: skip

# Every documented option of each group with its default. The documentation names defaults where the caller can choose
# them; the others (marked) are those of the package that it describes, as its parser gives them.
DOCUMENTED = {
    "cl_args": {
        "beta": 0.01, "train_from_scratch": False, "multi_head": False, "cl_scenario": 1, "split_head_cl3": False,
        "num_tasks": 1, "num_classes_per_task": 2, "calc_hnet_reg_targets_online": False, "hnet_reg_batch_size": -1,
    },
    "train_args": {
        "batch_size": 32, "n_iter": 100001, "epochs": -1, "lr": 0.1,
        "momentum": 0.0, "weight_decay": 0.0,  # observed
        "use_adam": False, "adam_beta1": 0.9, "use_rmsprop": False, "use_adadelta": False, "use_adagrad": False,
        "clip_grad_value": -1, "clip_grad_norm": -1,  # observed
    },
    "data_args": {"disable_data_augmentation": False, "data_dir": "."},
    "eval_args": {"val_iter": 500, "val_batch_size": 256, "val_set_size": 0, "test_with_val_set": False},
    "init_args": {
        "custom_network_init": False, "normal_init": False, "hyper_fan_init": False,
        "std_normal_init": 0.02, "std_normal_temb": 1.0, "std_normal_emb": 1.0,  # observed
    },
    "miscellaneous_args": {
        "out_dir": "out", "no_cuda": False, "loglevel_info": False, "deterministic_run": False,
        "publication_style": False, "show_plots": False,
        "num_workers": 8, "data_random_seed": 42, "random_seed": 42,  # observed
    },
    "main_net_args": {
        "net_type": "mlp", "mlp_arch": "100,100", "lenet_type": "mnist_small", "cmlp_arch": "10,10",
        "cmlp_chunk_arch": "10,10", "cmlp_in_cdim": 100, "cmlp_out_cdim": 10, "cmlp_cemb_dim": 8,
        "resnet_block_depth": 5, "resnet_channel_sizes": "16,16,32,64", "wrn_block_depth": 4,
        "wrn_widening_factor": 10, "wrn_use_fc_bias": False, "iresnet_use_fc_bias": False,
        "iresnet_channel_sizes": "64,64,128,256,512", "iresnet_blocks_per_group": "2,2,2,2",
        "iresnet_bottleneck_blocks": False, "iresnet_projection_shortcut": False, "srnn_rec_layers": "10",
        "srnn_pre_fc_layers": "", "srnn_post_fc_layers": "", "srnn_no_fc_out": False, "srnn_rec_type": "lstm",
        **SHARED,
    },
    "hnet_args": {
        "hnet_type": "hmlp", "hmlp_arch": "100,100", "cond_emb_size": "8", "chmlp_chunk_size": 1000,
        "chunk_emb_size": 8, "use_cond_chunk_embs": False, "hdeconv_shape": "512,512,3",
        "hdeconv_num_layers": 5, "hdeconv_filters": "128,512,256,128",  # observed
        "hdeconv_kernels": 5, "hdeconv_attention_layers": "1,3",  # observed
        **{f"hnet_{name}": value for name, value in SHARED.items()},
    },
}  # fmt: skip

SHOW_SHARED = {
    "show_net_act": ["net_act"], "show_no_bias": ["no_bias"], "show_dropout_rate": ["dropout_rate"],
    "show_specnorm": ["specnorm"], "show_batchnorm": ["batchnorm"], "show_no_batchnorm": ["no_batchnorm"],
    "show_bn_no_running_stats": ["bn_no_running_stats"], "show_bn_distill_stats": ["bn_distill_stats"],
    "show_bn_no_stats_checkpointing": ["bn_no_stats_checkpointing"],
}  # fmt: skip

# Which options each switch of a function brings; those that no switch names are always there.
SWITCHES = {
    "cl_args": {
        "show_beta": ["beta"], "show_from_scratch": ["train_from_scratch"], "show_multi_head": ["multi_head"],
        "show_cl_scenario": ["cl_scenario", "split_head_cl3"], "show_split_head_cl3": ["split_head_cl3"],
        "show_num_tasks": ["num_tasks"], "show_num_classes_per_task": ["num_classes_per_task"],
        "show_calc_hnet_reg_targets_online": ["calc_hnet_reg_targets_online"],
        "show_hnet_reg_batch_size": ["hnet_reg_batch_size"],
    },
    "train_args": {
        "show_lr": ["lr"], "show_epochs": ["epochs"], "show_use_adam": ["use_adam"], "show_momentum": ["momentum"],
        "show_use_rmsprop": ["use_rmsprop"], "show_use_adadelta": ["use_adadelta"],
        "show_use_adagrad": ["use_adagrad"], "show_clip_grad_value": ["clip_grad_value"],
        "show_clip_grad_norm": ["clip_grad_norm"], "show_adam_beta1": [],  # use_adam shows it too
    },
    "data_args": {
        "show_disable_data_augmentation": ["disable_data_augmentation"], "show_data_dir": ["data_dir"],
    },
    "eval_args": {
        "show_val_batch_size": ["val_batch_size"], "show_val_set_size": ["val_set_size"],
        "show_test_with_val_set": ["test_with_val_set"],
    },
    "init_args": {
        "custom_option": ["custom_network_init"], "show_normal_init": ["normal_init", "std_normal_init"],
        "show_hyper_fan_init": ["hyper_fan_init"],
    },
    "miscellaneous_args": {
        "big_data": ["num_workers"], "synthetic_data": ["data_random_seed"], "show_plots": ["show_plots"],
        "show_publication_style": ["publication_style"],
    },
    "main_net_args": SHOW_SHARED,
    "hnet_args": {
        "show_cond_emb_size": ["cond_emb_size"], "show_use_cond_chunk_embs": ["use_cond_chunk_embs"],
        **{switch: [f"hnet_{name}" for name in names] for switch, names in SHOW_SHARED.items()},
    },
}  # fmt: skip

FIXED = {
    "main_net_args": {"allowed_nets": MAIN_NETS},
    "hnet_args": {"allowed_nets": HNETS},
    "miscellaneous_args": {"dout_dir": "out"},
}


def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def options(name, line=(), **arguments):
    """The parsed options of a group, by name."""
    made = parser()
    getattr(cli_args, name)(made, **arguments)
    return vars(made.parse_args(list(line)))


def everything(name):
    """Arguments with which a function shows all its options."""
    return {**FIXED.get(name, {}), **dict.fromkeys(SWITCHES[name], True)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_defaults_are_the_documented_ones(name):
    found = options(name, **everything(name))
    assert found == DOCUMENTED[name]
    for option, value in found.items():
        assert isinstance(value, bool) == isinstance(DOCUMENTED[name][option], bool)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_switch_shows_its_options(name):
    for switch, brought in SWITCHES[name].items():
        without = options(name, **{**everything(name), switch: False})
        assert set(DOCUMENTED[name]) - set(without) == set(brought), switch
    nothing = options(name, **{**FIXED.get(name, {}), **dict.fromkeys(SWITCHES[name], False)})
    switched = {option for brought in SWITCHES[name].values() for option in brought} | {"adam_beta1"}
    assert set(nothing) == set(DOCUMENTED[name]) - switched


@pytest.mark.parametrize("name", DOCUMENTED)
def test_callers_choose_defaults(name):
    chosen = {"dcl_scenario": 3, "dlenet_type": "cifar", "dsrnn_rec_type": "elman", "dnet_act": "tanh"}
    parameters = inspect.signature(getattr(cli_args, name)).parameters
    candidates = [p for p in parameters if p.startswith("d") and p != "dout_dir"]
    if name == "hnet_args":
        candidates += ["dnet_act", "ddropout_rate"]
    seen = set()
    for parameter in candidates:
        option = parameter[1:] if parameter[1:] in DOCUMENTED[name] else f"hnet_{parameter[1:]}"
        default = DOCUMENTED[name][option]
        value = chosen.get(parameter, "7,9" if isinstance(default, str) else 7)
        found = options(name, **{**everything(name), parameter: value})
        assert found[option] == value
        assert {o for o in found if found[o] != DOCUMENTED[name][o]} == {option}
        seen.add(option)
    assert len(seen) == len(candidates)


def test_values_are_read():
    line = "--batch_size 8 --n_iter 10 --lr 1e-3 --momentum 0.5 --weight_decay 1e-4 --clip_grad_norm 2 --use_adam"
    found = options("train_args", line.split(), **everything("train_args"))
    assert (found["batch_size"], found["n_iter"], found["lr"]) == (8, 10, 1e-3)
    assert (found["momentum"], found["weight_decay"], found["clip_grad_norm"]) == (0.5, 1e-4, 2.0)
    assert found["use_adam"] is True
    with pytest.raises(SystemExit):
        options("train_args", ["--batch_size", "1.5"])
    with pytest.raises(SystemExit):
        options("main_net_args", ["--net_act", "gelu"])
    with pytest.raises(SystemExit):
        options("cl_args", ["--cl_scenario", "4"], show_cl_scenario=True)
    # The beginning of an option will do: the documented list has it so.
    assert options("data_args", ["--disable_data_augment"], show_disable_data_augmentation=True) == {
        "disable_data_augmentation": True
    }


def test_split_head_needs_the_scenario():
    assert "split_head_cl3" not in options("cl_args", show_split_head_cl3=True)
    assert "split_head_cl3" in options("cl_args", show_cl_scenario=True)


def test_adams_decay_rate_comes_with_adam_or_alone():
    assert "adam_beta1" in options("train_args", show_use_adam=True)
    assert "use_adam" not in options("train_args", show_adam_beta1=True, dadam_beta1=0.5)
    assert options("train_args", show_adam_beta1=True, dadam_beta1=0.5)["adam_beta1"] == 0.5


def test_either_cuda_or_no_cuda():
    assert options("miscellaneous_args", no_cuda=True)["use_cuda"] is False
    assert "no_cuda" not in options("miscellaneous_args", no_cuda=True)
    assert "use_cuda" not in options("miscellaneous_args")
    assert re.fullmatch(
        r"\./out/run_\d\d-\d\d-\d\d_\d\d-\d\d-\d\d", options("miscellaneous_args", big_data=False)["out_dir"]
    )


# The options of each type of network, as the documentation's names say; each alone has no option of another.
OWN = {
    "mlp": {"mlp_arch"}, "lenet": {"lenet_type"}, "resnet": {"resnet_block_depth", "resnet_channel_sizes"},
    "wrn": {"wrn_block_depth", "wrn_widening_factor", "wrn_use_fc_bias"},
    "iresnet": {o for o in DOCUMENTED["main_net_args"] if o.startswith("iresnet")}, "zenke": set(),
    "bio_conv_net": set(), "chunked_mlp": {o for o in DOCUMENTED["main_net_args"] if o.startswith("cmlp")},
    "simple_rnn": {o for o in DOCUMENTED["main_net_args"] if o.startswith("srnn")},
}  # fmt: skip
OWN_HNET = {
    "hmlp": {"hmlp_arch"}, "chunked_hmlp": {"hmlp_arch", "chmlp_chunk_size", "chunk_emb_size", "use_cond_chunk_embs"},
    "structured_hmlp": {"hmlp_arch", "chunk_emb_size", "use_cond_chunk_embs"},
    "hdeconv": {o for o in DOCUMENTED["hnet_args"] if o.startswith("hdeconv")},
}  # fmt: skip
OWN_HNET["chunked_hdeconv"] = OWN_HNET["hdeconv"] | {"chunk_emb_size", "use_cond_chunk_embs"}


@pytest.mark.parametrize("net_type", MAIN_NETS)
def test_a_single_type_has_its_options_alone(net_type):
    found = options("main_net_args", **{**everything("main_net_args"), "allowed_nets": [net_type]})
    assert set(found) == OWN[net_type] | set(SHARED)


@pytest.mark.parametrize("net_type", HNETS)
def test_a_single_type_of_hypernetwork_has_its_options_alone(net_type):
    found = options("hnet_args", **{**everything("hnet_args"), "allowed_nets": [net_type]})
    assert set(found) == OWN_HNET[net_type] | {"cond_emb_size"} | {f"hnet_{name}" for name in SHARED}


def test_several_types_are_chosen_from():
    several = {"allowed_nets": ["resnet", "mlp"]}
    assert options("main_net_args", **several)["net_type"] == "resnet"
    assert options("main_net_args", ["--net_type", "mlp"], **several)["net_type"] == "mlp"
    with pytest.raises(SystemExit):
        options("main_net_args", ["--net_type", "wrn"], **several)
    assert "net_type" not in options("main_net_args")
    assert options("hnet_args", allowed_nets=["hdeconv", "hmlp"])["hnet_type"] == "hdeconv"


@pytest.mark.parametrize("name", ["main_net_args", "hnet_args"])
def test_prefixes_keep_networks_apart(name):
    made = parser()
    function = getattr(cli_args, name)
    function(made, **everything(name))
    group = function(made, prefix="gen_", pf_name="generator", **everything(name))
    assert "generator" in group.title
    documented = DOCUMENTED[name]
    expected = {**documented, **{f"gen_{option}": value for option, value in documented.items()}}
    assert vars(made.parse_args([])) == expected
    act = "net_act" if name == "main_net_args" else "hnet_net_act"
    found = vars(made.parse_args([f"--gen_{act}", "elu"]))
    assert (found[act], found[f"gen_{act}"]) == ("relu", "elu")
    with pytest.raises(ValueError, match="Tell networks apart by a prefix"):
        function(made)


def test_groups_are_returned_for_more_options():
    made = parser()
    group = cli_args.main_net_args(made, prefix="gen_")
    assert cli_args.generator_args(group, dlatent_dim=5) is None
    cli_args.train_args(made).add_argument("--own", type=int, default=3)
    found = made.parse_args(["--latent_std", "0.5"])
    assert (found.latent_dim, found.latent_std, found.own) == (5, 0.5, 3)
    other = parser()
    cli_args.generator_args(other)
    assert vars(other.parse_args([])) == {"latent_dim": 3, "latent_std": 1.0}


def test_gan_args_warns_and_forwards():
    made = parser()
    with pytest.warns(DeprecationWarning, match="generator_args"):
        group = cli_args.gan_args(made)
    group.add_argument("--more")
    shown = ("mlp_arch", "net_act", "dropout_rate", "specnorm", "batchnorm")
    documented = DOCUMENTED["main_net_args"]
    assert vars(made.parse_args([])) == {
        **{f"{prefix}{option}": documented[option] for prefix in ("gen_", "dis_") for option in shown},
        "latent_dim": 3, "latent_std": 1.0, "more": None,
    }  # fmt: skip


GROUPS = [*DOCUMENTED, "generator_args", "gan_args"]


def help_text(name):
    made = argparse.ArgumentParser(
        add_help=False, usage="script [options]", formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        getattr(cli_args, name)(made, **(everything(name) if name in DOCUMENTED else {}))
    return made.format_help()


@pytest.mark.parametrize("name", GROUPS)
def test_help(name, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = help_text(name)
    for option in DOCUMENTED.get(name, ()):
        assert re.search(rf"^  --{option}\b", text, re.MULTILINE)
    assert text == (HELP / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: cli_args.main_net_args(p, allowed_nets=["vgg"]), ValueError, "must be one of 'mlp'"),
        (lambda p: cli_args.main_net_args(p, allowed_nets=[]), ValueError, "at least one"),
        (lambda p: cli_args.main_net_args(p, allowed_nets="mlp"), TypeError, "must be a list"),
        (lambda p: cli_args.main_net_args(p, dnet_act="gelu"), ValueError, "default of net_act"),
        (lambda p: cli_args.main_net_args(p, allowed_nets=["lenet"], dlenet_type="x"), ValueError, "lenet_type"),
        (lambda p: cli_args.main_net_args(p, prefix=3), TypeError, "prefix must be text"),
        (lambda p: cli_args.main_net_args(p, prefix="--gen "), ValueError, "letters, digits"),
        (lambda p: cli_args.hnet_args(p, allowed_nets=["mlp"]), ValueError, "must be one of 'hmlp'"),
        (lambda p: cli_args.hnet_args(p, dmlp_arch="3"), TypeError, "dmlp_arch"),
        (lambda p: cli_args.cl_args(p, show_cl_scenario=True, dcl_scenario=4), ValueError, "cl_scenario"),
        (lambda p: cli_args.train_args("parser"), TypeError, "ArgumentParser"),
        (lambda p: cli_args.generator_args(None), TypeError, "agroup must be"),
        (lambda p: (cli_args.eval_args(p), cli_args.eval_args(p)), ValueError, "--val_iter yet"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(parser())
