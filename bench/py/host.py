"""The machine under the benchmarks: building the C peers, pinned child processes that cannot
outlive us, and what is said about the machine in the results."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: One for each C library: a chroot's programs do not run outside of it, nor the other way round.
BUILD = ROOT / "build" / f"bench-{platform.libc_ver()[1] or 'other'}"

_CPUS = sorted(os.sched_getaffinity(0))
#: The measured process runs on one CPU and whatever drives it on another one, if there is one.
SERVER_CPU = _CPUS[0]
CLIENT_CPU = _CPUS[1 % len(_CPUS)]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Something could not be run; the message says what, and ends the program."""


def _prepare_child(cpu: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {cpu})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without settings that would change what is measured, plus `extra`."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UVICORN_", "TAUT_", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE"))
    }
    env["PYTHONUNBUFFERED"] = "1"
    env.update(extra or {})
    return env


class Child:
    """A running child process whose output is read by a thread, each line with its time.

    A context manager: leaving it ends the process, whatever happened."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        cpu: int = SERVER_CPU,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.name = " ".join(command[:4])
        self.lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=child_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_prepare_child(cpu),
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            found = self.wait_for(ready, timeout_s)
            if found is None:
                raise Failure(f"{self.name} did not start:\n{self.output(20)}")
            self.ready = found
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, timeout_s: float, start: int = 0) -> re.Match[str] | None:
        """The first match in a line from `start` on; None when time or output ends before."""
        deadline = time.monotonic() + timeout_s
        at = start
        with self._news:
            while True:
                while at < len(self.lines):
                    match = re.search(pattern, self.lines[at][1])
                    if match:
                        return match
                    at += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._news.wait(left)

    def wait_line(self, index: int, timeout_s: float) -> bool:
        """Wait until more than `index` lines have come."""
        with self._news:
            return (
                self._news.wait_for(lambda: len(self.lines) > index or self._ended, timeout_s)
                and len(self.lines) > index
            )

    def output(self, last: int) -> str:
        with self._news:
            return "\n".join(line for _, line in self.lines[-last:])

    def loaded(self, part: str) -> bool:
        """Whether the process has a file whose path contains `part` mapped."""
        return part in Path(f"/proc/{self.pid}/maps").read_text()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(2)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def run_json(
    command: Sequence[str], *, cpu: int, timeout_s: float, **kwargs: Any
) -> dict[str, Any]:
    """Run to the end on one CPU and decode the JSON object that it prints last."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=child_environment(kwargs.get("env")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_prepare_child(cpu),
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException as exc:
        process.kill()
        process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise Failure(f"{' '.join(command[:4])} took longer than {timeout_s:.0f} s") from None
        raise
    if process.returncode != 0 or not out.strip():
        raise Failure(f"{' '.join(command)} failed ({process.returncode}):\n{err[-2000:]}")
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result


def _tool(name: str) -> list[str]:
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return [str(beside)]
    found = shutil.which(name)
    if found is None:
        raise Failure(f"{name} is missing: pip install {name}")
    return [found]


def build_peers() -> Path:
    """Build the C programs of bench/c, without the extension; the folder they are in."""
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    peers = BUILD / "bench" / "c"
    BUILD.parent.mkdir(exist_ok=True)
    commands = [
        _tool("ninja") + ["-C", str(BUILD), "peers"],
    ]
    setup = _tool("meson") + ["setup", str(BUILD), "-Dbench=true", "-Dextension=false"]
    if not (BUILD / "build.ninja").exists():
        commands.insert(0, setup)
    elif not (peers / "tls_epoll").exists():  # OpenSSL may have come since
        commands.insert(0, [*setup, "--reconfigure"])
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")
    return peers


def make_certificate(kind: str, folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key as PEM files: "ec" (P-256) or "rsa"."""
    algorithm = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}[kind]
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", *algorithm, "-keyout", str(key), "-out", str(cert)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return cert, key


def describe() -> dict[str, Any]:
    """What a reader of the results must know about the machine, without naming it."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "python": platform.python_version(),
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": len(_CPUS),
        "load_average": round(os.getloadavg()[0], 2),
    }


def end_on_sigterm() -> None:
    """Make SIGTERM unwind like Ctrl-C, so that children and temporary files go away."""

    def handler(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handler)
