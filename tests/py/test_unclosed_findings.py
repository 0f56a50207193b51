"""Findings about transports, servers and clients that were forgotten: where they were made."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import taut
from doctoring import blamed, empty_table, found  # noqa: F401
from loops import run, serve
from taut import _core, doctor

pytestmark = [
    pytest.mark.usefixtures("empty_table"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


async def forget_connection() -> None:
    server, address = await serve(asyncio.Protocol)
    async with server:
        await asyncio.open_connection(*address)  # forget_connection


async def forget_datagrams() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(  # forget_datagrams
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )


async def forget_pipe() -> None:
    read, write = os.pipe()
    os.close(write)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(  # forget_pipe
        asyncio.Protocol, os.fdopen(read, "rb")
    )
    transport.pause_reading()


async def forget_server() -> None:
    await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)  # forget_server


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "forget", [forget_connection, forget_datagrams, forget_pipe, forget_server]
)
def test_unclosed(forget: Callable[[], Coroutine[Any, Any, None]], debug: bool) -> None:
    run(taut.new_event_loop, forget(), debug=debug)
    gc.collect()
    # What a server has accepted was made by nobody's line.
    (finding,) = [f for f in doctor.findings("unclosed-resource") if f.line]
    assert blamed(finding, forget.__name__)
    assert finding.function == forget.__name__
    assert "without having been closed" in finding.cause


def test_unclosed_process() -> None:
    loop = taut.new_event_loop()

    async def start() -> Any:
        return await asyncio.create_subprocess_exec(  # process
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )

    process = loop.run_until_complete(start())
    loop.close()
    del process
    gc.collect()
    (finding,) = doctor.findings("unclosed-resource")
    assert blamed(finding, "process")
    assert finding.count == 2  # it and its pipe


def test_warnings_that_are_ignored_or_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda info: None)
    for action in "ignore", "error":
        _core.findings_clear()
        with warnings.catch_warnings():
            warnings.simplefilter(action, ResourceWarning)
            run(taut.new_event_loop, forget_datagrams())
            gc.collect()
        assert [f.code for f in doctor.findings()] == ["unclosed-resource"]


async def close_everything() -> None:
    server, address = await serve(asyncio.Protocol)
    async with server:
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        await writer.wait_closed()
        one, two = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=one
        )
        transport.abort()
        two.close()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()


def test_what_is_closed() -> None:
    run(taut.new_event_loop, close_everything())
    gc.collect()
    assert doctor.findings() == []


def test_client_session_of_aiohttp() -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def forget_session() -> None:
        session = aiohttp.ClientSession()
        del session  # session

    async def use_session() -> None:
        async with aiohttp.ClientSession():
            pass

    run(taut.new_event_loop, use_session())
    gc.collect()
    assert doctor.findings() == []
    run(taut.new_event_loop, forget_session())
    gc.collect()
    (finding,) = doctor.findings("unclosed-resource")
    assert blamed(finding, "session")
    assert finding.cause.startswith("Unclosed client session")
    assert "async with aiohttp.ClientSession()" in finding.remedy


def test_operations_that_are_not_awaited() -> None:
    async def main() -> None:
        one, two = socket.socketpair()
        with one, two, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.setblocking(False)
            asyncio.get_running_loop().sock_recv(one, 1)  # type: ignore[unused-coroutine]  # op
        finding = await found("coroutine-never-awaited")
        assert blamed(finding, "type: ignore[unused-coroutine]  # op")
        assert "sock_recv() was called but never awaited" in finding.cause

    run(taut.new_event_loop, main())


async def leave_open(address: tuple[str, int], kept: list[Any]) -> None:
    kept.append(await asyncio.open_connection(*address))  # leave_open


def test_open_when_the_loop_closes() -> None:
    kept: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        run(taut.new_event_loop, leave_open(server.getsockname(), kept))
        (finding,) = doctor.findings("unclosed-resource")
        assert blamed(finding, "leave_open")
        assert "event loop was closed" in finding.cause
        del kept[:]
        gc.collect()


async def close_at_the_end(address: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*address)
    writer.close()


async def keep_accepted(kept: list[Any]) -> None:
    accepted = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append((reader, writer))
        accepted.set_result(None)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    kept.append(server)
    kept.append(socket.create_connection(server.sockets[0].getsockname()))
    await accepted


def test_closing_or_accepted_when_the_loop_closes() -> None:
    kept: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        run(taut.new_event_loop, close_at_the_end(server.getsockname()))
    run(taut.new_event_loop, keep_accepted(kept))
    assert doctor.findings("unclosed-resource") == []
    kept[1].close()
