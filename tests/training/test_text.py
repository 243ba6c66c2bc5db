"""Text to values, loggers, plots' settings, and the documented module `misc`."""

from __future__ import annotations

import logging
import math
import pathlib

import pytest
import torch

from hnbayes.layers import init_params
from hnbayes.utils import misc
from hnbayes.utils.logger_config import config_logger


def test_lists_of_numbers() -> None:
    assert misc.str_to_ints("10, 20,-3") == [10, 20, -3]
    assert misc.str_to_ints(4) == [4]
    assert misc.str_to_ints("4") == [4]
    assert misc.str_to_ints("") == []
    assert misc.str_to_floats("0.5,1e-3") == [0.5, 0.001]
    assert misc.str_to_floats(2.5) == [2.5]
    assert misc.list_to_str([1, 2.5]) == "1 2.5"
    assert misc.list_to_str([1, 2], delim=",") == "1,2"


@pytest.mark.parametrize("text", ["1,a", "1,,2", "1.5"])
def test_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match="comma-separated integers"):
        misc.str_to_ints(text)
    with pytest.raises(TypeError):
        misc.str_to_ints(None)  # type: ignore[arg-type]


def test_activations() -> None:
    x = torch.tensor([-1.0, 2.0])
    expected = {
        "sigmoid": [1 / (1 + math.e), 1 / (1 + math.exp(-2))],
        "relu": [0.0, 2.0],
        "elu": [math.exp(-1) - 1, 2.0],
        "tanh": [math.tanh(-1), math.tanh(2)],
    }
    for name, values in expected.items():
        act = misc.str_to_act(name)
        assert act is not None
        torch.testing.assert_close(act(x), torch.tensor(values))
    assert misc.str_to_act("linear") is None
    with pytest.raises(ValueError, match="act_str"):
        misc.str_to_act("swish")


def test_defaults_of_a_function() -> None:
    def function(a: int, b: int = 2, *, c: str = "x") -> None: ...

    assert misc.get_default_args(function) == {"b": 2, "c": "x"}


def test_deprecated_init_params_warns_and_forwards() -> None:
    weight, bias = torch.empty(4, 9), torch.empty(4)
    expected = torch.empty(4, 9), torch.empty(4)
    torch.manual_seed(3)
    init_params(*expected)
    torch.manual_seed(3)
    with pytest.warns(DeprecationWarning, match="hnbayes.layers.init_params"):
        misc.init_params(weight, bias)
    assert torch.equal(weight, expected[0])
    assert torch.equal(bias, expected[1])


def test_logger(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.txt"
    path.write_text("old\n")
    config_logger("hnbayes-test", path, logging.DEBUG, logging.WARNING)
    logger = config_logger("hnbayes-test", path, logging.DEBUG, logging.WARNING)
    logger.info("quiet")
    logger.warning("loud")
    lines = path.read_text().splitlines()
    assert [line.split(" - ")[1:] for line in lines] == [
        ["INFO", "test_text", "quiet"],
        ["WARNING", "test_text", "loud"],
    ]
    out = capsys.readouterr().out
    assert out.count("loud") == 1
    assert "quiet" not in out
    with pytest.raises(ValueError, match="log_file"):
        config_logger("hnbayes-test", tmp_path / "missing" / "log.txt", "DEBUG", "DEBUG")
    config_logger("hnbayes-test", None, "DEBUG", "DEBUG")


def test_matplotlib_settings_and_figures() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context():
        misc.configure_matplotlib_params(fig_size=[3, 2], font_size=11)
        assert matplotlib.rcParams["figure.figsize"] == [3, 2]
        assert matplotlib.rcParams["font.size"] == 11
        assert not matplotlib.rcParams["axes.spines.top"]
    with pytest.raises(ValueError, match="fig_size"):
        misc.configure_matplotlib_params(fig_size=[3])
    assert misc.get_colorbrewer2_colors("Set2")[:2] == ["#66c2a5", "#fc8d62"]
    assert misc.get_colorbrewer2_colors("Dark2")[0] == "#1b9e77"
    with pytest.raises(ValueError, match="family"):
        misc.get_colorbrewer2_colors("Set9")
    before = plt.get_fignums()
    with pytest.raises(TypeError, match="figure"):
        misc.repair_canvas_and_show_fig("fig")  # type: ignore[arg-type]
    assert plt.get_fignums() == before
