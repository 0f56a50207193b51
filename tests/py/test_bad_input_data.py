"""Bytes-like objects of any kind, and more data than the peer wants."""

from __future__ import annotations

import array
import asyncio
import ctypes
import hashlib
import mmap
import os
import socket
import sys
from typing import Any

import pytest
from loops import Factory, Recorder, connected, ok, run, script, serve, socketpair, until

MIB = 1 << 20


def anonymous_map() -> mmap.mmap:
    mapped = mmap.mmap(-1, 8)
    mapped[:] = b"mmapped!"
    return mapped


THINGS: dict[str, Any] = {
    "bytes": lambda: b"12345678",
    "empty": lambda: b"",
    "bytearray": lambda: bytearray(b"12345678"),
    "memoryview": lambda: memoryview(b"12345678"),
    "sliced": lambda: memoryview(b"0123456789")[2:9],
    "two-dimensional": lambda: memoryview(b"12345678").cast("B", (2, 4)),
    "ints": lambda: memoryview(array.array("i", [1, 2, 3])),
}


@pytest.mark.parametrize("name", THINGS)
@pytest.mark.parametrize("how", ["write", "writelines", "buffered", "sendall"])
def test_bytes_like(factory: Factory, loop_name: str, name: str, how: str) -> None:
    if loop_name == "asyncio" and how == "sendall" and name in ("two-dimensional", "ints"):
        pytest.skip("asyncio counts items where it should count bytes")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        thing = THINGS[name]()
        expected = bytes(memoryview(thing).cast("B")) if thing else b""
        one, two = socket.socketpair()
        one.setblocking(False)
        two.setblocking(False)
        filler = b""
        if how == "sendall":
            await loop.sock_sendall(one, thing)
            one.close()
        else:
            transport = await connected(loop, one, Recorder())
            if how == "buffered":  # the socket is full: it goes to the queue
                filler = b"f" * MIB
                transport.write(filler)
            if how == "writelines":
                transport.writelines([b"<", thing, b">"])
                expected = b"<" + expected + b">"
            else:
                transport.write(thing)
            transport.close()
        got = bytearray()
        while chunk := await loop.sock_recv(two, MIB):
            got += chunk
        two.close()
        assert bytes(got) == filler + expected

    run(factory, main())


@pytest.mark.parametrize("how", ["write", "buffered"])
def test_changed_after_write(factory: Factory, loop_name: str, how: str) -> None:
    """A bytearray may be changed as soon as write() is back."""
    if loop_name == "asyncio" and how == "buffered" and sys.version_info >= (3, 12):
        pytest.skip("asyncio keeps a view of the caller's buffer since 3.12")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        two.setblocking(False)
        transport = await connected(loop, one, Recorder())
        filler = b"f" * MIB if how == "buffered" else b""
        if filler:
            transport.write(filler)
        data = bytearray(b"as it was")
        transport.write(data)
        data[:] = b"different"
        data.extend(b"and longer")
        transport.close()
        got = bytearray()
        while chunk := await loop.sock_recv(two, MIB):
            got += chunk
        two.close()
        assert bytes(got) == filler + b"as it was"

    run(factory, main())


def strided() -> memoryview:
    return memoryview(b"0123456789")[::2]


@pytest.mark.parametrize("how", ["write", "sendall"])
def test_strided_memoryview(factory: Factory, how: str) -> None:
    """No socket call takes it: an exception, or every second byte, but no other bytes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        one.setblocking(False)
        two.setblocking(False)
        protocol = Recorder()
        faults: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        refused = False
        transport = None
        try:
            if how == "sendall":
                await loop.sock_sendall(one, strided())
            else:
                transport = await connected(loop, one, protocol)
                transport.write(strided())
        except (BufferError, TypeError, ValueError, NotImplementedError):
            refused = True
        if transport is not None:
            transport.close()
            await until(lambda: protocol.lost)
        one.close()
        got = await loop.sock_recv(two, 100)
        two.close()
        refused = refused or bool(faults)
        assert got == (b"" if refused else b"02468")

    run(factory, main())


@pytest.mark.parametrize("thing", ["text", 42, None, [1, 2], object()], ids=repr)
def test_not_bytes_at_all(factory: Factory, thing: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        one.setblocking(False)
        with two:
            with pytest.raises(TypeError):
                await loop.sock_sendall(one, thing)
            transport = await connected(loop, one, Recorder())
            with pytest.raises(TypeError):
                transport.write(thing)
            if thing not in ("text", None):
                with pytest.raises(TypeError):
                    transport.writelines(thing)
            transport.write(b"still good")
            transport.close()
            two.setblocking(False)
            assert await loop.sock_recv(two, 100) == b"still good"

    run(factory, main())


@pytest.mark.parametrize("kind", ["mmap", "array", "ctypes"])
def test_sendall_of_any_buffer(factory: Factory, kind: str) -> None:
    things: dict[str, Any] = {
        "mmap": anonymous_map(),
        "array": array.array("B", b"arrayed!"),
        "ctypes": (ctypes.c_char * 8).from_buffer_copy(b"ctypes!!"),
    }

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            await loop.sock_sendall(one, things[kind])
            return await loop.sock_recv(two, 100)

    assert run(factory, main()) == bytes(things[kind])


@pytest.mark.parametrize("kind", ["bytearray", "mmap", "array", "memoryview"])
def test_receive_into_any_buffer(factory: Factory, kind: str) -> None:
    backing: dict[str, Any] = {
        "bytearray": bytearray(8),
        "mmap": mmap.mmap(-1, 8),
        "array": array.array("B", bytes(8)),
        "memoryview": memoryview(bytearray(10))[1:9],
    }

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            one.send(b"received")
            assert await loop.sock_recv_into(two, backing[kind]) == 8
            task = loop.create_task(loop.sock_recv_into(two, backing[kind]))
            await asyncio.sleep(0)
            one.send(b"again")
            assert await task == 5

    run(factory, main())
    assert bytes(backing[kind])[:8] == b"againved"


def test_receive_into_read_only(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            one.send(b"x")
            with pytest.raises((TypeError, BufferError)):
                await loop.sock_recv_into(two, b"constant")
            with pytest.raises(ValueError):
                await loop.sock_recv(two, -1)
            assert await loop.sock_recv(two, 10) == b"x"

    run(factory, main())


class BadBuffer(asyncio.BufferedProtocol):
    """get_buffer gives something useless."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.lost: list[BaseException | None] = []

    def get_buffer(self, sizehint: int) -> Any:
        if isinstance(self.buffer, Exception):
            raise self.buffer
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.buffer == "raise":
            raise ZeroDivisionError

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)


