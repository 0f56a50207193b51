"""After how many sleep(0) the other end of a connection hears of something: as soon as on asyncio.

Programs and test suites of others count on it where both ends are in one loop.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from loops import Factory, run, socketpair
from loops import factory as factory_of

MANY = 50


class Recorder(asyncio.Protocol, asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(f"data {len(data)}")

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.append(f"datagram {data.decode()}")

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost")


async def pair(stack: ExitStack) -> tuple[Recorder, Recorder]:
    """Both ends of a connection."""
    loop = asyncio.get_running_loop()
    ends = []
    for sock in stack.enter_context(socketpair()):
        _, end = await loop.create_connection(Recorder, sock=sock)
        ends.append(end)
    for end in ends:
        stack.callback(end.transport.abort)
    return ends[0], ends[1]


async def write(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    one.transport.write(b"data")
    return lambda: "data 4" in two.heard


async def write_twice(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    one.transport.write(b"data")
    one.transport.write(b"more")
    return lambda: two.heard[-1] in ("data 8", "data 4")


async def answer(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    two.data_received = two.transport.write  # type: ignore[method-assign]
    one.transport.write(b"data")
    return lambda: "data 4" in one.heard


async def write_eof(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    one.transport.write_eof()
    return lambda: "eof" in two.heard


async def close(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    one.transport.close()
    return lambda: "eof" in two.heard


async def resume_reading(stack: ExitStack) -> Callable[[], object]:
    one, two = await pair(stack)
    two.transport.pause_reading()
    one.transport.write(b"data")
    for _ in range(MANY):
        await asyncio.sleep(0)
    two.transport.resume_reading()
    return lambda: "data 4" in two.heard


async def add_reader(stack: ExitStack) -> Callable[[], object]:
    one, two = stack.enter_context(socketpair())
    one.send(b"data")
    heard: list[bytes] = []
    loop = asyncio.get_running_loop()
    loop.add_reader(two, lambda: heard.append(two.recv(9)))
    stack.callback(loop.remove_reader, two)
    return lambda: heard


async def sock_sendall(stack: ExitStack) -> Callable[[], object]:
    left, right = stack.enter_context(socketpair())
    loop = asyncio.get_running_loop()
    _, end = await loop.create_connection(Recorder, sock=right)
    stack.callback(end.transport.abort)
    left.setblocking(False)
    await loop.sock_sendall(left, b"data")
    return lambda: "data 4" in end.heard


async def sendto(stack: ExitStack) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    _, two = await loop.create_datagram_endpoint(Recorder, ("127.0.0.1", 0))
    address = two.transport.get_extra_info("sockname")
    _, one = await loop.create_datagram_endpoint(Recorder, remote_addr=address)
    stack.callback(one.transport.abort)
    stack.callback(two.transport.abort)
    one.transport.sendto(b"1")
    one.transport.sendto(b"2")
    return lambda: "datagram 2" in two.heard


async def connect(stack: ExitStack) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    accepted = Recorder()
    server = await loop.create_server(lambda: accepted, "127.0.0.1", 0)
    stack.callback(server.close)
    sock = stack.enter_context(socket.socket())
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    stack.callback(lambda: accepted.transport.abort())
    return lambda: accepted.heard


async def warm_up() -> None:
    """taut's first milliseconds measure its clock, in short bursts."""
    for _ in range(4):
        await asyncio.sleep(0.005)


async def sleeps(act: Callable[[ExitStack], Awaitable[Callable[[], object]]]) -> int:
    """How often the loop has to be given to for the act to be heard of."""
    await warm_up()
    with ExitStack() as stack:
        heard = await act(stack)
        for count in range(MANY):
            if heard():
                return count
            await asyncio.sleep(0)
    return MANY


ACTS = (write, write_twice, answer, write_eof, close, resume_reading, add_reader, sock_sendall,
        sendto, connect)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_the_other_end_hears_as_soon_as_on_asyncio(act: Any) -> None:
    theirs = run(factory_of("asyncio"), sleeps(act))
    assert theirs < MANY
    # Another thread's work may hold a loop up, but not every time.
    counts = [run(factory_of("taut"), sleeps(act)) for _ in range(5)]
    assert min(counts) <= theirs, (counts, theirs)


@pytest.mark.parametrize("delay_s", [0, 1e-9, 1e-6])
def test_a_timer_that_is_due_overtakes_a_chain_of_calls(factory: Factory, delay_s: float) -> None:
    async def main() -> int:
        await warm_up()
        loop = asyncio.get_running_loop()
        due = loop.create_future()
        loop.call_later(delay_s, due.set_result, None)
        for count in range(1000):
            if due.done():
                return count
            await asyncio.sleep(0)
        return 1000

    assert min(run(factory, main()) for _ in range(5)) < 50


def test_a_closed_loop_is_gone_with_its_last_reference(factory: Factory) -> None:
    gc.collect()
    gc.disable()
    try:
        loop = factory()
        loop.run_until_complete(asyncio.sleep(0))
        future = loop.create_future()
        loop.close()
        assert asyncio.isfuture(loop.create_future())
        alive = weakref.ref(loop)
        del loop, future
        assert alive() is None
    finally:
        gc.enable()
