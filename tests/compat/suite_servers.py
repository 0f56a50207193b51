"""Servers of a suite's own, on a free port, with nothing in them: a suite may empty its server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DEADLINE_S = 30.0
live: set[subprocess.Popen[bytes]] = set()


class Missing(Exception):
    """What has to be installed for a server."""


def end_all() -> None:
    """Ends every server: nobody is left to use them."""
    for server in list(live):
        server.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def program(name: str, package: str) -> str:
    """The program's path: on PATH, or where Debian keeps PostgreSQL's."""
    path = os.pathsep.join(
        [os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))]
    )
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"needs {name} (Debian: {package})")
    return found


@contextlib.contextmanager
def running(command: list[str], directory: Path, user: str | None, port: int) -> Iterator[None]:
    """The server, from when it listens."""
    with open(directory / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  cwd=directory, user=user)
        live.add(server)
        try:
            deadline = time.monotonic() + DEADLINE_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        text = (directory / "server.log").read_text("utf-8", "replace")
                        raise Missing(f"{command[0]} does not start:\n{text[-2000:]}") from None
                time.sleep(0.05)  # blocks: a server tells nobody when it listens
            yield
        finally:
            live.discard(server)
            server.terminate()
            try:
                server.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def redis(directory: Path, user: str | None) -> Iterator[int]:
    port = free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--save", "",
               "--appendonly", "no", "--bind", "127.0.0.1", "--enable-debug-command", "yes"]
    with running(command, directory, user, port):
        yield port


@contextlib.contextmanager
def postgresql(directory: Path, user: str | None) -> Iterator[int]:
    """A cluster with the user scott, password tiger, and the database test."""
    port = free_port()
    data = directory / "data"
    (directory / "password").write_text("tiger")
    subprocess.run(
        [program("initdb", "postgresql"), "-D", str(data), "-U", "scott", "-E", "UTF8",
         "--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={directory / 'password'}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, user=user,
    )
    command = [program("postgres", "postgresql"), "-D", str(data), "-p", str(port), "-k",
               str(directory), "-c", "fsync=off", "-c", "max_prepared_transactions=10"]
    psql = [program("psql", "postgresql-client"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U",
            "scott", "-v", "ON_ERROR_STOP=1"]
    statements = ["-c", "CREATE SCHEMA test_schema", "-c", "CREATE SCHEMA test_schema_2"]
    with running(command, directory, user, port):
        environment = {**os.environ, "PGPASSWORD": "tiger"}
        subprocess.run([*psql, "postgres", "-c", "CREATE DATABASE test"], check=True,
                       env=environment)
        subprocess.run([*psql, "test", *statements], check=True, env=environment)
        yield port


KINDS: dict[str, Callable[[Path, str | None], contextlib.AbstractContextManager[int]]] = {
    "redis": redis, "postgresql": postgresql,
}


@contextlib.contextmanager
def start(kind: str, user: str | None) -> Iterator[int]:
    """The server of that kind, while the context lasts; its port. Raises Missing."""
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        if user:
            shutil.chown(name, user)
        with KINDS[kind](Path(name), user) as port:
            yield port