@pytest.mark.parametrize(
    "buffer", [bytearray(0), b"constant", None, 42, ZeroDivisionError()], ids=repr
)
def test_useless_get_buffer(factory: Factory, buffer: Any) -> None:
    """asyncio reports it and closes the connection."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        one, two = socket.socketpair()
        with two:
            protocol = BadBuffer(buffer)
            await connected(loop, one, protocol)
            two.send(b"x")
            await until(lambda: protocol.lost)
            assert protocol.lost[0] is not None
            assert faults and "exception" in faults[0]

    run(factory, main())


SLOW_READER = """
import resource
size, chunk = int(sys.argv[1]), 1 << 16
async def main():
    loop = asyncio.get_running_loop()
    peak = []
    class Source(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.left, self.go = transport, size, asyncio.Event()
            self.go.set()
            self.task = loop.create_task(self.send())
        def pause_writing(self): self.go.clear()
        def resume_writing(self): self.go.set()
        def connection_lost(self, exc): self.go.set()
        async def send(self):
            block = os.urandom(chunk)
            while self.left:
                await self.go.wait()
                self.transport.write(block)
                self.left -= chunk
                peak.append(self.transport.get_write_buffer_size())
                if len(peak) > 1000: peak[:] = [max(peak)]
            self.transport.close()
    server, address = await loops.serve(Source)
    reader = socket.create_connection(address)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    reader.setblocking(False)
    got, buffer = 0, bytearray(1 << 18)
    while n := await loop.sock_recv_into(reader, buffer):
        got += n
        await asyncio.sleep(0)
    reader.close()
    server.close()
    await server.wait_closed()
    return got, max(peak)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with asyncio.Runner(loop_factory=new_loop) as runner:
    got, peak = runner.run(main())
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert got == size, (got, size)
assert peak < 1 << 20, peak
assert grown < 20 << 10, f"{grown} KiB"
"""


def test_slow_reader_bounds_memory(loop_name: str) -> None:
    """2 GB (with FULL=1) to a slow reader: the writer is paused, memory stays."""
    size = 2 << 30 if os.environ.get("FULL") == "1" else 128 * MIB
    ok(script(loop_name, SLOW_READER, str(size), timeout=300))


def test_one_enormous_write(factory: Factory) -> None:
    """64 MiB in one write and a reader that takes its time: all of it, in order."""
    data = os.urandom(MIB) * 64

    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Sender(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.write(data)
                assert transport.get_write_buffer_size() > 0
                transport.close()

        sender = Sender()
        server, address = await serve(lambda: sender)
        reader = socket.create_connection(address)
        reader.setblocking(False)
        digest, size = hashlib.sha1(), 0
        while chunk := await loop.sock_recv(reader, 300_001):
            digest.update(chunk)
            size += len(chunk)
        reader.close()
        assert size == len(data)
        assert digest.digest() == hashlib.sha1(data).digest()
        await until(lambda: sender.lost)
        assert sender.calls[:2] == ["connection_made", "pause_writing"]
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_very_many_small_writes(factory: Factory) -> None:
    """More pieces than one writev takes, while the peer does not read."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        two.setblocking(False)
        transport = await connected(loop, one, Recorder())
        transport.write(b"f" * MIB)
        pieces = [b"%d," % index for index in range(20_000)]
        for piece in pieces[:10_000]:
            transport.write(piece)
        transport.writelines(pieces[10_000:])
        transport.close()
        got = bytearray()
        while chunk := await loop.sock_recv(two, MIB):
            got += chunk
        two.close()
        assert bytes(got) == b"f" * MIB + b"".join(pieces)

    run(factory, main())
