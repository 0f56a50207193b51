"""sock_*: results, waiting, cancelling without loss, wrong arguments, reused descriptors."""

from __future__ import annotations

import array
import asyncio
import collections.abc
import gc
import inspect
import os
import socket
import ssl
import struct
import warnings
from typing import Any

import pytest
from loops import Factory, run, socketpair, until

Loop = asyncio.AbstractEventLoop


def udp() -> socket.socket:
    """A bound, non-blocking datagram socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def listener() -> socket.socket:
    """A listening, non-blocking socket."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def tcp() -> socket.socket:
    """A non-blocking TCP socket, not connected."""
    sock = socket.socket()
    sock.setblocking(False)
    return sock


# ---- streams ---------------------------------------------------------------------------------


def test_recv_at_once_and_after_a_wait(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            two.send(b"there already")
            assert await loop.sock_recv(one, 100) == b"there already"
            task = asyncio.ensure_future(loop.sock_recv(one, 100))
            await asyncio.sleep(0)
            assert not task.done()
            two.send(b"later")
            assert await task == b"later"
            assert await loop.sock_recv(one, 0) == b""
            for size in (1, 1000, 70_000, 10_000_000):
                two.send(b"y" * 500)
                data = await loop.sock_recv(one, size)
                assert data == b"y" * min(size, 500) and type(data) is bytes
                if size < 500:
                    assert len(await loop.sock_recv(one, 500)) == 500 - size
            two.close()
            assert await loop.sock_recv(one, 100) == b""

    run(factory, main())


def test_recv_where_it_was_in_vain_before(factory: Factory) -> None:
    """taut learns that a drained socket mostly has nothing more in the same turn; what is there
    after all comes all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            got: list[bytes] = []

            async def read() -> None:
                while data := await loop.sock_recv(one, 100):
                    got.append(data)
                    if len(got) > 200:  # there before the next call
                        two.send(b"%d" % len(got))
                    if len(got) == 400:
                        return

            task = asyncio.ensure_future(read())
            for n in range(201):
                two.send(b"%d" % n)
                await until(lambda n=n: len(got) > n, f"message {n}")
            await task
            assert got == [b"%d" % n for n in range(400)]
            await loop.sock_recv(one, 100)
            two.close()
            assert await loop.sock_recv(one, 100) == b""

    run(factory, main())


def test_recv_into(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            buffer = bytearray(10)
            task = asyncio.ensure_future(loop.sock_recv_into(one, buffer))
            await asyncio.sleep(0)
            two.send(b"12345")
            assert await task == 5
            assert buffer == b"12345\0\0\0\0\0"
            buffer.append(1)  # no export is left over
            numbers = array.array("i", [0, 0])
            two.send(struct.pack("ii", 7, 8))
            assert await loop.sock_recv_into(one, memoryview(numbers)[1:]) == 4
            assert list(numbers) == [0, 7]
            assert await loop.sock_recv_into(one, bytearray()) == 0
            for wrong in (b"read-only", "text", None):
                with pytest.raises((TypeError, BufferError)):
                    await loop.sock_recv_into(one, wrong)  # type: ignore[arg-type]

    run(factory, main())


def test_sendall_large_and_small(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            payload = os.urandom(5_000_000)
            kinds: list[Any] = [payload, bytearray(payload), memoryview(payload)]
            for data in kinds:
                task = asyncio.ensure_future(loop.sock_sendall(one, data))
                got = bytearray()
                while len(got) < len(payload):
                    got += await loop.sock_recv(two, 1 << 20)
                assert await task is None
                assert got == payload
            assert await loop.sock_sendall(one, b"") is None
            data = bytearray(payload)
            task = asyncio.ensure_future(loop.sock_sendall(one, data))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()
            data.append(1)  # no export is left over

    run(factory, main())


def test_full_duplex_on_one_socket(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        size = 3_000_000

        async def both(sock: socket.socket) -> int:
            async def receive() -> int:
                count = 0
                while count < size:
                    count += len(await loop.sock_recv(sock, 1 << 18))
                return count

            count, _ = await asyncio.gather(receive(), loop.sock_sendall(sock, bytes(size)))
            return count

        with socketpair() as (one, two):
            assert await asyncio.gather(both(one), both(two)) == [size, size]

    run(factory, main())


def test_errors_of_the_connection(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            two.close()
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendall(one, b"x")
        closed = tcp()
        closed.close()
        for call in (
            loop.sock_recv(closed, 1),
            loop.sock_recv_into(closed, bytearray(1)),
            loop.sock_sendall(closed, b"x"),
            loop.sock_accept(closed),
        ):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await call
        lonely = tcp()
        with pytest.raises(OSError):
            await loop.sock_recv(lonely, 1)
        lonely.close()

    run(factory, main())


def test_accept_and_connect(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listener() as server, tcp() as client:
            address = server.getsockname()
            task = asyncio.ensure_future(loop.sock_accept(server))
            await asyncio.sleep(0)
            await loop.sock_connect(client, address)
            conn, peer = await task
            with conn:
                assert peer == client.getsockname()
                assert conn.gettimeout() == 0
                await loop.sock_sendall(conn, b"hello")
                assert await loop.sock_recv(client, 10) == b"hello"
            with tcp() as named:
                await loop.sock_connect(named, ("localhost", address[1]))
                (await loop.sock_accept(server))[0].close()
        with tcp() as client:
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, address)

    run(factory, main())


# ---- datagrams -------------------------------------------------------------------------------


def test_datagrams(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with udp() as one, udp() as two:
            assert await loop.sock_sendto(one, b"first", two.getsockname()) == 5
            assert await loop.sock_recvfrom(two, 100) == (b"first", one.getsockname())
            task = asyncio.ensure_future(loop.sock_recvfrom(two, 3))
            await asyncio.sleep(0)
            await loop.sock_sendto(one, b"second", two.getsockname())
            assert await task == (b"sec", one.getsockname())
            buffer = bytearray(10)
            into = asyncio.ensure_future(loop.sock_recvfrom_into(two, buffer))
            await asyncio.sleep(0)
            await loop.sock_sendto(one, b"third", two.getsockname())
            assert await into == (5, one.getsockname())
            assert buffer[:5] == b"third"
            await loop.sock_sendto(one, b"fourth", two.getsockname())
            assert await loop.sock_recvfrom_into(two, buffer, 2) == (2, one.getsockname())
            assert buffer[:5] == b"foird"
            await loop.sock_sendto(one, b"", two.getsockname())
            assert await loop.sock_recvfrom(two, 100) == (b"", one.getsockname())

    run(factory, main())


# ---- awaiting and cancelling -----------------------------------------------------------------


def test_they_are_coroutines(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            coro: Any = loop.sock_recv(one, 10)
            assert asyncio.iscoroutine(coro) and inspect.isawaitable(coro)
            assert isinstance(coro, collections.abc.Coroutine)
            assert "sock_recv" in repr(coro)
            two.send(b"first come")
            coro.close()
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await coro
            task = asyncio.create_task(loop.sock_recv(one, 5), name="reader")
            assert "sock_recv" in repr(task)
            two.send(b"more")
            results = await asyncio.gather(task, asyncio.wait_for(loop.sock_recv(one, 99), 5))
            assert results == [b"first", b" comemore"]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.sock_recv(one, 10), 0.01)

    run(factory, main())


def test_nothing_happens_until_awaited(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            coro = loop.sock_sendall(one, b"x")
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                two.recv(1)
            await coro
            assert two.recv(1) == b"x"
            with pytest.warns(RuntimeWarning, match="was never awaited"):
                loop.sock_recv(one, 1)
                gc.collect()

    run(factory, main())


def test_cancelling_loses_no_data(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            got = b""
            for i in range(200):
                task = asyncio.ensure_future(loop.sock_recv(one, 1))
                for _ in range(i % 4):
                    await asyncio.sleep(0)
                if i % 2:
                    two.send(bytes([i]))
                for _ in range(i % 3):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    got += await task
                except asyncio.CancelledError:
                    pass
            two.close()
            while chunk := await loop.sock_recv(one, 1000):
                got += chunk
            # asyncio's may drop a byte that was received for a cancelled task.
            if "taut" in type(loop).__module__:
                assert got == bytes(range(1, 200, 2))

    run(factory, main())


def test_cancelled_wait_leaves_nothing_registered(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            task = asyncio.ensure_future(loop.sock_recv(one, 1))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert loop.remove_reader(one) is False
            seen: list[bytes] = []
            loop.add_reader(one, lambda: seen.append(one.recv(10)))
            two.send(b"x")
            await until(lambda: seen == [b"x"], "the reader")
            loop.remove_reader(one)

    run(factory, main())


def test_a_number_closed_and_reused_during_a_wait() -> None:
    # asyncio's future of the first wait stays pending, too, but the second wait fails there
    # on the selector's stale key when epoll has dropped the registration.
    import taut

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for direction in ("read", "write"):
            one, two = socket.socketpair()
            one.setblocking(False)
            if direction == "read":
                task = asyncio.ensure_future(loop.sock_recv(one, 1))
            else:
                task = asyncio.ensure_future(loop.sock_sendall(one, bytes(10_000_000)))
            await asyncio.sleep(0)
            fd = one.fileno()
            one.close()  # behind the loop's back
            three, four = socket.socketpair()
            assert fd in (three.fileno(), four.fileno())
            ours, theirs = (three, four) if three.fileno() == fd else (four, three)
            ours.setblocking(False)
            second = asyncio.ensure_future(loop.sock_recv(ours, 10))
            await asyncio.sleep(0)
            theirs.send(b"new")
            assert await second == b"new"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for sock in (two, three, four):
                sock.close()

    run(taut.new_event_loop, main())


def test_two_waits_on_one_socket() -> None:
    # asyncio forgets the first; here each gets something, in order.
    import taut

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            tasks = [asyncio.ensure_future(loop.sock_recv(one, 1)) for _ in range(3)]
            await asyncio.sleep(0)
            two.send(b"a")
            await until(lambda: tasks[0].done(), "the first")
            two.send(b"bc")
            assert await asyncio.gather(*tasks) == [b"a", b"b", b"c"]

    run(taut.new_event_loop, main())


def test_closing_the_loop_during_a_wait(factory: Factory) -> None:
    loop = factory()
    with socketpair() as (one, two):
        task = loop.create_task(loop.sock_recv(one, 1))  # type: ignore[arg-type]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        two.send(b"x")
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del task, loop
            gc.collect()


# ---- wrong arguments -------------------------------------------------------------------------


def test_blocking_sockets_are_refused_in_debug_mode(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            for call in (
                loop.sock_recv(sock, 1),
                loop.sock_recv_into(sock, bytearray(1)),
                loop.sock_recvfrom(sock, 1),
                loop.sock_recvfrom_into(sock, bytearray(1)),
                loop.sock_sendall(sock, b"x"),
                loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
                loop.sock_connect(sock, ("127.0.0.1", 1)),
                loop.sock_accept(sock),
            ):
                with pytest.raises(ValueError, match="the socket must be non-blocking"):
                    await call

    run(factory, main(), debug=True)


def test_tls_sockets_are_refused(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.socket() as plain, context.wrap_socket(plain) as sock:
            for call in (loop.sock_recv(sock, 1), loop.sock_connect(sock, ("127.0.0.1", 1))):
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await call

    run(factory, main())


def test_wrong_arguments(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socketpair() as (one, two):
            for call in (
                lambda: loop.sock_recv(one),
                lambda: loop.sock_recv(one, 1, 2),
                lambda: loop.sock_recv(one, 1, n=1),
                lambda: loop.sock_recv(one, size=1),
                lambda: loop.sock_accept(),
            ):
                with pytest.raises(TypeError):
                    await call()
            with pytest.raises(ValueError):
                await loop.sock_recv(one, -1)
            with pytest.raises(TypeError):
                await loop.sock_recv(one, "5")
            for wrong in ("text", 5, None):
                with pytest.raises(TypeError):
                    await loop.sock_sendall(one, wrong)
            await loop.sock_sendall(sock=one, data=b"by name")
            assert await loop.sock_recv(sock=two, n=100) == b"by name"

    run(factory, main())


def test_socket_like_objects(factory: Factory) -> None:
    class Slow(socket.socket):
        """Sends three bytes at a time."""

        def send(self, data: Any, *flags: int) -> int:
            return super().send(memoryview(data)[:3])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            with Slow(fileno=os.dup(one.fileno())) as slow:
                slow.setblocking(False)
                await loop.sock_sendall(slow, b"0123456789")
                assert two.recv(100) == b"0123456789"
                two.send(b"back")
                assert await loop.sock_recv(slow, 100) == b"back"

    run(factory, main())


def test_waiting_task_that_nobody_holds(factory: Factory) -> None:
    """The loop holds what waits: a collection takes no task away."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []

        async def receive(sock: socket.socket) -> None:
            got.append(await loop.sock_recv(sock, 10))

        with socketpair() as (one, two):
            loop.create_task(receive(one))
            await asyncio.sleep(0)
            gc.collect()
            two.send(b"still here")
            await until(lambda: got == [b"still here"])

    run(factory, main())
