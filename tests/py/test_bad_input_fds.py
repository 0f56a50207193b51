"""Closed, reused and foreign file descriptors."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import Any

import pytest
from loops import Factory, Faults, run, script, socketpair, ok, until


def drain(sock: socket.socket, into: list[bytes]) -> None:
    into.append(sock.recv(1000))


@pytest.mark.parametrize("fd", [-1, "0", None, 1.5, object()], ids=repr)
def test_no_fd_at_all(loop: asyncio.AbstractEventLoop, fd: Any) -> None:
    for add in (loop.add_reader, loop.add_writer):
        with pytest.raises((ValueError, TypeError)):
            add(fd, print)


def test_fd_that_is_closed(loop: asyncio.AbstractEventLoop) -> None:
    one, two = os.pipe()
    os.close(one)
    with pytest.raises(OSError):
        loop.add_reader(one, print)
    assert loop.remove_reader(one) is False
    os.close(two)


def test_closed_socket_object(loop: asyncio.AbstractEventLoop) -> None:
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError):
        loop.add_reader(sock, print)


def test_regular_file_is_refused(loop: asyncio.AbstractEventLoop, tmp_path: Any) -> None:
    with open(tmp_path / "file", "wb") as stream:
        with pytest.raises(PermissionError):
            loop.add_writer(stream, print)
        assert loop.remove_writer(stream) is False


def test_number_reused_behind_our_back(factory: Factory, loop_name: str) -> None:
    """add_reader, close, and the same number comes back for another socket (field note 1)."""
    if loop_name == "asyncio":
        pytest.skip("asyncio never learns that the number is another socket, and waits for ever")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first: list[bytes] = []
        second: list[bytes] = []
        a, b = socket.socketpair()
        a.setblocking(False)
        number = a.fileno()
        loop.add_reader(a, drain, a, first)
        a.close()  # without remove_reader
        c, d = socket.socketpair()
        if c.fileno() != number:
            os.dup2(c.fileno(), number)
            c.close()
            c = socket.socket(fileno=number)
        c.setblocking(False)
        loop.add_reader(c, drain, c, second)
        d.send(b"for the second")
        await until(lambda: second)
        assert (first, second) == ([], [b"for the second"])
        assert loop.remove_reader(c) is True
        assert loop.remove_reader(c) is False
        for sock in (b, c, d):
            sock.close()

    run(factory, main())


@pytest.mark.parametrize("rounds", [50])
def test_numbers_reused_again_and_again(factory: Factory, loop_name: str, rounds: int) -> None:
    if loop_name == "asyncio":
        pytest.skip("asyncio raises FileNotFoundError from a later add_writer")
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for index in range(rounds):
            with socketpair() as (one, two):
                got: list[bytes] = []
                loop.add_reader(one, drain, one, got)
                loop.add_writer(one, lambda: loop.remove_writer(one))
                text = b"%d" % index
                two.send(text)
                await until(lambda: got)
                assert got == [text]
                if index % 2:
                    loop.remove_reader(one)
            # Every other one is closed while registered.

    run(factory, main())


def test_sock_calls_on_a_reused_number(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for index in range(30):
            with socketpair() as (one, two):
                receive = loop.create_task(loop.sock_recv(one, 100))
                await asyncio.sleep(0)
                if index % 3 == 0:
                    receive.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await receive
                    receive = loop.create_task(loop.sock_recv(one, 100))
                    await asyncio.sleep(0)
                two.send(b"%d" % index)
                assert await receive == b"%d" % index

    run(factory, main())


def test_closed_while_sock_recv_waits(factory: Factory) -> None:
    """Nothing can arrive any more; the wait can still be cancelled and the number used again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        one.setblocking(False)
        waiting = loop.create_task(loop.sock_recv(one, 100))
        await asyncio.sleep(0)
        one.close()
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await waiting
        two.close()
        with socketpair() as (three, four):
            four.send(b"x")
            assert await loop.sock_recv(three, 100) == b"x"

    run(factory, main())


