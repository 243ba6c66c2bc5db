"""The Python blocks of docs/start.md run, and its commands and files are those of the README and the example."""

from __future__ import annotations

import re

import torch
from pages import DOCS, ROOT, run_blocks

PAGE = DOCS / "start.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE)
    within = names["post"].predict(names["X"])["mean"].values.squeeze()
    assert abs(within - torch.sin(2 * names["X"]).squeeze().numpy()).max() < 0.3
    assert names["report"].verdict in ("look", "stop")
    for name, w in names["post"].weights().items():
        torch.testing.assert_close(names["again"].weights()[name], w)
    assert "log_likelihood" in names["idata"].groups()


def test_commands_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
                for line in block.splitlines()]  # fmt: skip
    assert len(commands) == 3
    for command in commands:
        assert command.removesuffix(" --quick") in readme


def test_files_are_those_of_the_example():
    example = "".join((ROOT / "examples" / name).read_text() for name in ("bnn_regression.py", "bnn_report.py"))
    table = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    files = [name for row in table for name in re.findall(r"`(.*?)`", row)]
    assert len(files) == 5
    assert all(f'"{name}"' in example for name in files)
