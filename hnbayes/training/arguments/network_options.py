"""The tables of main networks' options: those of one type, those of all, and which of these a type doesn't heed."""

from __future__ import annotations

from hnbayes.training.arguments.option import Option, choose

# Options that belong to one type of network. The types are those of `get_mnet_model`.
OWN_OPTIONS: dict[str, tuple[Option, ...]] = {
    "mlp": (Option("mlp_arch", str, "MLP: units of each hidden layer, such as 100,100.", placeholder="SIZES"),),
    "lenet": (
        Option("lenet_type", str, "LeNet: which of its sizes.", choices=("mnist_small", "mnist_large", "cifar")),
    ),
    "resnet": (
        Option("resnet_block_depth", int, "ResNet: residual blocks in each of its three groups."),
        Option(
            "resnet_channel_sizes",
            str,
            "ResNet: channels of the first layer and of the three groups.",
            placeholder="SIZES",
        ),
    ),
    "wrn": (
        Option("wrn_block_depth", int, "Wide ResNet: residual blocks in each of its three groups."),
        Option("wrn_widening_factor", int, "Wide ResNet: how many times wider than a ResNet it is."),
        Option("wrn_use_fc_bias", bool, "Wide ResNet: give the last layer a bias."),
    ),
    "iresnet": (
        Option("iresnet_use_fc_bias", bool, "ImageNet ResNet: give the last layer a bias."),
        Option(
            "iresnet_channel_sizes",
            str,
            "ImageNet ResNet: channels of the first layer and of the four groups.",
            placeholder="SIZES",
        ),
        Option(
            "iresnet_blocks_per_group",
            str,
            "ImageNet ResNet: residual blocks in each of the four groups.",
            placeholder="SIZES",
        ),
        Option("iresnet_bottleneck_blocks", bool, "ImageNet ResNet: bottleneck blocks, of three layers, not of two."),
        Option(
            "iresnet_projection_shortcut",
            bool,
            "ImageNet ResNet: let shortcuts between groups be 1x1 convolutions, not copies filled up with zeros.",
        ),
    ),
    "zenke": (),
    "bio_conv_net": (),
    "chunked_mlp": (
        Option("cmlp_arch", str, "Chunked MLP: hidden units of the network itself.", placeholder="SIZES"),
        Option(
            "cmlp_chunk_arch", str, "Chunked MLP: hidden units of the one that reduces a chunk.", placeholder="SIZES"
        ),
        Option("cmlp_in_cdim", int, "Chunked MLP: size of the chunks that inputs are cut into."),
        Option("cmlp_out_cdim", int, "Chunked MLP: what size each chunk is reduced to."),
        Option("cmlp_cemb_dim", int, "Chunked MLP: size of the embeddings that tell chunks apart."),
    ),
    "simple_rnn": (
        Option("srnn_rec_layers", str, "RNN: units of each recurrent layer.", placeholder="SIZES"),
        Option("srnn_pre_fc_layers", str, "RNN: units of fully-connected layers before those.", placeholder="SIZES"),
        Option(
            "srnn_post_fc_layers",
            str,
            "RNN: units of hidden fully-connected layers after those.",
            placeholder="SIZES",
        ),
        Option("srnn_no_fc_out", bool, "RNN: let the output layer be recurrent too, instead of fully connected."),
        Option("srnn_rec_type", str, "RNN: which recurrent layers.", choices=("lstm", "elman")),
    ),
}

# Options that all types of network have; hypernetworks have them too.
SHARED_OPTIONS = (
    Option(
        "net_act", str, "Activation function of hidden layers.", choices=("linear", "sigmoid", "relu", "elu", "tanh")
    ),
    Option("no_bias", bool, "Leave biases out of all layers."),
    Option("dropout_rate", float, "Dropout rate of hidden layers; -1 for no dropout."),
    Option("specnorm", bool, "Divide each weight matrix by its largest singular value (spectral normalisation)."),
    Option("batchnorm", bool, "Normalise hidden layers by the statistics of the batch."),
    Option("no_batchnorm", bool, "Leave out batch normalisation, which this network has otherwise."),
    Option(
        "bn_no_running_stats",
        bool,
        "Batch normalisation without running statistics: at test time too, those of the batch are used.",
    ),
    Option("bn_distill_stats", bool, "Teach the running statistics of batch normalisation to the hypernetwork."),
    Option(
        "bn_no_stats_checkpointing",
        bool,
        "Share the running statistics of batch normalisation between tasks, instead of storing them for each.",
    ),
)

# Shared options that a type of network has no use for.
WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "mlp": (),
    "lenet": ("net_act", "no_bias", "specnorm", "batchnorm"),
    "resnet": ("net_act", "dropout_rate", "specnorm"),
    "wrn": ("net_act", "specnorm"),
    "iresnet": ("net_act", "dropout_rate", "specnorm"),
    "zenke": ("net_act", "no_bias", "specnorm", "batchnorm"),
    "bio_conv_net": ("net_act", "no_bias", "dropout_rate", "specnorm", "batchnorm"),
    "chunked_mlp": (),
    "simple_rnn": ("dropout_rate", "specnorm", "batchnorm"),
}
# Activation functions that SimpleRNN is defined with.
RECURRENT_ACTIVATIONS = ("relu", "tanh")


def type_option(name: str, types: list[str]) -> list[Option]:
    """The option that chooses among several types of network, the first by default; none where there is one only."""
    if len(types) == 1:
        return []
    return [Option(name, str, "Type of the network.", default=types[0], choices=tuple(types))]


def shared_options(
    *,
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
) -> list[Option]:
    """Those of the shared options that are to be shown; for the arguments see `main_net_args`."""
    show = {
        "net_act": show_net_act,
        "no_bias": show_no_bias,
        "dropout_rate": show_dropout_rate,
        "specnorm": show_specnorm,
        "batchnorm": show_batchnorm,
        "no_batchnorm": show_no_batchnorm,
        "bn_no_running_stats": show_bn_no_running_stats,
        "bn_distill_stats": show_bn_distill_stats,
        "bn_no_stats_checkpointing": show_bn_no_stats_checkpointing,
    }
    return choose(SHARED_OPTIONS, show, {"net_act": dnet_act, "dropout_rate": ddropout_rate})
