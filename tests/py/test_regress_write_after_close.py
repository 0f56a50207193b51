"""Field note 2: what is written after the peer went away is dropped, with asyncio's warnings."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import pytest
from loops import Factory, Recorder, connected, reset, run, serve, until


async def pair(loop: asyncio.AbstractEventLoop) -> tuple[Any, Recorder, socket.socket]:
    """A transport over TCP and the plain socket at its other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    accepted.setblocking(False)
    protocol = Recorder()
    transport = await connected(loop, accepted, protocol)
    return transport, protocol, client


def test_write_after_reset(
    factory: Factory, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        reset(client)
        await until(lambda: protocol.lost, "connection_lost")
        for _ in range(20):
            transport.write(b"x" * 1000)
        if loop_name != "asyncio" or sys.version_info < (3, 12):
            transport.writelines([b"a", b"b"])  # asyncio fails: its transport has no loop any more
        assert transport.get_write_buffer_size() == 0
        assert transport.is_closing()
        assert isinstance(protocol.lost[0], ConnectionResetError)
        assert len(protocol.lost) == 1

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(factory, main())
    warnings = [record for record in caplog.records if "socket.send() raised" in record.message]
    assert 1 <= len(warnings) <= 20


def test_no_warning_for_the_first_writes(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        reset(client)
        await until(lambda: protocol.lost)
        for _ in range(3):
            transport.write(b"x")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(factory, main())
    assert not caplog.records


def test_write_after_close(factory: Factory) -> None:
    """What was written before close() arrives, what comes after does not, nothing is raised."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        transport.write(b"before")
        transport.close()
        client.setblocking(False)
        for _ in range(10):
            transport.write(b"after the close")
        await until(lambda: protocol.lost)
        transport.write(b"after the end")
        got = b""
        while chunk := await loop.sock_recv(client, 1000):
            got += chunk
        client.close()
        assert protocol.lost == [None]
        return got

    got = run(factory, main())
    assert got.startswith(b"before") and b"after the end" not in got


def test_write_after_abort(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        transport.write(b"x" * 10_000_000)
        transport.abort()
        transport.write(b"dropped")
        transport.abort()
        transport.close()
        assert transport.get_write_buffer_size() == 0
        await until(lambda: protocol.lost)
        assert protocol.lost == [None]
        client.close()

    run(factory, main())


def test_write_eof_after_close(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        transport.close()
        transport.write_eof()
        await until(lambda: protocol.lost)
        transport.write_eof()
        client.close()

    run(factory, main())


def test_write_after_eof_is_an_error(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, client = await pair(loop)
        assert transport.can_write_eof()
        transport.write_eof()
        transport.write_eof()  # again is fine
        with pytest.raises(RuntimeError, match="Cannot call write\\(\\) after write_eof\\(\\)"):
            transport.write(b"x")
        with pytest.raises(RuntimeError):
            transport.writelines([b"x"])
        transport.abort()
        client.close()

    run(factory, main())


def test_stream_writer_after_reset(factory: Factory) -> None:
    """drain() tells; write() does not."""

    async def main() -> None:
        ended = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with pytest.raises(ConnectionResetError):
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
            writer.write(b"dropped")
            with pytest.raises(ConnectionResetError):
                await writer.drain()
            writer.close()
            ended.set()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        await asyncio.get_running_loop().sock_recv(client, 1)
        reset(client)
        await ended.wait()
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_answer_to_a_client_that_left(factory: Factory) -> None:
    """A server that answers late must not fail, and must not send to the next connection."""

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def protocol() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server, address = await serve(protocol)
        got = []
        for index in range(20):
            first = socket.create_connection(address)
            await until(lambda: len(made) == 2 * index + 1 and made[-1].transport)
            old = made[-1]
            reset(first)
            await until(lambda: old.lost)
            second = socket.create_connection(address)
            second.setblocking(False)
            await until(lambda: len(made) == 2 * index + 2 and made[-1].transport)
            old.transport.write(b"for somebody else")
            made[-1].transport.write(b"mine")
            made[-1].transport.close()
            got.append(await loop.sock_recv(second, 100))
            second.close()
            await until(lambda: made[-1].lost)
        server.close()
        await server.wait_closed()
        return got

    assert run(factory, main()) == [b"mine"] * 20
