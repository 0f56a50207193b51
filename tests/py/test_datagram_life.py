"""The life of datagram transports: closing, being forgotten, loops that close, idle sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loops
from datagrams import Notes, address, closed, drain, endpoint, plain

Factory = Callable[[], asyncio.AbstractEventLoop]


def test_close(factory: Factory) -> None:
    async def main() -> None:
        fds = loops.fd_count()
        transport, notes = await endpoint()
        with plain() as sock:
            sock.sendto(b"never seen", address(transport))
            transport.close()
            transport.close()
            assert transport.is_closing() and not notes.lost  # never within the call
            await loops.until(lambda: notes.lost, "connection_lost")
        assert notes.calls == ["connection_made", "connection_lost"]
        assert notes.lost == [None]
        assert loops.fd_count() == fds
        transport.close()
        transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        assert notes.lost == [None]

    loops.run(factory, main())


def test_abort_drops_what_is_queued(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        with plain(socket.AF_UNIX, str(tmp_path / "peer")) as sock:
            transport, notes = await endpoint(
                family=socket.AF_UNIX, remote_addr=str(tmp_path / "peer")
            )
            sent = 0
            while sent < 200:  # its queue takes a dozen
                transport.sendto(struct.pack("!I", sent) + b"x" * 496)
                sent += 1
                await asyncio.sleep(0)
            transport.close()  # would wait
            transport.abort()
            await loops.until(lambda: notes.lost, "connection_lost")
            assert notes.lost == [None] and "error_received" not in notes.calls
            assert 0 < len(drain(sock)) < sent

    loops.run(factory, main())


def test_what_was_sent_in_error_received_before_abort_has_left(factory: Factory) -> None:
    """Also where the error is that of a datagram which left together with others."""
    class Gives(Notes):
        def error_received(self, exc: BaseException) -> None:
            super().error_received(exc)
            self.transport.sendto(b"last words", there)
            self.transport.sendto(b"and more", there)
            self.transport.abort()

    there: Any = None

    async def main() -> None:
        nonlocal there
        with plain() as peer:
            there = peer.getsockname()
            transport, notes = await endpoint(Gives())
            transport.sendto(b"first", there)
            transport.sendto(b"second", there)
            transport.sendto(bytes(65508), there)  # more than a datagram may have
            await loops.until(lambda: notes.lost, "connection_lost")
            assert len(notes.errors) == 1
            loop = asyncio.get_running_loop()
            got = [await loop.sock_recv(peer, 100) for _ in range(4)]
            assert got == [b"first", b"second", b"last words", b"and more"]

    loops.run(factory, main())


def test_what_was_sent_before_abort_has_left(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint()
        with plain() as sock:
            for i in range(5):
                transport.sendto(b"%d" % i, sock.getsockname())
            transport.abort()
            await loops.until(lambda: notes.lost, "connection_lost")
            assert drain(sock) == [b"%d" % i for i in range(5)]

    loops.run(factory, main())


def test_what_was_sent_before_close_or_stop_has_left(factory: Factory) -> None:
    loop = factory()
    transport, _ = loop.run_until_complete(endpoint())
    with plain() as sock:

        def send(count: int) -> None:
            for i in range(count):
                transport.sendto(b"%d" % i, sock.getsockname())

        loop.call_soon(send, 5)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert drain(sock) == [b"%d" % i for i in range(5)]
        send(3)  # the loop does not run: each leaves at once
        assert drain(sock) == [b"%d" % i for i in range(3)]
        loop.call_soon(send, 4)
        loop.call_soon(transport.close)
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        assert drain(sock) == [b"%d" % i for i in range(4)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("connected", [True, False])
def test_sends_after_the_end(
    factory: Factory, connected: bool, caplog: pytest.LogCaptureFixture, loop_name: str
) -> None:
    """Dropped, with a warning from the fifth on; asyncio raises when an unconnected one is closed,
    which nobody can want."""

    async def main() -> None:
        with plain() as sock:
            to = sock.getsockname()
            options: dict[str, Any] = {"remote_addr": to} if connected else {}
            transport, notes = await endpoint(**options)
            transport.close()
            transport.sendto(b"while closing", None if connected else to)
            await loops.until(lambda: notes.lost, "connection_lost")
            assert drain(sock) == ([] if connected else [b"while closing"])
            if loop_name == "taut" or connected:
                for _ in range(6):
                    transport.sendto(b"x", None if connected else to)
                with pytest.raises(TypeError):
                    transport.sendto("x")
            assert drain(sock) == [] and not notes.errors

    caplog.set_level(logging.WARNING, "asyncio")
    loops.run(factory, main())
    if loop_name == "taut" or connected:
        messages = [record.getMessage() for record in caplog.records]
        assert messages == ["socket.send() raised exception."] * (3 if connected else 2)


def test_closing_within_callbacks(factory: Factory) -> None:
    class Closes(Notes):
        def __init__(self, name: str, how: str) -> None:
            super().__init__()
            self.name, self.how = name, how

        def note(self, name: str) -> None:
            super().note(name)
            if name == self.name:
                getattr(self.transport, self.how)()

    async def main() -> None:
        for how in ("close", "abort"):
            transport, notes = await endpoint(Closes("connection_made", how))
            await loops.until(lambda: notes.lost, "the end")  # noqa: B023
            assert notes.calls == ["connection_made", "connection_lost"]
            transport, notes = await endpoint(Closes("datagram_received", how))
            with plain(bind=None) as sock:
                for _ in range(10):
                    sock.sendto(b"x", address(transport))
            await loops.until(lambda: notes.lost, "the end")  # noqa: B023
            assert notes.calls == ["connection_made", "datagram_received", "connection_lost"]
            transport, notes = await endpoint(Closes("error_received", how))
            with plain() as sock:
                transport.sendto(b"x" * 70000, sock.getsockname())
                await loops.until(lambda: notes.lost, "the end")  # noqa: B023
            assert notes.calls == ["connection_made", "error_received", "connection_lost"]

    loops.run(factory, main())


@pytest.mark.parametrize("name", ["connection_made", "connection_lost"])
def test_what_the_protocol_raises_is_reported(factory: Factory, name: str) -> None:
    async def main() -> None:
        faults = loops.Faults(asyncio.get_running_loop())
        transport, notes = await endpoint(Notes(raises=(name,)))
        await closed(transport, notes)
        await loops.until(lambda: faults.contexts, "the report")
        assert faults.exceptions() == [ZeroDivisionError]
        assert notes.calls == ["connection_made", "connection_lost"]

    loops.run(factory, main())


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_what_flow_control_raises_is_reported(
    factory: Factory, tmp_path: Path, name: str
) -> None:
    async def main() -> None:
        faults = loops.Faults(asyncio.get_running_loop())
        with plain(socket.AF_UNIX, str(tmp_path / "peer")) as sock:
            transport, notes = await endpoint(
                Notes(raises=(name,)), family=socket.AF_UNIX, remote_addr=str(tmp_path / "peer")
            )
            # asyncio 3.13.0 forgets to take the headers off again: not quite down to nothing.
            transport.set_write_buffer_limits(high=2000)
            while "pause_writing" not in notes.calls:
                transport.sendto(b"x" * 500)
                await asyncio.sleep(0)
            got: list[bytes] = []
            await loops.until(
                lambda: got.extend(drain(sock)) or "resume_writing" in notes.calls, "resume"
            )
            [context] = faults.contexts
            assert context["message"] == f"protocol.{name}() failed"
            assert context["transport"] is transport and context["protocol"] is notes
            assert not transport.is_closing()
            await closed(transport, notes)

    loops.run(factory, main())


def test_forgotten_transport_warns_and_closes(factory: Factory) -> None:
    """With reading paused (asyncio: since 3.12) nobody but the program holds it. A loop that is
    closed under it gives it up in any case."""
    gc.collect()
    fds = loops.fd_count()
    loop = factory()
    transport, notes = loop.run_until_complete(endpoint())
    fd = transport.get_extra_info("socket").fileno()
    loop.close()
    assert not notes.lost
    notes.transport = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        gc.collect()
    texts = [str(w.message) for w in caught if w.category is ResourceWarning]
    assert any(text.startswith("unclosed transport <") and f"fd={fd}" in text for text in texts)
    assert loops.fd_count() == fds and not notes.lost


@pytest.mark.parametrize("loop_name", ["taut"])
def test_paused_and_forgotten(factory: Factory) -> None:
    async def main() -> None:
        fds = loops.fd_count()
        transport, notes = await endpoint()
        notes.transport = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            transport.pause_reading()
            del transport
            await loops.until(lambda: caught, "the warning")
        assert [w.category for w in caught] == [ResourceWarning]
        assert loops.fd_count() == fds

    loops.run(factory, main())


def test_the_loop_holds_a_transport_that_reads(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint(Notes(echo=b""))
        to, seen = address(transport), weakref.ref(transport)
        notes.transport = None
        del transport
        gc.collect()
        held = seen()
        assert held is not None
        notes.transport = held
        with plain() as sock:
            sock.sendto(b"x", to)
            await loops.until(lambda: drain(sock), "the answer")
        held.close()
        del held
        notes.transport = None
        await loops.until(lambda: not gc.collect() and seen() is None, "collection")

    loops.run(factory, main())


def test_closed_transports_are_collected_with_their_cycles(factory: Factory) -> None:
    async def main() -> None:
        gone = []
        for _ in range(10):
            transport, notes = await endpoint()
            transport.myself = [transport, notes]
            gone.append(weakref.ref(transport))
            await closed(transport, notes)
            del transport, notes
        await loops.until(lambda: not gc.collect() and not any(r() for r in gone), "collection")

    loops.run(factory, main())


def test_sending_when_the_loop_is_closed(factory: Factory) -> None:
    loop = factory()
    transport, notes = loop.run_until_complete(endpoint())
    loop.close()
    if type(loop).__module__.startswith("taut"):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.sendto(b"x", ("127.0.0.1", 9))
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes.transport = None
        del transport
        gc.collect()


def test_cancelled_creation_closes_the_socket(factory: Factory) -> None:
    async def main() -> None:
        fds = loops.fd_count()
        notes = Notes()
        task = asyncio.ensure_future(endpoint(notes))
        await loops.until(lambda: notes.calls or task.done(), "connection_made")
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result()[0].close()
        await loops.until(lambda: notes.lost, "connection_lost")
        assert loops.fd_count() == fds

    loops.run(factory, main())


def test_many_transports_leave_nothing(factory: Factory) -> None:
    async def main() -> None:
        fds = loops.fd_count()
        for _ in range(5):
            made = [await endpoint(Notes(echo=b"")) for _ in range(20)]
            with plain() as sock:
                for transport, _ in made:
                    for _ in range(3):
                        sock.sendto(b"x", address(transport))
                got: list[bytes] = []
                await loops.until(lambda: got.extend(drain(sock)) or len(got) == 60, "answers")  # noqa: B023
            for transport, notes in made:
                await closed(transport, notes)
        del made, transport, notes
        assert loops.fd_count() == fds

    loops.run(factory, main())
    if factory.__module__.startswith("taut"):
        import taut._core

        before = taut._core.mem_stats()["live_blocks"]
        loops.run(factory, main())
        gc.collect()
        assert taut._core.mem_stats()["live_blocks"] <= before + 1  # an examination


def test_idle_sockets_cost_nothing(loop_name: str) -> None:
    """200 multicast sockets that nobody sends to: the loop sleeps. (uvloop was reported to use a
    fifth of a CPU.)"""
    done = loops.script(
        loop_name,
        """
        import resource, struct
        from datagrams import endpoint

        async def main():
            made = []
            for i in range(200):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", 0))
                member = struct.pack(
                    "4s4s", socket.inet_aton("239.255.7.%d" % (i % 16 + 1)),
                    socket.inet_aton("127.0.0.1"),
                )
                try:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                except OSError:
                    pass  # no multicast here: idle all the same
                made.append(await endpoint(sock=sock))
            await asyncio.sleep(0.05)
            before = resource.getrusage(resource.RUSAGE_THREAD)
            await asyncio.sleep(0.5)
            after = resource.getrusage(resource.RUSAGE_THREAD)
            print(after.ru_nvcsw - before.ru_nvcsw)
            print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            for transport, _ in made:
                transport.close()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
    )
    sleeps, cpu_s = loops.ok(done).split()
    assert int(sleeps) <= 5 and float(cpu_s) < 0.1


