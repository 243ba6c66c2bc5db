"""The statistical suite's fixtures: its seed, its size, and the record of what it has found."""

from __future__ import annotations

import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from record import Record

RECORD = pytest.StashKey[Record]()


def is_full(config):
    """Whether the suite was asked for, rather than run among all tests."""
    return "statistical" in (config.getoption("markexpr") or "") and "not statistical" not in config.getoption(
        "markexpr"
    )


@pytest.fixture(scope="session")
def full(pytestconfig):
    """Whether to take the sizes of the whole suite; if not, a few seconds for each test."""
    return is_full(pytestconfig)


@pytest.fixture(scope="session")
def seed(pytestconfig):
    return pytestconfig.getoption("statistical_seed")


@pytest.fixture(scope="session")
def record(pytestconfig):
    return pytestconfig.stash[RECORD]


def pytest_configure(config):
    config.stash[RECORD] = Record(config.getoption("statistical_seed", 0))
    config.stash[RECORD].began = time.time()


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[RECORD]
    if not found.checks:
        return
    folder = config.getoption("statistical_out") or ("out/verification" if is_full(config) else None)
    terminalreporter.section("statistics")
    terminalreporter.write_line(found.summary())
    if folder is not None:
        found.write(pathlib.Path(folder))
        terminalreporter.write_line(f"table and figures: {folder}")
