"""The folder of compiled libraries stays small, whoever writes to it at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hnbayes.potentials.native import cache, compiled, compiler

PROGRAM = """
import importlib.util, pathlib, sys
source, folder, name = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("cache", source)  # alone, as the package takes seconds to import
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
cache.MOST = 5
for number in range(200):
    (folder / f"native-{name}{number}.so").write_bytes(b"library")
    cache.trim(folder)
"""


@pytest.fixture
def folder(tmp_path):
    """Twelve libraries of ten bytes, number 0 the one used last, each other one an hour before."""
    for number in range(12):
        aged(tmp_path / f"native-{number}.so", hours=number)
    return tmp_path


def aged(path, hours):
    path.write_bytes(b"0123456789")
    set_back(path, 3600 * hours)


def set_back(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def numbers(folder):
    return sorted(int(path.stem.removeprefix("native-")) for path in folder.glob("native-*.so"))


def test_those_used_last_stay(folder, monkeypatch):
    cache.trim(folder)
    assert numbers(folder) == list(range(12))
    monkeypatch.setattr(cache, "MOST", 7)
    cache.trim(folder)
    assert numbers(folder) == [0, 1, 2, 3, 4, 5, 6]


def test_so_many_bytes_stay(folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_BYTES", 35)
    cache.trim(folder)
    assert numbers(folder) == [0, 1, 2]


def test_what_is_used_again_stays(folder, monkeypatch):
    cache.mark_used(folder / "native-11.so")
    monkeypatch.setattr(cache, "MOST", 2)
    cache.trim(folder)
    assert numbers(folder) == [0, 11]


def test_what_was_never_finished_goes_but_not_what_may_still_be(folder):
    aged(folder / ".native-abandoned.tmp", hours=2)
    aged(folder / ".native-young.tmp", hours=0)
    aged(folder / "notes.txt", hours=1000)
    cache.trim(folder)
    left = {path.name for path in folder.iterdir() if not path.name.startswith("native-")}
    assert left == {".native-young.tmp", "notes.txt"}


def test_several_processes_may_trim_at_once(tmp_path):
    running = [subprocess.Popen([sys.executable, "-c", PROGRAM, cache.__file__, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert 5 <= len(list(tmp_path.iterdir())) <= 6


@pytest.mark.skipif(not compiler.available(), reason="no C compiler here")
def test_a_new_library_takes_the_place_of_the_oldest_and_loading_counts_as_use(tmp_path, monkeypatch):
    monkeypatch.setenv(compiler.CACHE, str(tmp_path))
    monkeypatch.setattr(cache, "MOST", 2)

    def library(number):
        compiler._library.cache_clear()
        found = compiled(f"int number(void) {{ return {number}; }}", double=True)
        assert found.number() == number

    def made(number):
        before = set(tmp_path.glob("native-*.so"))
        library(number)
        (new,) = set(tmp_path.glob("native-*.so")) - before
        return new

    first = made(1)
    set_back(first, 20)
    second = made(2)
    set_back(second, 10)
    library(1)
    third = made(3)
    assert set(tmp_path.glob("native-*.so")) == {first, third}
    library(2)  # is made anew
    assert second.exists()
