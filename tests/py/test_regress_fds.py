"""Field notes 1, 3, 4 and 7: descriptors with one owner, memory given back, callbacks that pull the
rug from under their own connection, eager tasks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from loops import Factory, Recorder, command, ok, run, script, serve, until
from tls_certs import Certs

Connect = Callable[[asyncio.AbstractEventLoop, socket.socket, Any], Coroutine[Any, Any, Any]]


def by_connection(loop: asyncio.AbstractEventLoop, sock: socket.socket, context: Any) -> Any:
    return loop.create_connection(
        asyncio.Protocol, sock=sock, ssl=context, server_hostname="localhost" if context else None
    )


def by_unix_connection(loop: asyncio.AbstractEventLoop, sock: socket.socket, context: Any) -> Any:
    return loop.create_unix_connection(
        asyncio.Protocol, sock=sock, ssl=context, server_hostname="localhost" if context else None
    )


def by_accepted(loop: asyncio.AbstractEventLoop, sock: socket.socket, context: Any) -> Any:
    return loop.connect_accepted_socket(asyncio.Protocol, sock, ssl=context)


async def leaves_alone(sock: socket.socket, number: int) -> None:
    """That what closes `sock` now closes none of those that have taken its number."""
    await until(lambda: sock.fileno() == -1, "the socket object to know that it is closed")
    pairs = [socket.socketpair()]
    while not any(one.fileno() == number for pair in pairs for one in pair):
        assert len(pairs) < 50, "the number was never free"
        pairs.append(socket.socketpair())
    sock.close()
    for one, two in pairs:
        one.send(b"mine")
        assert two.recv(4) == b"mine"
        one.close()
        two.close()


@pytest.mark.parametrize("connect", [by_connection, by_unix_connection, by_accepted])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_cancelled_connection_closes_its_socket_once(
    factory: Factory, certs: Certs, connect: Connect, secure: bool, steps: int
) -> None:
    # uvloop #738, #645: the socket object closed the number again, somebody else's by then.
    context: Any = None
    if secure:
        context = certs.server() if connect is by_accepted else certs.client()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock, peer = socket.socketpair()
        number = sock.fileno()
        task = asyncio.ensure_future(connect(loop, sock, context))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.abort()
        if steps > 0:  # else nothing has begun, and the socket is the caller's
            await leaves_alone(sock, number)
        else:
            assert sock.fileno() == number
            sock.close()
        peer.close()

    run(factory, main())


def test_a_closed_transport_leaves_its_number_alone(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for how in "close", "abort", "_force_close":
            sock, peer = socket.socketpair()
            number = sock.fileno()
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda p=protocol: p, sock=sock)
            getattr(transport, how)(*([None] if how == "_force_close" else []))
            await until(lambda p=protocol: p.lost, "the end")
            await leaves_alone(sock, number)
            transport.close()
            transport.abort()
            peer.close()

    run(factory, main())


def test_answers_reach_those_who_asked(factory: Factory) -> None:
    # uvloop #645, #653: with connections that come and break, numbers go round fast.
    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().call_later(0.002, self.transport.write, data * 3)

    async def client(address: Any, number: int) -> int:
        asked = b"%08d" % number
        reader, writer = await asyncio.open_connection(*address)
        writer.write(asked)
        if number % 3 == 0:
            writer.transport.abort()
            return 0
        if number % 3 == 1:
            waiting = asyncio.ensure_future(reader.readexactly(24))
            await asyncio.sleep(0.001)
            waiting.cancel()
            writer.close()
            return 0
        answer = await reader.readexactly(24)
        assert answer == asked * 3, (asked, answer)
        writer.close()
        return 1

    async def main() -> int:
        server, address = await serve(Server)
        some = asyncio.Semaphore(20)

        async def turn(number: int) -> int:
            async with some:
                return await client(address, number)

        total = sum(await asyncio.gather(*map(turn, range(240))))
        server.close()
        return total

    assert run(factory, main()) == 80


CALLBACKS = """
import itertools, warnings
warnings.simplefilter("ignore")

class Pulls:
    def __init__(self, where, what):
        self.where, self.what, self.done, self.lost = where, what, False, False
    def pull(self, name):
        if name != self.where or self.done:
            return
        self.done = True
        transport, self.transport = self.transport, None
        if self.what == "close": transport.close()
        elif self.what == "abort": transport.abort()
        elif self.what == "write and abort": transport.write(bytes(300000)); transport.abort()
        elif self.what == "set_protocol":
            new = Plain("", ""); new.transport = transport; transport.set_protocol(new)
            self.lost = True
        elif self.what == "forget": del transport
        elif self.what == "pause": transport.pause_reading(); transport.abort()
        elif self.what == "raise": gc.collect(); raise ZeroDivisionError
        gc.collect()
    def connection_made(self, transport): self.transport = transport; self.pull("connection_made")
    def connection_lost(self, exc): self.lost = True; self.pull("connection_lost")
    def eof_received(self): self.pull("eof_received")
    def pause_writing(self): self.pull("pause_writing")
    def resume_writing(self): self.pull("resume_writing")

