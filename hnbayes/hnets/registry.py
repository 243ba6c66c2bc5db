"""Hypernetworks by name: `get_hypernet` builds what a command line describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hnbayes.mnets.registry import Config, registering

Builder = Callable[..., Any]
BUILDERS: dict[str, Builder] = {}


def register(net_type: str) -> Callable[[Builder], Builder]:
    """Make a builder known under a name.

    A builder takes a `Config`, the target's shapes, a dict of the arguments that all hypernetworks have, and the
    keyword arguments for structured ones.

    Raises:
        ValueError: if the name is taken.
    """
    return registering(BUILDERS, "hypernetwork", net_type)


def get_hypernet(
    config: Any,
    device: torch.device | str,
    net_type: str,
    target_shapes: Sequence[Sequence[int]],
    num_conds: int,
    no_cond_weights: bool = False,
    no_uncond_weights: bool = False,
    uncond_in_size: int = 0,
    shmlp_chunk_shapes: Sequence[Sequence[Sequence[int]]] | None = None,
    shmlp_num_per_chunk: Sequence[int] | None = None,
    shmlp_assembly_fct: Callable[..., Any] | None = None,
    verbose: bool = True,
    cprefix: str | None = None,
) -> Any:
    """Build a hypernetwork from command-line options.

    Args:
        config: the parsed command line, with options as `cli_args.hnet_args` adds them; options that aren't there have
            their defaults.
        device: where the hypernetwork goes.
        net_type: "hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv" or "chunked_hdeconv", or a name that another was
            registered under.
        target_shapes: shapes of the tensors to generate.
        num_conds: how many conditions there are.
        no_cond_weights: whether conditional weights come from outside.
        no_uncond_weights: whether unconditional weights do.
        uncond_in_size: size of unconditional inputs.
        shmlp_chunk_shapes: `chunk_shapes` of `StructuredHMLP`.
        shmlp_num_per_chunk: its `num_per_chunk`.
        shmlp_assembly_fct: its `assembly_fct`.
        verbose: print the number of weights.
        cprefix: what the options' names begin with.

    Returns:
        The hypernetwork.

    Raises:
        ValueError: if the type is unknown, or options don't fit.

    Example:
        >>> import argparse
        >>> config = argparse.Namespace(hmlp_arch="10,10", cond_emb_size=4)
        >>> hnet = hnbayes.hnets.get_hypernet(config, "cpu", "hmlp", [[4, 3], [4]], num_conds=2, verbose=False)
        >>> hnet.num_outputs
        16
    """
    if net_type not in BUILDERS:
        raise ValueError(f"net_type must be one of {', '.join(sorted(BUILDERS))}; received {net_type!r}.")
    options = Config(config, cprefix)
    shared = {
        "uncond_in_size": uncond_in_size,
        "cond_in_size": int(options.get("cond_emb_size", 8)),
        "no_uncond_weights": no_uncond_weights,
        "no_cond_weights": no_cond_weights,
        "num_cond_embs": num_conds,
        "verbose": verbose,
    }
    chunks = (shmlp_chunk_shapes, shmlp_num_per_chunk, shmlp_assembly_fct)
    hnet: Any = BUILDERS[net_type](options, target_shapes, shared, chunks)
    return hnet.to(device)


def common(config: Config) -> dict[str, Any]:
    """Options that hypernetworks share with main networks, as constructor arguments."""
    return {
        "activation_fn": config.activation("hnet_net_act"),
        "use_bias": not config.get("hnet_no_bias", False),
        "use_spectral_norm": config.get("hnet_specnorm", False),
        "use_batch_norm": not config.get("hnet_no_batchnorm", True) or bool(config.get("hnet_batchnorm", False)),
    }


def perceptron(config: Config) -> dict[str, Any]:
    """Options of hypernetworks with fully connected layers."""
    return {
        **common(config),
        "layers": config.ints("hmlp_arch", "100,100"),
        "dropout_rate": config.get("hnet_dropout_rate", -1),
    }


def deconvolutional(config: Config) -> dict[str, Any]:
    """Options of hypernetworks with transposed convolutions."""
    kernels = config.ints("hdeconv_kernels", "5")
    filters = config.ints("hdeconv_filters", "")
    return {
        **common(config),
        "hyper_img_shape": config.ints("hdeconv_shape", "512,512,3"),
        "num_layers": config.get("hdeconv_num_layers", 5),
        "num_filters": filters or None,
        "kernel_size": kernels[0] if len(kernels) == 1 else kernels,
        # A negative number stands for none.
        "sa_units": [i for i in config.ints("hdeconv_attention_layers", "1,3") if i >= 0],
    }


def chunked(config: Config) -> dict[str, Any]:
    """Options of chunk embeddings."""
    return {
        "chunk_emb_size": int(config.get("chunk_emb_size", 8)),
        "cond_chunk_embs": config.get("use_cond_chunk_embs", False),
    }
