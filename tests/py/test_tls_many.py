"""Many TLS connections: a burst of handshakes leaves the loop free, and nothing grows.

TAUT_TEST_LONG=1 makes it 10,000 connections."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import sys
import threading
import time
from typing import Any

import pytest

import loops
import taut
from loops import Recorder, run, until
from taut import _connections, _core
from tls_certs import Certs
from tls_peers import Echo

BURST = 60
CYCLES = 10_000 if os.environ.get("TAUT_TEST_LONG") else 300


def hello(context: ssl.SSLContext) -> bytes:
    """A client's first message."""
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_burst_of_handshakes_is_spread_over_iterations(certs: Certs) -> None:
    """All clients say hello at once; between two turns of the loop only a few are answered, since a
    turn has two milliseconds for them and a signature takes a good part of one."""

    class Slow(ssl.SSLContext):
        """Each handshake takes a millisecond at least."""

        def wrap_bio(self, *args: Any, **kwargs: Any) -> Any:
            wrapped = super().wrap_bio(*args, **kwargs)
            original = wrapped.do_handshake

            def do_handshake() -> None:
                end = time.perf_counter() + 0.001
                while time.perf_counter() < end:
                    pass
                steps.append(turn)
                original()

            wrapped.do_handshake = do_handshake  # type: ignore[method-assign]
            return wrapped

    steps: list[int] = []
    turn = 0

    async def main() -> None:
        nonlocal turn
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Recorder, "127.0.0.1", 0, backlog=BURST, ssl=certs.server(kind=Slow)
        )
        address = server.sockets[0].getsockname()
        first = hello(certs.client())
        pairs = [await asyncio.open_connection(*address) for _ in range(BURST)]
        turn = 1
        for _, writer in pairs:
            writer.write(first)
        for reader, _ in pairs:
            answer = asyncio.ensure_future(reader.read(1))
            while not answer.done():
                turn += 1
                await asyncio.sleep(0)
            assert await answer == b"\x16"
        for _, writer in pairs:
            writer.transport.abort()
        server.close()

    run(taut.new_event_loop, main())
    per_turn = [steps.count(one) for one in set(steps)]
    assert len(steps) == BURST
    assert max(per_turn) <= 6, per_turn  # a turn of ours may see the end of one and another


async def cycle(address: Any, context: ssl.SSLContext, how: int) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder, *address, ssl=context, server_hostname="localhost"
    )
    transport.write(b"x" * (how * 1000 + 1))
    if how % 3 == 0:
        transport.abort()
    else:
        transport.close()
    await until(lambda: protocol.lost, "the end")


def test_cycles_leave_nothing_behind(certs: Certs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "DEADLINE_S", 110.0)
    monkeypatch.setenv("TAUT_DOCTOR", "off")  # what examinations keep is not to be counted

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.stall_threshold = None  # type: ignore[attr-defined]
        made: list[Recorder] = []

        def recorder() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(recorder, "127.0.0.1", 0, ssl=certs.server())
        address = server.sockets[0].getsockname()
        context = certs.client()
        before: tuple[int, int, int] | None = None
        for number in range(CYCLES):
            await cycle(address, context, number % 7)
            if number in (CYCLES // 2, CYCLES - 1):
                await until(lambda: all(one.lost for one in made), "the server's ends")
                made.clear()
                _connections.made.clear()  # the latest ones are kept, for the doctor
                gc.collect()
                now = (
                    len(os.listdir("/proc/self/fd")),
                    sys.getallocatedblocks(),
                    _core.mem_stats()["live_blocks"],
                )
                if before is not None:
                    assert now[0] == before[0]
                    assert now[1] - before[1] < CYCLES, (before, now)  # two a cycle would be more
                    # Cancelled deadlines stay in the heap until they are swept.
                    assert now[2] - before[2] < CYCLES // 2, (before, now)
                before = now
        server.close()

    run(taut.new_event_loop, main())


def test_connections_of_two_loops_at_once(certs: Certs) -> None:
    """One context serves loops in several threads."""
    server_context, client_context = certs.server(), certs.client()
    failures: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        for number in range(30):
            await cycle(address, client_context, number)
        server.close()

    def in_thread() -> None:
        try:
            run(taut.new_event_loop, main())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_burst_leaves_no_buffers(certs: Certs) -> None:
    """20 MB through a connection that then idles: what the core still holds is the loop's own."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=certs.server())
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(
            *address, ssl=certs.client(), server_hostname="localhost"
        )
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        before = _core.mem_stats()["live_bytes"]
        writer.write(bytes(20_000_000))
        assert len(await reader.readexactly(20_000_000)) == 20_000_000
        assert writer.transport.get_write_buffer_size() == 0
        grown = _core.mem_stats()["live_bytes"] - before
        assert grown < 300_000, grown  # the spare buffer for records, of one loop
        writer.transport.abort()
        server.close()

    run(taut.new_event_loop, main())
