"""What the incidents have around them: how long they run, and the servers that they talk to.

The servers, the load and the neighbours are processes of their own, so that nothing but the
incident itself is on the loop. They listen on the loopback alone and end with the incident.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = float(os.environ.get("INCIDENT_SECONDS", "20"))
_END = time.monotonic() + SECONDS

DNS_ADDRESS = "127.53.53.53"
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 0x40000, 0x1000


def running() -> bool:
    """Whether the incident shall go on."""
    return time.monotonic() < _END


# ---- what an incident can have ------------------------------------------------------------------


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The URL of an HTTP service: / answers at once, /slow/MS later, /json/KB with so much JSON,
    /fail with status 503."""
    with _helper("upstream") as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def load(url: str, connections: int = 8, pause_s: float = 0.01) -> Iterator[None]:
    """So many clients that ask for `url` again and again, with a pause between."""
    with _helper("load", url, str(connections), str(pause_s)):
        yield


@contextlib.contextmanager
def uploads(url: str, connections: int, size: int) -> Iterator[None]:
    """So many clients that POST bodies of `size` bytes to `url` again and again."""
    with _helper("uploads", url, str(connections), str(size)):
        yield


@contextlib.contextmanager
def slow_dns(seconds: float) -> Iterator[None]:
    """Has this process ask a name server that takes so long to say 127.0.0.1 for any name. Needs
    root, for /etc/resolv.conf is another file then, in a mount namespace of our own."""
    with _helper("dns", str(seconds)), tempfile.NamedTemporaryFile("w") as file:
        file.write(f"nameserver {DNS_ADDRESS}\noptions timeout:10 attempts:1\n")
        file.flush()
        libc = ctypes.CDLL(None, use_errno=True)
        source = file.name.encode()
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(source, b"/etc/resolv.conf", None, MS_BIND, None)
        ):
            raise SystemExit(f"no name server of our own: {os.strerror(ctypes.get_errno())}")
        yield


@contextlib.contextmanager
def stopped_by_a_neighbour(every_s: float, for_s: float) -> Iterator[None]:
    """Something on this host stops the process for a while, again and again."""
    with _helper("stop", str(os.getpid()), str(every_s), str(for_s)):
        yield


@contextlib.contextmanager
def crowded_cpu(neighbours: int) -> Iterator[None]:
    """This process shares one CPU with so many others that never rest."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    with contextlib.ExitStack() as stack:
        for _ in range(neighbours):
            stack.enter_context(_helper("spin"))
        yield


@contextlib.contextmanager
def signals(number: int, every_s: float) -> Iterator[None]:
    """Somebody sends this process a signal, again and again."""
    with _helper("signals", str(os.getpid()), str(number), str(every_s)):
        yield


@contextlib.contextmanager
def postgres(**settings: str) -> Iterator[str]:
    """The URL of a PostgreSQL server: DATABASE_URL, or one in a temporary directory."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="incident-pg-") as name:
        base, options = Path(name), _other_user(Path(name))
        data, port = base / "data", free_port()
        initdb = [_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **options)
        command = [_program("postgres"), "-D", str(data), "-p", str(port)]
        settings = {"fsync": "off", "listen_addresses": "127.0.0.1", **settings}
        settings["unix_socket_directories"] = ""
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with _server(command, port, signal.SIGINT, **options):
            yield f"postgres://postgres@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """The URL of a Redis server: REDIS_URL, or one of our own."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    port = free_port()
    command = [_program("redis-server"), "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    with _server(command, port, signal.SIGTERM):
        yield f"redis://127.0.0.1:{port}/0"


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def read_request(reader: asyncio.StreamReader) -> tuple[str, int]:
    """Reads an HTTP request and its body: the path, and how many bytes the body had."""
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1].decode()
    at = head.lower().find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    left = length
    while left and (data := await reader.read(min(left, 65536))):
        left -= len(data)
    return path, length


def answer(status: int, body: bytes) -> bytes:
    """An HTTP response that leaves the connection open."""
    return b"HTTP/1.1 %d .\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


# ---- their processes ----------------------------------------------------------------------------


@contextlib.contextmanager
def _helper(*args: str) -> Iterator[str]:
    """This file as a process of its own; the line that it prints once it is ready. It ends with us
    even when we are killed, since it sees our end of its stdin go."""
    drop = ("TAUT_", "PYTHONPATH")
    env = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-u", __file__, *args]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.contextmanager
def _server(command: list[str], port: int, end: int, **options: Any) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        **options,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} does not listen")
        yield
    finally:
        process.send_signal(end)
        process.wait()


def _other_user(directory: Path) -> dict[str, Any]:
    """How to start what refuses to run as root, with a directory that it may use."""
    options: dict[str, Any] = {"cwd": directory, "env": {**os.environ, "LC_ALL": "C"}}
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(directory, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def _program(name: str) -> str:
    found = [shutil.which(name), *sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    for path in reversed(found):
        if path is not None:
            return str(path)
    raise SystemExit(f"{name} is not installed")


async def _serve() -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                path, _ = await read_request(reader)
                _, kind, *more = path.split("/")
                status, body = 503 if kind == "fail" else 200, b"ok"
                if kind == "slow":
                    await asyncio.sleep(float(more[0]) / 1000)
                elif kind == "json":
                    body = _json(int(more[0]) * 1024)
                writer.write(answer(status, body))
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _json(size: int) -> bytes:
    row = {"id": 1, "name": "a name", "tags": ["a", "b", "c"], "price": 1.25, "sold": None}
    return json.dumps([row] * (size // len(json.dumps(row)))).encode()


async def _ask(url: str, connections: int, pause_s: float, request: bytes) -> None:
    parts = urlsplit(url)

    async def client() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                while True:
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    await asyncio.sleep(pause_s)
            await asyncio.sleep(0.1)

    print("asking")
    await asyncio.gather(*(client() for _ in range(connections)))


async def _load(url: str, connections: str, pause_s: str) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % urlsplit(url).path.encode()
    await _ask(url, int(connections), float(pause_s), request)


async def _uploads(url: str, connections: str, size: str) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    request = head % (urlsplit(url).path.encode(), int(size)) + bytes(int(size))
    await _ask(url, int(connections), 0.05, request)


async def _dns(seconds: str) -> None:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, query: bytes, peer: Any) -> None:
            end = query.index(b"\0", 12) + 5
            question, is_a = query[12:end], query[end - 3] == 1
            head = query[:2] + b"\x81\x80\0\1\0" + bytes([is_a]) + b"\0\0\0\0"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
            reply = head + question + record
            loop.call_later(float(seconds), self.transport.sendto, reply, peer)

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Server, local_addr=(DNS_ADDRESS, 53))
    print("resolving")
    await asyncio.Event().wait()


async def _stop(pid: str, every_s: str, for_s: str) -> None:
    print("stopping")
    while True:
        await asyncio.sleep(float(every_s))
        os.kill(int(pid), signal.SIGSTOP)
        await asyncio.sleep(float(for_s))
        os.kill(int(pid), signal.SIGCONT)


async def _signals(pid: str, number: str, every_s: str) -> None:
    print("signalling")
    while True:
        await asyncio.sleep(float(every_s))
        os.kill(int(pid), int(number))


async def _spin() -> None:
    print("spinning")
    while True:
        pass


_HELPERS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "dns": _dns,
    "load": _load,
    "signals": _signals,
    "spin": _spin,
    "stop": _stop,
    "uploads": _uploads,
    "upstream": _serve,
}


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    asyncio.run(_HELPERS[sys.argv[1]](*sys.argv[2:]))
