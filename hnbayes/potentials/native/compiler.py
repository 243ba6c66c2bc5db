"""Libraries of compiled C: made at first use and kept in a folder of the user's.

Nothing here raises or warns: without a compiler, or where anything fails, there is no library, and the general way of
doing what it does takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from typing import Any

from hnbayes.potentials.native.cache import cache_folder, is_own, mark_used, may_write, trim

SWITCH = "HNBAYES_NATIVE"
CACHE = "HNBAYES_CACHE"
SOURCE = pathlib.Path(__file__).with_name("native.c")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
SHARED = ("-shared", "-fPIC", "-pthread")
# The first that the compiler takes.
MACHINE = (("-march=native",), ("-mcpu=native",), ())
SECONDS = 30.0
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
# Of the functions of native.c: result and arguments.
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "evaluate_points": (None, [POINTER] * 2 + [INTEGER] * 4 + [POINTER] * 3),
    "grow_trees": (None, [POINTER, INTEGER]),
    "dense_bytes": (INTEGER, [POINTER]),
    "dense_take": (None, [POINTER]),
    "dense_activation": (None, [INTEGER] * 2 + [POINTER] * 3),
}


def available() -> bool:
    """Whether there is a C compiler, and it may be used."""
    if os.environ.get(SWITCH, "1") == "0" or sys.platform == "win32":
        return False
    return bool(shlex.split(os.environ.get("CC", "")) or _compiler())


def library(double: bool) -> ctypes.CDLL | None:
    """The package's own functions for float64 or float32 (see native.c); None where there is no compiler.

    Args:
        double: whether numbers are float64.

    Example:
        >>> found = hnbayes.potentials.native.library(double=True)
        >>> found is None or found.evaluate_points is not None
        True
    """
    found = compiled(f'#include "{SOURCE.name}"\n', double)
    if found is not None:
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    return found


def compiled(source: str, double: bool, flags: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """A C source as a library; None where there is no compiler, or it fails.

    Args:
        source: it may include the headers that stand beside native.c.
        double: whether `real` of vectors.h is float64.
        flags: for the compiler, after its usual ones.

    Example:
        >>> found = hnbayes.potentials.native.compiled("int twice(int x) { return 2 * x; }", double=True)
        >>> 4 if found is None else found.twice(2)
        4
    """
    if not available():
        return None
    return _library(source, double, flags, os.environ.get("CC", ""), os.environ.get(CACHE, ""), os.getuid())


@lru_cache(maxsize=256)
def _library(
    source: str, double: bool, flags: tuple[str, ...], compiler: str, cache: str, user: int
) -> ctypes.CDLL | None:
    try:
        command = shlex.split(compiler) or _compiler()
        if not command:
            return None
        options = (*FLAGS, *flags, *(["-DDOUBLE"] if double else []))
        name = f"native-{_key(source, command, options)}.so"
        folder = cache_folder(cache, user)
        if folder is not None and is_own(folder / name, user):
            with contextlib.suppress(OSError):  # cut short by a full disk, say; made anew below
                found = ctypes.CDLL(str(folder / name))
                mark_used(folder / name)
                return found
        if folder is not None and may_write(folder):
            made = ctypes.CDLL(_compiled(source, command, options, folder / name))
            trim(folder)
            return made
        with tempfile.TemporaryDirectory() as temporary:
            return ctypes.CDLL(_compiled(source, command, options, pathlib.Path(temporary) / name))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _compiler() -> list[str]:
    """The system's C compiler."""
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [] if found is None else [found]


def _key(source: str, command: list[str], options: tuple[str, ...]) -> str:
    """What tells libraries apart: source, flags, compiler, processor."""
    # Not the version that it prints: asking takes as long as all else together. A new compiler is a new file.
    program = shutil.which(command[0])
    if program is None:
        raise OSError(command[0])
    state = os.stat(program)
    included = [(path.name, path.read_bytes()) for path in sorted(SOURCE.parent.glob("*.[ch]"))]
    described = (source, included, command, os.path.realpath(program), state.st_size, state.st_mtime_ns)
    everything = repr((*described, options, SHARED, MACHINE, _processor()))
    return hashlib.sha256(everything.encode()).hexdigest()[:32]


def _processor() -> str:
    """What the machine can do, where it is known: a folder may be shared by several machines."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "cpu family", "model\t", "flags", "Features", "CPU part")
    return "\n".join((platform.machine(), platform.processor(), *sorted({x for x in lines if x.startswith(kinds)})))


def _compiled(source: str, command: list[str], options: tuple[str, ...], path: pathlib.Path) -> str:
    """Compile to `path`, which is there whole or not at all, whoever else compiles at the same time. Returns it.

    Raises:
        OSError, SubprocessError: if it fails.
    """
    handle, temporary = tempfile.mkstemp(prefix=".native-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        for machine in MACHINE:
            line = [*command, *options, *machine, *SHARED, f"-I{SOURCE.parent}", "-o", temporary]
            line += ["-xc", "-", "-lm"]
            result = subprocess.run(line, input=source.encode(), capture_output=True, timeout=SECONDS, check=False)
            if result.returncode == 0:
                os.chmod(temporary, 0o700)
                os.replace(temporary, path)
                return str(path)
        raise OSError("the compiler failed")
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)