def test_child_of_a_fork_has_the_socket(loop_name: str) -> None:
    """Closed in the child, it goes on in the parent."""
    done = loops.script(
        loop_name,
        """
        from datagrams import Notes, address, endpoint, plain

        loop = new_loop()
        transport, notes = loop.run_until_complete(endpoint(Notes(echo=b"")))
        pid = os.fork()
        if pid == 0:
            transport.get_extra_info("socket")._sock.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        with plain() as sock:
            sock.sendto(b"x", address(transport))
            loop.run_until_complete(loops.until(lambda: notes.got))
        transport.close()
        loop.run_until_complete(loops.until(lambda: notes.lost))
        loop.close()
        print("fine")
        """,
    )
    assert loops.ok(done) == "fine\n"


def test_queued_before_the_run_goes_first(factory: Factory) -> None:
    """What arrives while the loop does not run is told after what was queued before the run."""
    loop = factory()
    transport, notes = loop.run_until_complete(endpoint())
    with plain(bind=None) as sock:
        for turn in range(3):
            sock.sendto(b"x", address(transport))
            loop.call_soon(notes.calls.append, "queued")
            loop.run_until_complete(loops.until(lambda: len(notes.got) > turn))  # noqa: B023
    assert notes.calls == ["connection_made", *["queued", "datagram_received"] * 3]
    transport.close()
    loop.run_until_complete(loops.until(lambda: notes.lost))
    loop.close()
