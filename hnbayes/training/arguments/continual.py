"""Options of continual learning: tasks in sequence, and how they are told apart."""

from __future__ import annotations

import argparse

from hnbayes.training.arguments.option import Group, Option, add_group, choose

OPTIONS = (
    Option("beta", float, "Strength of the regulariser that keeps former tasks."),
    Option("train_from_scratch", bool, "Train a new network for each task, which remembers nothing of the others."),
    Option("multi_head", bool, "Give each task output units of its own; the task must then be known at test time."),
    Option(
        "cl_scenario",
        int,
        "What is known at test time: 1, the task; 2, not the task, which isn't asked for either; 3, not the task, "
        "which has to be inferred.",
        choices=(1, 2, 3),
    ),
    Option(
        "split_head_cl3",
        bool,
        "In scenario 3, let each task train its own output units alone, instead of those of all tasks so far.",
    ),
    Option("num_tasks", int, "Number of tasks."),
    Option("num_classes_per_task", int, "Number of classes of each task."),
    Option(
        "calc_hnet_reg_targets_online",
        bool,
        "Compute the targets of the hypernetwork's regulariser at each step from a copy of the former hypernetwork, "
        "instead of storing them for every task: less memory, more time.",
    ),
    Option(
        "hnet_reg_batch_size",
        int,
        "Number of former tasks, drawn anew at each step, that the hypernetwork's regulariser looks at; -1 for all.",
    ),
)


def cl_args(
    parser: argparse.ArgumentParser,
    show_beta: bool = True,
    dbeta: float = 0.01,
    show_from_scratch: bool = False,
    show_multi_head: bool = False,
    show_cl_scenario: bool = False,
    show_split_head_cl3: bool = True,
    dcl_scenario: int = 1,
    show_num_tasks: bool = False,
    dnum_tasks: int = 1,
    show_num_classes_per_task: bool = False,
    dnum_classes_per_task: int = 2,
    show_calc_hnet_reg_targets_online: bool = False,
    show_hnet_reg_batch_size: bool = False,
    dhnet_reg_batch_size: int = -1,
) -> Group:
    """Add the options of continual learning.

    Args:
        parser: the parser.
        show_beta: offer `beta`.
        dbeta: its default.
        show_from_scratch: offer `train_from_scratch`.
        show_multi_head: offer `multi_head`.
        show_cl_scenario: offer `cl_scenario`.
        show_split_head_cl3: offer `split_head_cl3`, where `cl_scenario` is offered.
        dcl_scenario: default of `cl_scenario`.
        show_num_tasks: offer `num_tasks`.
        dnum_tasks: its default.
        show_num_classes_per_task: offer `num_classes_per_task`.
        dnum_classes_per_task: its default.
        show_calc_hnet_reg_targets_online: offer `calc_hnet_reg_targets_online`.
        show_hnet_reg_batch_size: offer `hnet_reg_batch_size`.
        dhnet_reg_batch_size: its default.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names, or `dcl_scenario` is not 1, 2 or 3.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import cl_args
        >>> parser = argparse.ArgumentParser()
        >>> group = cl_args(parser, show_num_tasks=True, dnum_tasks=5)
        >>> parser.parse_args(["--beta", "0.1"])
        Namespace(beta=0.1, num_tasks=5)
    """
    show = {
        "beta": show_beta,
        "train_from_scratch": show_from_scratch,
        "multi_head": show_multi_head,
        "cl_scenario": show_cl_scenario,
        "split_head_cl3": show_cl_scenario and show_split_head_cl3,
        "num_tasks": show_num_tasks,
        "num_classes_per_task": show_num_classes_per_task,
        "calc_hnet_reg_targets_online": show_calc_hnet_reg_targets_online,
        "hnet_reg_batch_size": show_hnet_reg_batch_size,
    }
    defaults = {
        "beta": dbeta,
        "cl_scenario": dcl_scenario,
        "num_tasks": dnum_tasks,
        "num_classes_per_task": dnum_classes_per_task,
        "hnet_reg_batch_size": dhnet_reg_batch_size,
    }
    return add_group(parser, "Tasks in sequence", choose(OPTIONS, show, defaults))
