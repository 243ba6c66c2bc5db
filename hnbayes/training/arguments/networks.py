"""Options of main networks: which one, its sizes, and what all of them may have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hnbayes.training.arguments.network_options import OWN_OPTIONS, shared_options, type_option
from hnbayes.training.arguments.option import Group, add_group, check_allowed, check_prefix, choose, group_title


def main_net_args(
    parser: argparse.ArgumentParser,
    allowed_nets: Sequence[str] = ["mlp"],
    dmlp_arch: str = "100,100",
    dlenet_type: str = "mnist_small",
    dcmlp_arch: str = "10,10",
    dcmlp_chunk_arch: str = "10,10",
    dcmlp_in_cdim: int = 100,
    dcmlp_out_cdim: int = 10,
    dcmlp_cemb_dim: int = 8,
    dresnet_block_depth: int = 5,
    dresnet_channel_sizes: str = "16,16,32,64",
    dwrn_block_depth: int = 4,
    dwrn_widening_factor: int = 10,
    diresnet_channel_sizes: str = "64,64,128,256,512",
    diresnet_blocks_per_group: str = "2,2,2,2",
    dsrnn_rec_layers: str = "10",
    dsrnn_pre_fc_layers: str = "",
    dsrnn_post_fc_layers: str = "",
    dsrnn_rec_type: str = "lstm",
    show_net_act: bool = True,
    dnet_act: str = "relu",
    show_no_bias: bool = False,
    show_dropout_rate: bool = True,
    ddropout_rate: float = -1,
    show_specnorm: bool = True,
    show_batchnorm: bool = True,
    show_no_batchnorm: bool = False,
    show_bn_no_running_stats: bool = False,
    show_bn_distill_stats: bool = False,
    show_bn_no_stats_checkpointing: bool = False,
    prefix: str | None = None,
    pf_name: str | None = None,
) -> Group:
    """Add the options of main networks, which `get_mnet_model` reads.

    There are options of the allowed types alone, and `net_type` only where several are allowed.

    Args:
        parser: the parser.
        allowed_nets: types of network, of those that `get_mnet_model` knows; the first is the default.
        dmlp_arch: default of `mlp_arch`.
        dlenet_type: default of `lenet_type`.
        dcmlp_arch: default of `cmlp_arch`.
        dcmlp_chunk_arch: default of `cmlp_chunk_arch`.
        dcmlp_in_cdim: default of `cmlp_in_cdim`.
        dcmlp_out_cdim: default of `cmlp_out_cdim`.
        dcmlp_cemb_dim: default of `cmlp_cemb_dim`.
        dresnet_block_depth: default of `resnet_block_depth`.
        dresnet_channel_sizes: default of `resnet_channel_sizes`.
        dwrn_block_depth: default of `wrn_block_depth`.
        dwrn_widening_factor: default of `wrn_widening_factor`.
        diresnet_channel_sizes: default of `iresnet_channel_sizes`.
        diresnet_blocks_per_group: default of `iresnet_blocks_per_group`.
        dsrnn_rec_layers: default of `srnn_rec_layers`.
        dsrnn_pre_fc_layers: default of `srnn_pre_fc_layers`.
        dsrnn_post_fc_layers: default of `srnn_post_fc_layers`.
        dsrnn_rec_type: default of `srnn_rec_type`.
        show_net_act: offer `net_act`.
        dnet_act: its default.
        show_no_bias: offer `no_bias`.
        show_dropout_rate: offer `dropout_rate`.
        ddropout_rate: its default.
        show_specnorm: offer `specnorm`.
        show_batchnorm: offer `batchnorm`.
        show_no_batchnorm: offer `no_batchnorm`; `get_mnet_model` then normalises unless it is given.
        show_bn_no_running_stats: offer `bn_no_running_stats`.
        show_bn_distill_stats: offer `bn_distill_stats`.
        show_bn_no_stats_checkpointing: offer `bn_no_stats_checkpointing`.
        prefix: what the options' names begin with, such as "gen_", so that a parser can describe several networks.
        pf_name: what the network with that prefix is called in the help text, such as "generator".

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser, or the prefix no text.
        ValueError: if a type of network or a default is unknown, or the parser has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import main_net_args
        >>> parser = argparse.ArgumentParser()
        >>> group = main_net_args(parser, allowed_nets=["mlp"])
        >>> config = parser.parse_args(["--mlp_arch", "20,20", "--net_act", "tanh"])
        >>> net = hnbayes.mnets.get_mnet_model(config, "mlp", [1], [1], "cpu", verbose=False)
        >>> net.param_shapes[0]
        [20, 1]
    """
    types = check_allowed(allowed_nets, OWN_OPTIONS)
    defaults = {
        "mlp_arch": dmlp_arch,
        "lenet_type": dlenet_type,
        "cmlp_arch": dcmlp_arch,
        "cmlp_chunk_arch": dcmlp_chunk_arch,
        "cmlp_in_cdim": dcmlp_in_cdim,
        "cmlp_out_cdim": dcmlp_out_cdim,
        "cmlp_cemb_dim": dcmlp_cemb_dim,
        "resnet_block_depth": dresnet_block_depth,
        "resnet_channel_sizes": dresnet_channel_sizes,
        "wrn_block_depth": dwrn_block_depth,
        "wrn_widening_factor": dwrn_widening_factor,
        "iresnet_channel_sizes": diresnet_channel_sizes,
        "iresnet_blocks_per_group": diresnet_blocks_per_group,
        "srnn_rec_layers": dsrnn_rec_layers,
        "srnn_pre_fc_layers": dsrnn_pre_fc_layers,
        "srnn_post_fc_layers": dsrnn_post_fc_layers,
        "srnn_rec_type": dsrnn_rec_type,
    }
    own = [option for net_type in OWN_OPTIONS if net_type in types for option in OWN_OPTIONS[net_type]]
    shared = shared_options(
        show_net_act=show_net_act,
        dnet_act=dnet_act,
        show_no_bias=show_no_bias,
        show_dropout_rate=show_dropout_rate,
        ddropout_rate=ddropout_rate,
        show_specnorm=show_specnorm,
        show_batchnorm=show_batchnorm,
        show_no_batchnorm=show_no_batchnorm,
        show_bn_no_running_stats=show_bn_no_running_stats,
        show_bn_distill_stats=show_bn_distill_stats,
        show_bn_no_stats_checkpointing=show_bn_no_stats_checkpointing,
    )
    options = [*type_option("net_type", types), *choose(own, defaults=defaults), *shared]
    return add_group(parser, group_title("Main network", pf_name), options, check_prefix(prefix))
