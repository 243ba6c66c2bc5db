"""Matplotlib's settings for small figures, ColorBrewer's colours, and figures that have lost their canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hnbayes._checks import check_choice, check_positive, describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ColorBrewer's name of each family.
FAMILIES = {"Set2": "Set2", "Set3": "Set3", "Dark2": "Dark2", "Pastel": "Pastel1"}


def configure_matplotlib_params(
    fig_size: Sequence[float] = [6.4, 4.8],
    two_axes: bool = True,
    font_size: float = 8,
    usetex: bool = False,
) -> None:
    """Set matplotlib's defaults (`rcParams`, for all figures to come).

    Args:
        fig_size: width and height in inches.
        two_axes: draw the left and the bottom axis only, not the frame around.
        font_size: of all text, in points.
        usetex: whether LaTeX sets the text; it must be installed.

    Raises:
        TypeError: if a size is not a number.
        ValueError: if a size is not positive, or `fig_size` doesn't have two.

    Example:
        >>> import matplotlib
        >>> from hnbayes.utils.misc import configure_matplotlib_params
        >>> with matplotlib.rc_context():  # for these lines alone
        ...     configure_matplotlib_params(fig_size=[4, 3], font_size=10)
        ...     print(matplotlib.rcParams["figure.figsize"], matplotlib.rcParams["axes.spines.top"])
        [4.0, 3.0] False
    """
    if not isinstance(fig_size, (list, tuple)) or len(fig_size) != 2:
        raise ValueError(f"fig_size must be (width, height); received {describe(fig_size)}.")
    size = [check_positive("fig_size", length) for length in fig_size]
    points = check_positive("font_size", font_size)
    from matplotlib import pyplot as plt

    plt.rc("figure", figsize=size)
    plt.rc("font", size=points)
    plt.rc("text", usetex=usetex)
    plt.rc("axes", labelsize=points, titlesize=points)
    plt.rc("axes.spines", top=not two_axes, right=not two_axes)
    plt.rc("xtick", labelsize=points)
    plt.rc("ytick", labelsize=points)
    plt.rc("legend", fontsize=points)


def get_colorbrewer2_colors(family: str = "Set2") -> list[str]:
    """A qualitative palette of colorbrewer2.org (Brewer and Harrower), as matplotlib ships it.

    Args:
        family: "Set2", "Set3", "Dark2" or "Pastel" (ColorBrewer's Pastel1).

    Returns:
        The palette's colours as "#rrggbb", 8 to 12 of them.

    Raises:
        ValueError: for another family.

    Example:
        >>> from hnbayes.utils.misc import get_colorbrewer2_colors
        >>> get_colorbrewer2_colors("Dark2")[:2]
        ['#1b9e77', '#d95f02']
    """
    check_choice("family", family, tuple(FAMILIES))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = colormaps[FAMILIES[family]]
    return [to_hex(palette(at)) for at in range(palette.N)]


def repair_canvas_and_show_fig(fig: Figure, close: bool = True) -> None:
    """Show a figure whose canvas was replaced, as TensorBoard's `add_figure` does.

    Args:
        fig: the figure; it gets a new canvas of the present backend.
        close: whether it is closed afterwards.

    Raises:
        TypeError: if it is no figure.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from hnbayes.utils.misc import repair_canvas_and_show_fig
        >>> fig = plt.figure()
        >>> repair_canvas_and_show_fig(fig)
        >>> plt.fignum_exists(fig.number)  # closed after it was shown
        False
    """
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    if not isinstance(fig, Figure):
        raise TypeError(f"fig must be a matplotlib figure; received {describe(fig)}.")
    # A window belongs to the figure that it was made for, so one is made for a stand-in and handed over.
    stand_in = plt.figure()
    manager = stand_in.canvas.manager
    fig.set_canvas(stand_in.canvas)
    stand_in.canvas.figure = fig
    plt.show()
    if close and manager is not None:
        plt.close(manager.num)
        plt.close(fig)  # and the window that it had before, if pyplot still knows it
