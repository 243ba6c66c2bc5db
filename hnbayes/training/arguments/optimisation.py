"""Options of training: how long, in what batches, by which optimiser."""

from __future__ import annotations

import argparse

from hnbayes.training.arguments.option import Group, Option, add_group, choose

# Flags of which at most one may be given; without any it is SGD.
OPTIMISERS = ("use_adam", "use_rmsprop", "use_adadelta", "use_adagrad")

OPTIONS = (
    Option("batch_size", int, "Samples in a batch of training data."),
    Option("n_iter", int, "Number of training iterations."),
    Option("epochs", int, "Number of passes through the training data; unless -1, it replaces the iterations."),
    Option("lr", float, "Learning rate."),
    Option("momentum", float, "Momentum of SGD and RMSprop.", default=0.0),
    Option("weight_decay", float, "Strength of the L2 penalty on weights.", default=0.0),
    Option("use_adam", bool, "Optimise by Adam instead of SGD."),
    Option("adam_beta1", float, "Adam's decay rate of the first moment."),
    Option("use_rmsprop", bool, "Optimise by RMSprop instead of SGD."),
    Option("use_adadelta", bool, "Optimise by Adadelta instead of SGD."),
    Option("use_adagrad", bool, "Optimise by Adagrad instead of SGD."),
    Option(
        "clip_grad_value", float, "Clip each entry of the gradient to this absolute value; -1 for none.", default=-1.0
    ),
    Option("clip_grad_norm", float, "Shorten gradients that are longer than this; -1 for none.", default=-1.0),
)


def train_args(
    parser: argparse.ArgumentParser,
    show_lr: bool = False,
    dlr: float = 0.1,
    show_epochs: bool = False,
    depochs: int = -1,
    dbatch_size: int = 32,
    dn_iter: int = 100001,
    show_use_adam: bool = False,
    dadam_beta1: float = 0.9,
    show_use_rmsprop: bool = False,
    show_use_adadelta: bool = False,
    show_use_adagrad: bool = False,
    show_clip_grad_value: bool = False,
    show_clip_grad_norm: bool = False,
    show_adam_beta1: bool = False,
    show_momentum: bool = True,
) -> Group:
    """Add the options of training; `batch_size`, `n_iter` and `weight_decay` are always among them.

    Args:
        parser: the parser.
        show_lr: offer `lr`.
        dlr: its default.
        show_epochs: offer `epochs`.
        depochs: its default.
        dbatch_size: default of `batch_size`.
        dn_iter: default of `n_iter`.
        show_use_adam: offer `use_adam`, and with it `adam_beta1`.
        dadam_beta1: default of `adam_beta1`.
        show_use_rmsprop: offer `use_rmsprop`.
        show_use_adadelta: offer `use_adadelta`.
        show_use_adagrad: offer `use_adagrad`.
        show_clip_grad_value: offer `clip_grad_value`.
        show_clip_grad_norm: offer `clip_grad_norm`.
        show_adam_beta1: offer `adam_beta1` also without `use_adam`.
        show_momentum: offer `momentum`.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import train_args
        >>> parser = argparse.ArgumentParser()
        >>> group = train_args(parser, show_lr=True, dlr=0.01)
        >>> parser.parse_args(["--batch_size", "64"]).lr
        0.01
    """
    show = {
        "lr": show_lr,
        "epochs": show_epochs,
        "momentum": show_momentum,
        "use_adam": show_use_adam,
        "adam_beta1": show_adam_beta1 or show_use_adam,
        "use_rmsprop": show_use_rmsprop,
        "use_adadelta": show_use_adadelta,
        "use_adagrad": show_use_adagrad,
        "clip_grad_value": show_clip_grad_value,
        "clip_grad_norm": show_clip_grad_norm,
    }
    defaults = {
        "lr": dlr,
        "epochs": depochs,
        "batch_size": dbatch_size,
        "n_iter": dn_iter,
        "adam_beta1": dadam_beta1,
    }
    return add_group(parser, "Training", choose(OPTIONS, show, defaults))
