"""Networks from command-line options."""

from __future__ import annotations

import argparse
import json
import pathlib

import pytest
import torch

from hnbayes.hnets import get_hypernet
from hnbayes.mnets import get_mnet_model
from hnbayes.mnets.registry import BUILDERS, Config, register
from hnbayes.utils import sim_utils

SHAPES = json.loads((pathlib.Path(__file__).parent / "param_shapes.json").read_text())


def parse(options):
    """Options as a parser would give them: numbers as integers, flags as True, lists as text."""
    namespace = argparse.Namespace()
    for option in options:
        name, _, value = option.lstrip("-").partition("=")
        is_text = name.endswith(("arch", "layers", "sizes", "group"))
        setattr(namespace, name, value if is_text else int(value) if value.isdigit() else value or True)
    return namespace


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_order_of_parameters_is_kept(name):
    """Weights stored by existing code load: their shapes, in their order."""
    entry = SHAPES[name]
    config = parse(entry["command_line"])
    if "net_type" in entry:
        net = get_mnet_model(config, entry["net_type"], entry["in_shape"], entry["out_shape"], "cpu")
    else:
        chunks = [entry["target_shapes"][:2], entry["target_shapes"][2:]]
        net = get_hypernet(
            config, "cpu", entry["hnet_type"], entry["target_shapes"], 3, shmlp_chunk_shapes=chunks,
            shmlp_num_per_chunk=[1, 1], shmlp_assembly_fct=lambda c: [*c[0], *c[1]],
        )  # fmt: skip
    assert net.param_shapes == entry["param_shapes"]


def test_options_are_read(capsys):
    config = argparse.Namespace(
        gen_mlp_arch="7", gen_net_act="tanh", gen_no_bias=True, gen_dropout_rate=0.5, gen_batchnorm=True,
        gen_bn_distill_stats=True, gen_specnorm=False,
    )  # fmt: skip
    net = get_mnet_model(
        config, "mlp", [4, 2], [3], torch.device("cpu"), cprefix="gen_", no_weights=True, verbose=False
    )
    assert net.param_shapes == [[7], [7], [7, 8], [3, 7]]
    assert net.hyper_shapes_learned == net.param_shapes
    assert net.hyper_shapes_distilled == [[7], [7]]
    assert isinstance(net._activation, torch.nn.Tanh)
    assert net._dropout.p == 0.5
    wide = get_mnet_model(argparse.Namespace(no_batchnorm=True), "wrn", [8, 8, 3], [3], "cpu", n=1, k=1, verbose=False)
    assert wide.batchnorm_layers is None
    config = argparse.Namespace(no_batchnorm=False, bn_no_running_stats=True, wrn_use_fc_bias=True)
    wide = get_mnet_model(config, "wrn", [8, 8, 3], [3], "cpu", n=1, k=1, verbose=False)
    assert wide.batchnorm_layers[0].num_stats == 0
    assert wide.param_shapes[-1] == [3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("conditional", [False, True])
def test_deconvolutional_hypernetworks(conditional):
    config = argparse.Namespace(
        hdeconv_shape="8,8", hdeconv_num_layers=3, hdeconv_filters="3,2", hdeconv_kernels="3", chunk_emb_size=2,
        hdeconv_attention_layers="-1", cond_emb_size="5", hnet_net_act="elu", use_cond_chunk_embs=conditional,
    )  # fmt: skip
    whole = get_hypernet(config, "cpu", "hdeconv", [[6, 5]], 2, verbose=False)
    assert whole.forward(cond_id=1)[0].shape == (6, 5)
    assert whole.get_cond_in_emb(0).shape == (5,)
    chunked = get_hypernet(config, "cpu", "chunked_hdeconv", [[60, 5]], 2, verbose=False)
    assert chunked.num_chunks == 5
    assert chunked.cond_chunk_embs == conditional
    assert chunked.forward(cond_id=1)[0].shape == (60, 5)


def test_a_network_registers_itself():
    try:
        register("own")(lambda config, in_shape, out_shape, **kwargs: torch.nn.Linear(in_shape[0], out_shape[0]))
        assert get_mnet_model(argparse.Namespace(), "own", [2], [3], "cpu").weight.shape == (3, 2)
        with pytest.raises(ValueError, match="registered already"):
            register("own")(lambda: None)
    finally:
        BUILDERS.pop("own")


def test_documented_names():
    assert sim_utils.get_mnet_model is get_mnet_model
    assert sim_utils.get_hypernet is get_hypernet


def test_bad_options():
    nothing = argparse.Namespace()
    for call, message in (
        (lambda: get_mnet_model(nothing, "vgg", [1], [1], "cpu"), "net_type must be one of"),
        (lambda: get_hypernet(nothing, "cpu", "mlp", [[1]], 1), "net_type must be one of"),
        (lambda: get_mnet_model(nothing, "mlp", None, [1], "cpu"), "in_shape must be given"),
        (lambda: get_mnet_model(nothing, "lenet", [28, 28], [1], "cpu"), "height, width, channels"),
        (lambda: get_mnet_model(argparse.Namespace(mlp_arch="a"), "mlp", [1], [1], "cpu"), "must be integers"),
        (lambda: get_mnet_model(argparse.Namespace(net_act="gelu"), "mlp", [1], [1], "cpu"), "net_act must be one of"),
        (
            lambda: get_mnet_model(argparse.Namespace(srnn_rec_type="gru"), "simple_rnn", [1], [1], "cpu"),
            "srnn_rec_type",
        ),
        (lambda: get_hypernet(nothing, "cpu", "structured_hmlp", [[1]], 1), "shmlp_chunk_shapes"),
        (lambda: Config(nothing).require("mlp_arch"), "config must have the option"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert Config(argparse.Namespace(a="1, 2")).ints("a") == [1, 2]
    assert Config(argparse.Namespace(a=4)).require("a") == 4
