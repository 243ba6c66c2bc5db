"""The documented module `cli_args`: groups of command-line options."""

from hnbayes.training.arguments import (
    check_invalid_argument_usage,
    cl_args,
    data_args,
    eval_args,
    gan_args,
    generator_args,
    hnet_args,
    init_args,
    main_net_args,
    miscellaneous_args,
    train_args,
)

__all__ = [
    "check_invalid_argument_usage",
    "cl_args",
    "data_args",
    "eval_args",
    "gan_args",
    "generator_args",
    "hnet_args",
    "init_args",
    "main_net_args",
    "miscellaneous_args",
    "train_args",
]
