"""Options of a run as a whole: where it writes, on which device, with which random numbers."""

from __future__ import annotations

import argparse
import datetime

from hnbayes.training.arguments.option import Group, Option, add_group, choose

OPTIONS = (
    Option("num_workers", int, "Processes that load data, besides the one that trains.", default=8),
    Option("out_dir", str, "Folder for all that the run writes.", placeholder="FOLDER"),
    Option("use_cuda", bool, "Compute on a GPU where there is one."),
    Option("no_cuda", bool, "Compute on the CPU, even where there is a GPU."),
    Option("loglevel_info", bool, "Show messages on the console from INFO on, not those for debugging."),
    Option("deterministic_run", bool, "Compute so that the same seed gives the same numbers again, even if slower."),
    Option("publication_style", bool, "Draw figures as they are to appear in print."),
    Option("show_plots", bool, "Show figures on the screen, besides writing them."),
    Option("data_random_seed", int, "Seed of the random numbers that data are made from.", default=42),
    Option("random_seed", int, "Seed of all other random numbers.", default=42),
)


def miscellaneous_args(
    parser: argparse.ArgumentParser,
    big_data: bool = True,
    synthetic_data: bool = False,
    show_plots: bool = False,
    no_cuda: bool = False,
    dout_dir: str | None = None,
    show_publication_style: bool = False,
) -> Group:
    """Add the options of a run: what `setup_environment` reads, and a few more.

    `out_dir`, `loglevel_info`, `deterministic_run` and `random_seed` are always among them.

    Args:
        parser: the parser.
        big_data: data are loaded from the disk during training: offer `num_workers`.
        synthetic_data: data are made at random: offer `data_random_seed`, apart from `random_seed`.
        show_plots: offer `show_plots`.
        no_cuda: a GPU is used only if asked for: offer `use_cuda` instead of `no_cuda`.
        dout_dir: default of `out_dir`; None for `./out/run_<YY>-<MM>-<DD>_<hh>-<mm>-<ss>` of the present.
        show_publication_style: offer `publication_style`.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import miscellaneous_args
        >>> parser = argparse.ArgumentParser()
        >>> group = miscellaneous_args(parser, big_data=False, dout_dir="out")
        >>> config = parser.parse_args(["--random_seed", "7"])
        >>> config.out_dir, config.random_seed
        ('out', 7)
    """
    if dout_dir is None:
        dout_dir = datetime.datetime.now().strftime("./out/run_%y-%m-%d_%H-%M-%S")
    show = {
        "num_workers": big_data,
        "use_cuda": no_cuda,
        "no_cuda": not no_cuda,
        "publication_style": show_publication_style,
        "show_plots": show_plots,
        "data_random_seed": synthetic_data,
    }
    return add_group(parser, "Run", choose(OPTIONS, show, {"out_dir": dout_dir}))
