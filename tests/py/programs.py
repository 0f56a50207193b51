"""Running Python programs in child processes, for the tests of what a user starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

DEADLINE_S = 30.0
Python = Callable[..., "Result"]


def clean_env(**changes: str) -> dict[str, str]:
    """The environment for a child, without what `taut run` or the user may have set.

    Stall reports are off: a start on a busy machine may earn one, and tests compare stderr. So is
    the journal, which is the user's own.
    """
    drop = ("TAUT_", "UVICORN_", "PYTHONASYNCIODEBUG", "PYTHONSAFEPATH", "PYTHONWARNINGS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    env["TAUT_STALL"] = "off"
    env["TAUT_JOURNAL"] = "0"
    env.update(changes)
    return env


class Result:
    """How a child process ended, and what it wrote."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.out}--- stderr\n{self.err}"


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Run this Python in `tmp_path` to its end: python("-m", "taut", ..., VARIABLE="value")."""

    def run(*args: str, stdin: str = "", cwd: Path = tmp_path, **env: str) -> Result:
        return Result(
            subprocess.run(
                [sys.executable, *args],
                cwd=cwd,
                env=clean_env(**env),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=2 * DEADLINE_S,
            )
        )

    return run


class Service:
    """A Python program in the background; what it writes (both streams) is kept in `text`.

    A context manager: leaving it ends the program by SIGTERM, by SIGKILL after the deadline.
    """

    def __init__(self, *args: str, cwd: Path, **env: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-u", *args],
            cwd=cwd,
            env=clean_env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, what: Callable[[str], object], name: str) -> None:
        """Until `what(text)` is true; AssertionError with all output at the deadline or the end."""

        def ready() -> bool:
            if what(self.text):
                return True
            # Without a process (and after its last words) there is nothing to wait for.
            assert self._reader.is_alive(), f"ended before {name}:\n{self.text}"
            return False

        try:
            wait_until(ready, name)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; its output:\n{self.text}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the program, wait for its end and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            pass
        try:  # workers too: the session is the program's own
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until `condition()` is true; AssertionError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)  # blocks: between two looks
