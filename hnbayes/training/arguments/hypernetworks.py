"""Options of hypernetworks, networks that make the weights of others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hnbayes.training.arguments.network_options import SHARED_OPTIONS, shared_options, type_option
from hnbayes.training.arguments.option import Group, Option, add_group, check_allowed, check_prefix, choose, group_title

# What sets the names of options that main networks have too apart from theirs.
SHARED_PREFIX = "hnet_"

PERCEPTRONS = ("hmlp", "chunked_hmlp", "structured_hmlp")
CHUNKED = ("chunked_hmlp", "structured_hmlp", "chunked_hdeconv")
DECONVOLUTIONAL = ("hdeconv", "chunked_hdeconv")
TYPES = ("hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv")

# The options that main networks have too, by their names here.
SHARED_NAMES = tuple(SHARED_PREFIX + option.name for option in SHARED_OPTIONS)

# Each option with the types of hypernetwork that have it; the types are those of `get_hypernet`.
OWN_OPTIONS: tuple[tuple[Option, tuple[str, ...]], ...] = (
    (
        Option(
            "hmlp_arch", str, "Units of each hidden layer of the hypernetwork, such as 100,100.", placeholder="SIZES"
        ),
        PERCEPTRONS,
    ),
    (Option("cond_emb_size", str, "Size of the embedding of each condition, such as a task.", placeholder="N"), TYPES),
    (Option("chmlp_chunk_size", int, "How many weights are made at a time."), ("chunked_hmlp",)),
    (
        Option("chunk_emb_size", str, "Size of the embeddings that tell chunks of weights apart.", placeholder="N"),
        CHUNKED,
    ),
    (Option("use_cond_chunk_embs", bool, "Let each condition have embeddings of chunks of its own."), CHUNKED),
    (
        Option(
            "hdeconv_shape",
            str,
            "Width and height of the image whose pixels are the weights, and its channels.",
            placeholder="SIZES",
        ),
        DECONVOLUTIONAL,
    ),
    (Option("hdeconv_num_layers", int, "Layers of the deconvolutional hypernetwork.", default=5), DECONVOLUTIONAL),
    (
        Option(
            "hdeconv_filters",
            str,
            "Channels after each layer but the last.",
            default="128,512,256,128",
            placeholder="SIZES",
        ),
        DECONVOLUTIONAL,
    ),
    (
        Option(
            "hdeconv_kernels",
            str,
            "Kernel size of the transposed convolutions: one for all of them, or one for each.",
            default=5,
            placeholder="SIZES",
        ),
        DECONVOLUTIONAL,
    ),
    (
        Option(
            "hdeconv_attention_layers",
            str,
            "Layers, counted from 0, that self-attention follows; -1 for none.",
            default="1,3",
            placeholder="LAYERS",
        ),
        DECONVOLUTIONAL,
    ),
)


def hnet_args(
    parser: argparse.ArgumentParser,
    allowed_nets: Sequence[str] = ["hmlp"],
    dhmlp_arch: str = "100,100",
    show_cond_emb_size: bool = True,
    dcond_emb_size: str | int = "8",
    dchmlp_chunk_size: int = 1000,
    dchunk_emb_size: int | str = 8,
    show_use_cond_chunk_embs: bool = True,
    dhdeconv_shape: str = "512,512,3",
    prefix: str | None = None,
    pf_name: str | None = None,
    **kwargs: Any,
) -> Group:
    """Add the options of hypernetworks, which `get_hypernet` reads.

    There are options of the allowed types alone, and `hnet_type` only where several are allowed. Options that main
    networks have too are `hnet_net_act`, `hnet_dropout_rate` and so on.

    Args:
        parser: the parser.
        allowed_nets: types of hypernetwork, of those that `get_hypernet` knows; the first is the default.
        dhmlp_arch: default of `hmlp_arch`.
        show_cond_emb_size: offer `cond_emb_size`.
        dcond_emb_size: its default.
        dchmlp_chunk_size: default of `chmlp_chunk_size`.
        dchunk_emb_size: default of `chunk_emb_size`.
        show_use_cond_chunk_embs: offer `use_cond_chunk_embs`, where a type can use it.
        dhdeconv_shape: default of `hdeconv_shape`.
        prefix: what the options' names begin with, such as "gen_", so that a parser can describe several
            hypernetworks.
        pf_name: what the hypernetwork with that prefix is called in the help text, such as "generator".
        **kwargs: those arguments of `main_net_args` from `show_net_act` to `show_bn_no_stats_checkpointing`, for the
            options that all networks have.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser, the prefix no text, or a further argument unknown.
        ValueError: if a type of hypernetwork or a default is unknown, or the parser has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import hnet_args
        >>> parser = argparse.ArgumentParser()
        >>> group = hnet_args(parser, allowed_nets=["hmlp", "chunked_hmlp"])
        >>> config = parser.parse_args(["--hnet_type", "chunked_hmlp", "--chmlp_chunk_size", "6"])
        >>> hnet = hnbayes.hnets.get_hypernet(config, "cpu", config.hnet_type, [[4, 3], [4]], 2, verbose=False)
        >>> hnet.num_chunks
        3
    """
    types = check_allowed(allowed_nets, TYPES)
    show = {"cond_emb_size": show_cond_emb_size, "use_cond_chunk_embs": show_use_cond_chunk_embs}
    defaults = {
        "hmlp_arch": dhmlp_arch,
        "cond_emb_size": dcond_emb_size,
        "chmlp_chunk_size": dchmlp_chunk_size,
        "chunk_emb_size": dchunk_emb_size,
        "hdeconv_shape": dhdeconv_shape,
    }
    own = [option for option, having in OWN_OPTIONS if set(having) & set(types)]
    shared = [replace(option, name=SHARED_PREFIX + option.name) for option in shared_options(**kwargs)]
    options = [*type_option("hnet_type", types), *choose(own, show, defaults), *shared]
    return add_group(parser, group_title("Hypernetwork", pf_name), options, check_prefix(prefix))