class Plain(Pulls, asyncio.Protocol):
    def data_received(self, data): self.pull("data_received")

class Buffered(Pulls, asyncio.BufferedProtocol):
    def get_buffer(self, hint): self.pull("get_buffer"); return bytearray(1000)
    def buffer_updated(self, size): self.pull("buffer_updated")

async def one(loop, kind, where, what):
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    protocol = kind(where, what)
    await loop.create_connection(lambda: protocol, sock=ours)
    if protocol.transport is not None and where in ("pause_writing", "resume_writing"):
        protocol.transport.write(bytes(4000000))
    for _ in range(3):
        try:
            peer.send(b"x" * 3000)
        except OSError:
            pass
        await asyncio.sleep(0)
    while True:
        try:
            if not peer.recv(1000000): break
        except BlockingIOError:
            if where not in ("pause_writing", "resume_writing") or protocol.done: break
            await asyncio.sleep(0)
        except OSError:
            break
    peer.close()
    for _ in range(200):
        if protocol.lost: break
        await asyncio.sleep(0.0005)
    return protocol.done

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    done = 0
    for kind, places in ((Plain, ["data_received"]), (Buffered, ["get_buffer", "buffer_updated"])):
        for where, what in itertools.product(
            ["connection_made", "connection_lost", "eof_received", "pause_writing",
             "resume_writing", *places],
            ["close", "abort", "write and abort", "set_protocol", "forget", "pause", "raise"],
        ):
            done += await one(loop, kind, where, what)
    print(done)

gc.disable()  # but for the collections above
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_callbacks_that_end_their_own_connection(loop_name: str) -> None:
    # uvloop #706, #538: crashes in close and read callbacks. Freed memory is overwritten here.
    argv = command(loop_name, CALLBACKS)
    done = subprocess.run(
        argv, env=os.environ | {"PYTHONMALLOC": "debug"}, capture_output=True, text=True, timeout=90
    )
    assert int(ok(done)) == 13 * 7


MEMORY = """
import ctypes
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

class Sink(asyncio.Protocol):
    def __init__(self): self.size = 0
    def data_received(self, data): self.size += len(data)

async def send(loop, size):
    one, two = socket.socketpair()
    sink = Sink()
    receiving, _ = await loop.create_connection(lambda: sink, sock=two)
    receiving.pause_reading()
    sending, _ = await loop.create_connection(asyncio.Protocol, sock=one)
    for n in range(size // 65536):
        sending.write((bytes, bytearray)[n % 2](65536))
    queued = resident()
    receiving.resume_reading()
    await loops.until(lambda: sink.size == size // 65536 * 65536)
    sending.close(); receiving.close()
    return queued

async def main():
    loop = asyncio.get_running_loop()
    await send(loop, 1 << 20)
    before = resident()
    queued = await send(loop, 64 << 20)
    await asyncio.sleep(0.001)
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # what glibc has got back but keeps
    assert queued - before > 48 << 20, (before, queued)
    assert resident() - before < 16 << 20, (before, queued, resident())
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


@pytest.mark.no_asan  # its allocator keeps what is freed
def test_memory_of_what_was_sent_is_given_back(loop_name: str) -> None:
    # uvloop #548
    ok(script(loop_name, MEMORY))


def test_tls_clients_that_leave_during_the_handshake(factory: Factory, certs: Certs) -> None:
    # uvloop #565, cpython #109534: each left its buffers, and more, behind.
    async def main() -> None:
        server, address = await serve(asyncio.Protocol, ssl=certs.server())

        async def leave(count: int) -> None:
            for _ in range(count):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"\x16\x03\x01\x02\x00\x01\x00")  # the head of a ClientHello
                await asyncio.sleep(0)
                writer.transport.abort()
            await until(lambda: not getattr(server, "_active_count", 0), "the server's ends")
            del reader, writer
            await asyncio.sleep(0.01)
            gc.collect()

        await leave(5)
        before = len(gc.get_objects())
        await leave(40)
        assert len(gc.get_objects()) - before < 200
        server.close()

    run(factory, main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_eager_tasks(factory: Factory, loop_name: str) -> None:
    # uvloop #754
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ran: list[str] = []

        async def note(name: str) -> str:
            ran.append(name)
            return name

        if loop_name != "asyncio":  # its create_task() takes the keyword from 3.13.3 on
            task = loop.create_task(note("keyword"), eager_start=True)
            assert task.done() and ran == ["keyword"]
            ran.clear()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
        task = loop.create_task(note("factory"))
        assert task.done() and ran == ["factory"]
        assert await task == "factory"

    run(factory, main())
