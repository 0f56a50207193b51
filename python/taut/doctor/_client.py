"""Asks the consoles of running processes; the command line's side of src/io/console.h."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ConsoleError", "Process", "ask", "fetch", "find", "processes"]

TIMEOUT_S = 15.0


class ConsoleError(Exception):
    """A process cannot be asked; the text says why, for people."""


@dataclass(frozen=True)
class Process:
    """A process with a console."""

    pid: int
    socket: Path

    @property
    def command(self) -> str:
        """Its command line, as far as the kernel tells."""
        try:
            text = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return "?"
        return " ".join(part.decode(errors="replace") for part in text.split(b"\0") if part)

    @property
    def cwd(self) -> str:
        """Its current directory, or nothing."""
        try:
            return os.readlink(f"/proc/{self.pid}/cwd")
        except OSError:
            return ""


def _directories(uid: int) -> list[Path]:
    """Where consoles of a user's processes are: ours by the environment, of others by convention.

    A directory that somebody else could have put there is none.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") if uid == os.getuid() else f"/run/user/{uid}"
    places = [Path(runtime) / "taut"] if runtime and runtime.startswith("/") else []
    places.append(Path(f"/tmp/taut-{uid}"))
    found = []
    for place in places:
        try:
            about = place.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(about.st_mode) and about.st_uid == uid:
            found.append(place)
    return found


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(path))
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        if uid not in (os.getuid(), 0) and os.getuid() != 0:
            raise ConsoleError(f"{path} is answered by another user")
    except BaseException:
        sock.close()
        raise
    return sock


def processes() -> list[Process]:
    """The processes of this user that can be asked, by their numbers."""
    found: dict[int, Process] = {}
    for directory in _directories(os.getuid()):
        for path in directory.glob("*.sock"):
            if not path.stem.isdecimal():
                continue
            try:
                _connect(path).close()
            except (OSError, ConsoleError):
                continue  # left behind by a process that was killed
            found.setdefault(int(path.stem), Process(int(path.stem), path))
    return [found[pid] for pid in sorted(found)]


def find(pid: int) -> Process:
    """The process of that number.

    Raises:
        ConsoleError: there is none, or it has no console.
    """
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        raise ConsoleError(f"there is no process {pid}") from None
    for owner in dict.fromkeys((uid, os.getuid())):
        for directory in _directories(owner):
            path = directory / f"{pid}.sock"
            if path.exists():
                return Process(pid, path)
    if uid != os.getuid() and os.getuid() != 0:
        raise ConsoleError(f"process {pid} is another user's")
    raise ConsoleError(
        f"process {pid} has no console: it has not run a taut loop, or was started with "
        "TAUT_CONSOLE=0, or with another XDG_RUNTIME_DIR"
    )


def fetch(process: Process, request: str) -> tuple[bytes, dict[str, Any]]:
    """The answer to one request, as it came and as the object that it is.

    Raises:
        ConsoleError: the process is gone, does not answer, or says that it cannot.
    """
    text = bytearray()
    try:
        with _connect(process.socket) as sock:
            sock.sendall(request.encode() + b"\n")
            while part := sock.recv(1 << 20):
                text += part
    except TimeoutError:
        raise ConsoleError(f"process {process.pid} does not answer") from None
    except OSError as exc:
        raise ConsoleError(f"process {process.pid} cannot be asked: {exc.strerror}") from None
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        raise ConsoleError(f"process {process.pid} broke off its answer") from None
    if "error" in answer:
        raise ConsoleError(f"process {process.pid}: {answer['error']}")
    return bytes(text), answer


def ask(process: Process, request: str) -> dict[str, Any]:
    """The answer to one request; raises as :func:`fetch`."""
    return fetch(process, request)[1]
