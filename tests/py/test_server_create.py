"""create_server() and create_unix_server(): every argument does, or raises, what it does in asyncio
of the running version.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import loops
import pytest
from loops import DEADLINE_S, Factory, run, until

Create = Callable[[asyncio.AbstractEventLoop], Awaitable[Any]]
P = asyncio.Protocol
TCP = 6


def named(options: dict[str, Any]) -> Create:
    """A call of create_server() with these arguments."""
    return lambda loop: loop.create_server(P, **options)


def plain(text: object) -> str:
    """Without the numbers that differ from call to call."""
    return re.sub(r"\bfd=\d+", "fd=", re.sub(r"(\('[^']*', )\d+", r"\1PORT", str(text)))


async def outcome(loop: asyncio.AbstractEventLoop, create: Create) -> tuple[str, str]:
    """What comes of it: addresses and options of the sockets, or the exception."""
    try:
        server = await create(loop)
    except Exception as exc:
        return type(exc).__name__, plain(exc)
    told = []
    for sock in server.sockets:
        options = [
            sock.getsockopt(socket.SOL_SOCKET, option)
            for option in (
                socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE, socket.SO_ACCEPTCONN,
            )
        ]
        told.append(f"{plain(sock.getsockname())} {options} {sock.gettimeout()}")
    serving = server.is_serving()
    server.close()
    await server.wait_closed()
    return f"serving={serving}", "; ".join(sorted(told))


def same(create: Create) -> tuple[str, str]:
    """The outcome, which must be the same on both loops."""
    async def main() -> tuple[str, str]:
        return await outcome(asyncio.get_running_loop(), create)

    expected = run(loops.factory("asyncio"), main())
    got = run(loops.factory("taut"), main())
    assert got == expected
    return got


def a_socket(kind: int = socket.SOCK_STREAM, bound: bool = True) -> socket.socket:
    sock = socket.socket(type=kind)
    if bound:
        sock.bind(("127.0.0.1", 0))
    return sock


def closed_socket() -> socket.socket:
    sock = a_socket()
    sock.close()
    return sock


HOSTS: dict[str, Any] = {
    "every interface": None, "empty": "", "one": "127.0.0.1", "two": ["127.0.0.1", "127.0.0.2"],
    "the same twice": ["127.0.0.1", "127.0.0.1"], "by name and number": ("127.0.0.1", "localhost"),
    "none at all": [], "bytes": b"127.0.0.1", "a number": 5, "no address": "127.0.0.300.",
    "not here": "192.0.2.1", "one not here": ["127.0.0.1", "192.0.2.1"],
}


@pytest.mark.parametrize("hosts", HOSTS)
def test_hosts(hosts: str) -> None:
    family = socket.AF_INET if hosts == "by name and number" else 0
    same(named({"host": HOSTS[hosts], "port": 0, "family": family}))


def test_hosts_from_an_iterator() -> None:
    found = same(lambda loop: loop.create_server(P, iter(["127.0.0.1"]), 0))  # type: ignore[call-overload]
    assert found[1].startswith("('127.0.0.1', PORT) [1, 0, 0, 1] 0")


@pytest.mark.parametrize(
    "options",
    [
        {}, {"port": 0}, {"host": "127.0.0.1"}, {"host": "127.0.0.1", "port": "0"},
        {"host": "127.0.0.1", "port": "no such service"}, {"host": "127.0.0.1", "port": 70000},
        {"host": "127.0.0.1", "port": 0, "sock": "s"}, {"ssl": True, "port": 0},
        {"port": 0, "ssl_handshake_timeout": 1}, {"port": 0, "ssl_shutdown_timeout": 1},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(options: dict[str, Any]) -> None:
    if "sock" in options:
        with a_socket() as sock:
            same(named(options | {"sock": sock}))
    else:
        same(named(options))


@pytest.mark.parametrize(
    "make",
    [
        a_socket, closed_socket, lambda: a_socket(bound=False),
        lambda: a_socket(socket.SOCK_DGRAM),
    ],
    ids=["bound", "closed", "unbound", "datagram"],
)
def test_sockets(make: Callable[[], socket.socket]) -> None:
    def create(loop: asyncio.AbstractEventLoop) -> Any:
        made.append(make())
        return loop.create_server(P, sock=made[-1])

    made: list[socket.socket] = []
    same(create)
    for sock in made:
        sock.close()


@pytest.mark.parametrize(
    "options",
    [
        {"reuse_address": True}, {"reuse_address": False}, {"reuse_port": True},
        {"reuse_port": False}, {"start_serving": False}, {"backlog": 1}, {"backlog": 0},
        {"backlog": -1}, {"backlog": 10**12}, {"backlog": "many"}, {"backlog": None},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    same(named({"host": "127.0.0.1", "port": 0, **options}))


def test_keep_alive(factory: Factory, loop_name: str) -> None:
    if loop_name == "asyncio" and sys.version_info < (3, 13):
        pytest.skip("new in Python 3.13")

    async def main() -> None:
        for on in True, False, None:
            found = await outcome(
                asyncio.get_running_loop(),
                named({"host": "127.0.0.1", "port": 0, "keep_alive": on}),
            )
            assert f"[1, 0, {int(bool(on))}, 1]" in found[1]

    run(factory, main())


def test_an_address_that_is_taken(factory: Factory) -> None:
    with a_socket() as taken:
        taken.listen()
        host, port = taken.getsockname()
        kind, text = same(named({"host": host, "port": port}))
    assert kind == "OSError"
    assert "error while attempting to bind on address ('127.0.0.1'," in text
    assert "address already in use" in text


def test_reuse_port_lets_two_listen(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await loop.create_server(P, "127.0.0.1", 0, reuse_port=True)
        port = one.sockets[0].getsockname()[1]
        two = await loop.create_server(P, "127.0.0.1", port, reuse_port=True)
        with pytest.raises(OSError, match="already in use"):
            await loop.create_server(P, "127.0.0.1", port)
        one.close()
        two.close()

    run(factory, main())


def test_the_backlog_bounds_what_waits(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(P, "127.0.0.1", 0, backlog=7, start_serving=False)
        await server.start_serving()
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(5)]  # before any is accepted
        def active() -> int:
            return len(getattr(server, "_clients", ())) or getattr(server, "_active_count", 0)

        await until(lambda: active() == 5, "all of them")
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()

    run(factory, main())


# ---- Unix sockets -----------------------------------------------------------------------------


def at(tmp_path: Path, name: str = "socket") -> str:
    return os.path.relpath(tmp_path / name)  # a socket's path has room for 107 bytes


UNIX: dict[str, Callable[[Path], dict[str, Any]]] = {
    "str": lambda tmp: {"path": at(tmp)},
    "bytes": lambda tmp: {"path": at(tmp).encode()},
    "Path": lambda tmp: {"path": Path(at(tmp))},
    "nothing": lambda tmp: {},
    "a number": lambda tmp: {"path": 5},
    "too long": lambda tmp: {"path": at(tmp) + 200 * "x"},
    "no directory": lambda tmp: {"path": at(tmp) + "/x/y"},
    "no Unix socket": lambda tmp: {"sock": a_socket()},
    "two of them": lambda tmp: {"path": at(tmp), "sock": a_socket()},
    "ssl=True": lambda tmp: {"path": at(tmp), "ssl": True},
    "timeout without ssl": lambda tmp: {"path": at(tmp), "ssl_handshake_timeout": 1},
    "other timeout without ssl": lambda tmp: {"path": at(tmp), "ssl_shutdown_timeout": 1},
    "not serving": lambda tmp: {"path": at(tmp), "start_serving": False},
}


@pytest.mark.parametrize("case", UNIX)
def test_unix(tmp_path: Path, case: str) -> None:
    made: list[dict[str, Any]] = []

    def create(loop: asyncio.AbstractEventLoop) -> Any:
        made.append(UNIX[case](tmp_path))
        return loop.create_unix_server(P, **made[-1])

    same(create)
    for options in made:
        if "sock" in options:
            options["sock"].close()


def test_an_abstract_name() -> None:
    name = f"\0taut-{os.getpid()}"
    assert same(lambda loop: loop.create_unix_server(P, name))[0] == "serving=True"


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "socket").write_text("mine")
    assert same(lambda loop: loop.create_unix_server(P, at(tmp_path)))[0] == "OSError"
    assert (tmp_path / "socket").read_text() == "mine"


@pytest.mark.parametrize("cleanup", [None, True, False])
def test_the_file_of_a_closed_server(
    factory: Factory, loop_name: str, tmp_path: Path, cleanup: bool | None
) -> None:
    new = sys.version_info >= (3, 13)
    if loop_name == "asyncio" and cleanup is not None and not new:
        pytest.skip("new in Python 3.13")
    options: Any = {} if cleanup is None else {"cleanup_socket": cleanup}
    removed = new if cleanup is None else cleanup

    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = at(tmp_path)
        for _ in range(2):  # a stale one is replaced
            server = await loop.create_unix_server(P, path, **options)
            server.close()
            assert os.path.exists(path) != removed
        server = await loop.create_unix_server(P, path, **options)
        os.unlink(path)
        (tmp_path / "socket").write_text("another's")
        server.close()  # not the server's file any more
        assert (tmp_path / "socket").read_text() == "another's"
        os.unlink(path)
        server = await loop.create_unix_server(P, path, **options)
        os.unlink(path)
        server.close()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            server = await loop.create_unix_server(P, sock=sock, **options)
            server.close()
            assert os.path.exists(path) != removed

    run(factory, main())


# ---- waiting ----------------------------------------------------------------------------------


def test_wait_closed_of_a_server_without_connections(factory: Factory) -> None:
    """Waits for close() on every version but 3.12.0; after it, for nothing."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(P, "127.0.0.1", 0)
        waiting = [asyncio.ensure_future(server.wait_closed()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [sys.version_info[:3] == (3, 12, 0)] * 3
        waiting[0].cancel()
        await asyncio.sleep(0)
        server.close()
        await asyncio.wait(waiting, timeout=DEADLINE_S)
        assert waiting[0].cancelled()
        assert [task.result() for task in waiting[1:]] == [None, None]
        await server.wait_closed()

    run(factory, main())


def test_serving_after_close_is_refused(factory: Factory, loop_name: str) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(P, "127.0.0.1", 0)
        server.close()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        with pytest.raises((RuntimeError, TypeError)):
            await server.start_serving()
        assert server.sockets == ()
        if loop_name == "taut":  # asyncio's takes itself for serving after that
            assert not server.is_serving()

    run(factory, main())


def test_serve_forever_ends_with_the_connections(factory: Factory) -> None:
    """Cancelled, it closes the server and, from 3.12 on, waits for open connections."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(P, "127.0.0.1", 0)
        task = asyncio.ensure_future(server.serve_forever())
        with socket.create_connection(server.sockets[0].getsockname()):
            def active() -> object:
                return getattr(server, "_clients", ()) or getattr(server, "_active_count", 0)

            await until(active, "the connection")
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            if sys.version_info < (3, 14):
                assert task.done() == (sys.version_info < (3, 12))
            else:
                await until(task.done, "the end")
            assert not server.is_serving()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(factory, main())
