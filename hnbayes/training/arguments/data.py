"""Options of data sets and of evaluation."""

from __future__ import annotations

import argparse

from hnbayes.training.arguments.option import Group, Option, add_group, choose

DATA_OPTIONS = (
    Option("disable_data_augmentation", bool, "Train on the data as they are, not on random variations of them."),
    Option("data_dir", str, "Folder in which data sets are, or into which they are loaded.", placeholder="FOLDER"),
)

EVALUATION_OPTIONS = (
    Option("val_iter", int, "Training iterations from one validation to the next."),
    Option("val_batch_size", int, "Samples in a batch of validation or test data."),
    Option("val_set_size", int, "Training samples set apart for validation; 0 for none."),
    Option("test_with_val_set", bool, "Report results on the validation set instead of the test set."),
)


def data_args(
    parser: argparse.ArgumentParser,
    show_disable_data_augmentation: bool = False,
    show_data_dir: bool = False,
    ddata_dir: str = ".",
) -> Group:
    """Add the options of data sets.

    On the command line any unambiguous beginning of an option will do, so `--disable_data_augment` is
    `--disable_data_augmentation`.

    Args:
        parser: the parser.
        show_disable_data_augmentation: offer `disable_data_augmentation`.
        show_data_dir: offer `data_dir`.
        ddata_dir: its default.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import data_args
        >>> parser = argparse.ArgumentParser()
        >>> group = data_args(parser, show_data_dir=True)
        >>> parser.parse_args(["--data_dir", "data"])
        Namespace(data_dir='data')
    """
    show = {"disable_data_augmentation": show_disable_data_augmentation, "data_dir": show_data_dir}
    return add_group(parser, "Data", choose(DATA_OPTIONS, show, {"data_dir": ddata_dir}))


def eval_args(
    parser: argparse.ArgumentParser,
    dval_iter: int = 500,
    show_val_batch_size: bool = False,
    dval_batch_size: int = 256,
    show_val_set_size: bool = False,
    dval_set_size: int = 0,
    show_test_with_val_set: bool = False,
) -> Group:
    """Add the options of validation and testing; `val_iter` is always among them.

    Args:
        parser: the parser.
        dval_iter: default of `val_iter`.
        show_val_batch_size: offer `val_batch_size`.
        dval_batch_size: its default.
        show_val_set_size: offer `val_set_size`.
        dval_set_size: its default.
        show_test_with_val_set: offer `test_with_val_set`.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import eval_args
        >>> parser = argparse.ArgumentParser()
        >>> group = eval_args(parser, show_val_set_size=True)
        >>> parser.parse_args(["--val_set_size", "100"])
        Namespace(val_iter=500, val_set_size=100)
    """
    show = {
        "val_batch_size": show_val_batch_size,
        "val_set_size": show_val_set_size,
        "test_with_val_set": show_test_with_val_set,
    }
    defaults = {"val_iter": dval_iter, "val_batch_size": dval_batch_size, "val_set_size": dval_set_size}
    return add_group(parser, "Validation and testing", choose(EVALUATION_OPTIONS, show, defaults))
