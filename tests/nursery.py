"""Nursery: runs in processes that a test can kill; see stopped_runs.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time


class Nursery:
    """Runs in processes that can be killed; see stopped_runs.py."""

    def __init__(self):
        here = pathlib.Path(__file__).parent
        environment = os.environ | {"PYTHONPATH": f"{here.parent}:{here}"}
        self.process = subprocess.Popen(
            [sys.executable, str(here / "stopped_runs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.read() == "ready"

    def read(self):
        return self.process.stdout.readline().strip()

    def run(
        self,
        kernel,
        chains,
        folder,
        resume=False,
        after=None,
        sent=signal.SIGKILL,
        cores=None,
        victim="parent",
        wait=None,
        storage=None,
    ):
        """Run a case, and send it a signal after so many seconds. Returns exit code and what it has printed.

        The victim is the process that was started, or one of its workers; `wait` is called before the signal.
        """
        case = {"kernel": kernel, "chains": chains, "folder": str(folder), "resume": resume, "cores": cores}
        case |= {"storage": storage}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        pid = int(self.read())
        ended = threading.Event()
        if after is not None:
            threading.Thread(target=send, args=(pid, sent, victim, wait, after, ended), daemon=True).start()
        lines = []
        while not lines or "status" not in lines[-1]:
            lines.append(json.loads(self.read()))
        ended.set()
        return lines[-1]["status"], lines[:-1]

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def when_checkpoints(folder, pattern="checkpoint-*", folders=1):
    """Waits until so many folders within one hold checkpoints."""

    def wait():
        while len({path.parent for path in folder.glob(pattern)}) < folders:
            time.sleep(0.002)

    return wait


def send(pid, sent, victim, wait, after, ended):
    """A signal to a process, or to the last of its children."""
    if wait is not None:
        wait()
    if ended.wait(after):
        return
    # The process may end between the look and the signal: its status then says that nothing stopped it.
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if victim == "worker":
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = int(children[-1]) if children else pid
        os.kill(pid, sent)