def test_blocking_socket_is_refused(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with one, two:
            for call in (
                loop.sock_recv(one, 1),
                loop.sock_recv_into(one, bytearray(1)),
                loop.sock_sendall(one, b"x"),
                loop.sock_connect(one, "/nowhere"),
                loop.sock_accept(one),
                loop.sock_recvfrom(one, 1),
                loop.sock_sendto(one, b"x", "/nowhere"),
            ):
                with pytest.raises(ValueError, match="non-blocking"):
                    await call

    run(factory, main(), debug=True)


def test_fd_of_a_transport_is_refused(factory: Factory) -> None:
    """A transport's fd is its own: asyncio says so instead of letting two readers fight."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with two:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
            for add in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    add(one.fileno(), print)
            for remove in (loop.remove_reader, loop.remove_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    remove(one.fileno())
            transport.close()
            await until(lambda: one.fileno() == -1, "socket closed by its transport")

    run(factory, main())


def test_fd_of_a_datagram_transport_is_refused(factory: Factory) -> None:
    """By every call that would wait for it, with the words of asyncio, until it closes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
        fd = sock.fileno()
        for shown in (fd, sock):
            words = re.escape(f"File descriptor {shown!r} is used by transport {transport!r}")
            for add in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match=f"^{words}$"):
                    add(shown, print)
            for remove in (loop.remove_reader, loop.remove_writer):
                with pytest.raises(RuntimeError, match=f"^{words}$"):
                    remove(shown)
        words = re.escape(f"File descriptor {fd} is used by transport {transport!r}")
        for call in (
            loop.sock_recv(sock, 1),
            loop.sock_recv_into(sock, bytearray(1)),
            loop.sock_recvfrom(sock, 1),
            loop.sock_recvfrom_into(sock, bytearray(1)),
        ):
            with pytest.raises(RuntimeError, match=f"^{words}$"):
                await call
        transport.close()
        assert loop.remove_reader(fd) is False
        await until(lambda: sock.fileno() == -1, "socket closed by its transport")
        with socketpair() as pair:  # one of the two has the number now
            for one in pair:
                loop.add_reader(one, print)
                assert loop.remove_reader(one) is True

    run(factory, main())


def test_replacing_a_reader_cancels_the_old_one(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            old: list[bytes] = []
            new: list[bytes] = []
            loop.add_reader(one, drain, one, old)
            loop.add_reader(one, drain, one, new)
            two.send(b"x")
            await until(lambda: new)
            assert not old
            loop.remove_reader(one)

    run(factory, main())


def test_reader_that_raises_goes_on(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        with socketpair() as (one, two):
            count = 0

            def reader() -> None:
                nonlocal count
                count += 1
                if count == 3:
                    loop.remove_reader(one)
                raise ZeroDivisionError

            loop.add_reader(one, reader)
            two.send(b"x")
            await until(lambda: count >= 3)
            await asyncio.sleep(0)
            assert faults.exceptions() == [ZeroDivisionError] * 3

    run(factory, main())


def test_reader_removes_the_writer_and_closes(factory: Factory) -> None:
    """Both events are ready in one turn; the first callback takes the second away."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            one, two = socket.socketpair()
            one.setblocking(False)
            calls: list[str] = []

            def gone(name: str) -> None:
                calls.append(name)
                loop.remove_reader(one)
                loop.remove_writer(one)
                one.close()

            loop.add_reader(one, gone, "reader")
            loop.add_writer(one, gone, "writer")
            two.send(b"x")
            await until(lambda: calls)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(calls) == 1
            two.close()

    run(factory, main())


STDIO = """
import fcntl
def flags():
    return [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (0, 1, 2)]
before = flags()
async def main():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_reader(0, lambda: done.done() or done.set_result(os.read(0, 100)))
    writable = loop.create_future()
    loop.add_writer(1, lambda: writable.done() or writable.set_result(None))
    during = flags()
    got = await done
    await writable
    loop.remove_reader(0); loop.remove_writer(1)
    return got, during
with asyncio.Runner(loop_factory=new_loop) as runner:
    got, during = runner.run(main())
assert got == b"hello", got
assert flags() == before == during == [0, 0, 0], (before, during, flags())
"""


def test_stdio_is_not_left_non_blocking(loop_name: str) -> None:
    """Field note 8: a file description is shared with the parent and its other children."""
    ok(script(loop_name, STDIO, input="hello"))


PIPES = """
import fcntl
async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", 0, closefd=False))
    line = await reader.read()
    transport.close()
    out, _ = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(os.dup(1), "wb", 0))
    out.write(line * 2)
    out.close()
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_stdio_as_pipes(loop_name: str) -> None:
    assert ok(script(loop_name, PIPES, input="hello")) == "hellohello"
