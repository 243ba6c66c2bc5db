"""The package's C with one of its lines changed, to see that a test tells it apart."""

from __future__ import annotations

from hnbayes.potentials.native import compiler


def use_mutant(mutant, folder, monkeypatch):
    """Compile a changed copy of the sources from now on.

    Args:
        mutant: text that stands in them once, and what takes its place.
        folder: for the copy and its libraries.
        monkeypatch: of the test.
    """
    found = 0
    for path in compiler.SOURCE.parent.glob("*.[ch]"):
        source = path.read_text()
        found += source.count(mutant[0])
        (folder / path.name).write_text(source.replace(*mutant))
    assert found == 1
    monkeypatch.setenv(compiler.CACHE, str(folder / "cache"))
    monkeypatch.setattr(compiler, "SOURCE", folder / "native.c")
