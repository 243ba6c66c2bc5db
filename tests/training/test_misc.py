"""Text helpers, matplotlib's settings and the logger."""

from __future__ import annotations

import logging

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

from hnbayes.utils import misc, torch_utils
from hnbayes.utils.logger_config import config_logger


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10,20", [10, 20]), (" 3 , -4 ", [3, -4]), ("7", [7]), (7, [7]), ("", []), ("  ", [])],
)
def test_str_to_ints(text, expected):
    assert misc.str_to_ints(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0.5,1e-3", [0.5, 0.001]), ("2", [2.0]), (0.25, [0.25]), ("", [])])
def test_str_to_floats(text, expected):
    assert misc.str_to_floats(text) == expected


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: misc.str_to_ints("1,a"), ValueError),
        (lambda: misc.str_to_ints("1.5"), ValueError),
        (lambda: misc.str_to_ints([1]), TypeError),
        (lambda: misc.str_to_ints(True), TypeError),
        (lambda: misc.str_to_floats("1;2"), ValueError),
        (lambda: misc.str_to_floats(None), TypeError),
        (lambda: misc.str_to_act("swish"), ValueError),
        (lambda: misc.get_colorbrewer2_colors("Set9"), ValueError),
        (lambda: misc.configure_matplotlib_params(fig_size=[3]), ValueError),
        (lambda: misc.configure_matplotlib_params(font_size=-1), ValueError),
        (lambda: misc.repair_canvas_and_show_fig("figure"), TypeError),
        (lambda: misc.get_default_args(3), TypeError),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error, match=r"received|callable"):
        call()


def test_list_to_str():
    assert misc.list_to_str([1, 2.5, "x"]) == "1 2.5 x"
    assert misc.list_to_str([1, 2], delim=",") == "1,2"
    assert misc.list_to_str([]) == ""


def test_str_to_act():
    x = torch.linspace(-2, 2, 9)
    for name, function in {
        "sigmoid": torch.sigmoid,
        "relu": torch.relu,
        "elu": torch.nn.functional.elu,
        "tanh": torch.tanh,
    }.items():
        assert torch.equal(misc.str_to_act(name)(x), function(x))
    assert misc.str_to_act("linear") is None


def test_get_default_args():
    def function(a, b, c=3, *, d="x", **rest):
        return a, b, c, d, rest

    assert misc.get_default_args(function) == {"c": 3, "d": "x"}


def test_init_params_has_moved():
    here, there, bias = torch.empty(3, 4), torch.empty(3, 4), torch.empty(3)
    torch.manual_seed(0)
    with pytest.warns(DeprecationWarning, match="torch_utils"):
        misc.init_params(here, bias)
    torch.manual_seed(0)
    torch_utils.init_params(there, torch.empty(3))
    assert torch.equal(here, there)


# First and last colour of each palette, as colorbrewer2.org lists them.
PALETTES = {
    "Set2": (8, "#66c2a5", "#b3b3b3"),
    "Set3": (12, "#8dd3c7", "#ffed6f"),
    "Dark2": (8, "#1b9e77", "#666666"),
    "Pastel": (9, "#fbb4ae", "#f2f2f2"),
}


@pytest.mark.parametrize("family", PALETTES)
def test_colours(family):
    colours = misc.get_colorbrewer2_colors(family)
    assert (len(colours), colours[0], colours[-1]) == PALETTES[family]


def test_matplotlibs_settings():
    with matplotlib.rc_context():
        misc.configure_matplotlib_params(fig_size=[3.0, 2.0], font_size=11)
        figure, axes = plt.subplots()
        axes.set_xlabel("x")
        assert tuple(figure.get_size_inches()) == (3.0, 2.0)
        assert axes.xaxis.label.get_size() == 11
        assert not axes.spines["top"].get_visible()
        misc.configure_matplotlib_params(two_axes=False)
        figure2, axes = plt.subplots()
        assert axes.spines["top"].get_visible()
        plt.close(figure)
        plt.close(figure2)


def test_a_figure_without_its_canvas_is_shown(monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.extend(plt.get_fignums()))
    figure = Figure()
    FigureCanvasAgg(figure)  # as TensorBoard leaves it
    before = plt.get_fignums()
    misc.repair_canvas_and_show_fig(figure)
    assert len(shown) == len(before) + 1
    assert figure.canvas.figure is figure
    assert plt.get_fignums() == before


def test_logger(tmp_path, capsys):
    path = tmp_path / "run.log"
    path.write_text("old")
    for _ in range(2):  # set up twice, it writes once
        logger = config_logger("hnbayes.test", str(path), logging.DEBUG, logging.INFO)
    logger.debug("quietly")
    logger.info("loudly")
    out = capsys.readouterr().out
    assert out.count("loudly") == 1
    assert "quietly" not in out
    lines = path.read_text().splitlines()
    assert [line.rsplit(" - ", 1)[1] for line in lines] == ["quietly", "loudly"]
    assert all(" - test_misc - " in line for line in lines)
    assert " - test_misc - " not in out
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def test_logger_without_file_and_bad_input(tmp_path):
    logger = config_logger("hnbayes.test2", None, logging.DEBUG, "WARNING")
    assert len(logger.handlers) == 1
    with pytest.raises(ValueError, match="log_file must be in a folder that exists"):
        config_logger("hnbayes.test2", tmp_path / "missing" / "x.log", logging.DEBUG, logging.INFO)
    with pytest.raises(ValueError, match="LOUD"):
        config_logger("hnbayes.test2", None, "LOUD", logging.INFO)
    with pytest.raises(TypeError, match="name must be text"):
        config_logger(3, None, logging.DEBUG, logging.INFO)
    assert len(logger.handlers) == 1
