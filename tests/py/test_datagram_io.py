"""Datagram endpoints: what comes, what leaves, in which order, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loops
from datagrams import Notes, address, closed, drain, endpoint, plain, refused_port

Factory = Callable[[], asyncio.AbstractEventLoop]
UDP_SIZE_MAX = 65507


def has_ipv6() -> bool:
    """Whether ::1 can be bound here."""
    try:
        with plain(socket.AF_INET6, ("::1", 0)):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("connected", [False, True])
def test_echo(factory: Factory, host: str, connected: bool) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    family = socket.AF_INET if host == "localhost" else 0

    async def main() -> None:
        server, seen = await endpoint(Notes(echo=b"re:"), local_addr=(host, 0), family=family)
        name = address(server)
        if connected:
            client, notes = await endpoint(remote_addr=(host, name[1]), family=family)
            assert client.get_extra_info("peername") == name
            to = [None, name]
        else:
            client, notes = await endpoint(local_addr=(host, 0), family=family)
            assert client.get_extra_info("peername") is None
            to = [name, (host, *name[1:])]
        sent = [b"a", bytearray(b"bc"), memoryview(b"d" * 1000), b"e" * 60000]
        for i, data in enumerate(sent):
            client.sendto(data, to[i % 2])
        await loops.until(lambda: len(notes.got) == len(sent), "the answers")
        own = address(client)
        assert seen.got == [(bytes(data), own) for data in sent]
        assert notes.got == [(b"re:" + bytes(data), name) for data in sent]
        assert not seen.errors and not notes.errors
        await closed(client, notes)
        await closed(server, seen)
        assert notes.calls[0] == "connection_made" and notes.calls[-1] == "connection_lost"
        assert notes.lost == [None]

    loops.run(factory, main())


def test_many_keep_their_order_both_ways(factory: Factory) -> None:
    count = 3000

    async def main() -> None:
        server, seen = await endpoint(Notes(echo=b""))
        client, notes = await endpoint()
        for transport in (server, client):
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20
            )
        window = 50  # fits into any receive buffer
        sent = 0
        while sent < count:
            for _ in range(window):
                client.sendto(struct.pack("!I", sent), address(server))
                sent += 1
            await loops.until(lambda: len(notes.got) == sent, "the answers")
        assert notes.data() == [struct.pack("!I", i) for i in range(count)]
        assert notes.data() == seen.data()
        client.close()
        server.close()

    loops.run(factory, main())


def test_many_senders_are_told_apart(factory: Factory) -> None:
    async def main() -> None:
        server, seen = await endpoint(Notes(echo=b""))
        clients = [await endpoint() for _ in range(20)]
        for turn in range(5):
            for i, (client, _) in enumerate(clients):
                client.sendto(b"%d.%d" % (i, turn), address(server))
        await loops.until(lambda: all(len(notes.got) == 5 for _, notes in clients), "the answers")
        for i, (client, notes) in enumerate(clients):
            assert notes.data() == [b"%d.%d" % (i, turn) for turn in range(5)]
            assert [sender for data, sender in seen.got if data.startswith(b"%d." % i)] == (
                [address(client)] * 5
            )
            client.close()
        server.close()

    loops.run(factory, main())


def test_the_largest_and_the_empty_one_come(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint()
        with plain(bind=None) as sock:
            for data in (b"", b"x" * UDP_SIZE_MAX, b"", b"y"):
                sock.sendto(data, address(transport))
            await loops.until(lambda: len(notes.got) == 4, "all four")
        assert [len(data) for data in notes.data()] == [0, UDP_SIZE_MAX, 0, 1]
        transport.close()

    loops.run(factory, main())


def test_sending_nothing(factory: Factory) -> None:
    """asyncio sends an empty datagram since 3.13, and drops it before."""

    async def main() -> None:
        transport, _ = await endpoint()
        with plain() as sock:
            transport.sendto(b"", sock.getsockname())
            transport.sendto(memoryview(b""), sock.getsockname())
            transport.sendto(b"end", sock.getsockname())
            got: list[bytes] = []

            def ended() -> bool:
                got.extend(drain(sock))
                return b"end" in got

            await loops.until(ended, "the end")
        assert got == ([b"", b""] if sys.version_info >= (3, 13) else []) + [b"end"]
        transport.close()

    loops.run(factory, main())


def test_host_names_are_looked_up_by_sendto(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint(local_addr=("127.0.0.1", 0))
        with plain() as sock:
            port = sock.getsockname()[1]
            transport.sendto(b"1", ("127.0.0.1", port))
            transport.sendto(b"2", ("localhost", port))
            transport.sendto(b"3", ("127.0.0.1", port))
            transport.sendto(b"lost", ("no-such-host.invalid", port))
            transport.sendto(b"4", ("localhost", port))
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(sock)) or len(got) == 4, "all")
            assert got == [b"1", b"2", b"3", b"4"]
        assert [type(exc) for exc in notes.errors] == [socket.gaierror]
        transport.close()

    loops.run(factory, main())


def test_oversized_goes_to_error_received(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint()
        with plain() as sock:
            to = sock.getsockname()
            transport.sendto(b"x" * (UDP_SIZE_MAX + 1), to)
            assert len(notes.errors) == 1  # the first of a turn is tried at once
            transport.sendto(b"a", to)
            transport.sendto(b"y" * (UDP_SIZE_MAX + 1), to)
            transport.sendto(b"b", to)
            await loops.until(lambda: len(notes.errors) == 2, "the second error")
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(sock)) or len(got) == 2, "the others")
            assert got == [b"a", b"b"]
        assert [exc.errno for exc in notes.errors] == [errno.EMSGSIZE] * 2  # type: ignore[attr-defined]
        assert not transport.is_closing()
        transport.close()

    loops.run(factory, main())


def test_refused_goes_to_error_received(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint(remote_addr=refused_port())
        for _ in range(3):
            before = len(notes.errors)
            transport.sendto(b"anybody?")
            await loops.until(lambda: len(notes.errors) > before, "the refusal")
        for _ in range(4):  # of one turn: at least one is heard of
            transport.sendto(b"anybody?")
        await loops.until(lambda: len(notes.errors) > 3, "the refusal of many")
        assert {type(exc) for exc in notes.errors} == {ConnectionRefusedError}
        assert notes.errors[0].args == (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        assert not transport.is_closing()
        transport.close()

    loops.run(factory, main())


def test_what_error_received_raises(factory: Factory) -> None:
    """Within sendto() it is the caller's; from the loop it goes to the exception handler."""

    async def main() -> None:
        faults = loops.Faults(asyncio.get_running_loop())
        transport, _ = await endpoint(Notes(raises=("error_received",)))
        with plain() as sock:
            with pytest.raises(ZeroDivisionError):
                transport.sendto(b"x" * (UDP_SIZE_MAX + 1), sock.getsockname())
            with pytest.raises(ZeroDivisionError):
                transport.sendto(b"x", ("no-such-host.invalid", 1))
            transport.sendto(b"still there", sock.getsockname())
            await loops.until(lambda: drain(sock), "the good one")
        assert not faults.contexts and not transport.is_closing()
        transport.close()

        transport, notes = await endpoint(
            Notes(raises=("error_received",)), remote_addr=refused_port()
        )
        transport.sendto(b"x")
        await loops.until(lambda: faults.contexts, "the report")
        assert faults.exceptions() == [ZeroDivisionError]
        assert len(notes.errors) == 1 and not transport.is_closing()
        transport.close()

    loops.run(factory, main())


def test_what_datagram_received_raises_is_reported(factory: Factory) -> None:
    async def main() -> None:
        faults = loops.Faults(asyncio.get_running_loop())
        transport, notes = await endpoint(Notes(raises=("datagram_received",)))
        with plain(bind=None) as sock:
            for _ in range(3):
                sock.sendto(b"x", address(transport))
            await loops.until(lambda: len(notes.got) == 3, "all three")
        await loops.until(lambda: len(faults.contexts) == 3, "the reports")
        assert faults.exceptions() == [ZeroDivisionError] * 3
        assert all("Exception in callback" in c["message"] for c in faults.contexts)
        assert not transport.is_closing()
        transport.close()

    loops.run(factory, main())


def test_full_socket_pauses_and_resumes(factory: Factory, tmp_path: Path) -> None:
    """A Unix socket's queue is short: the protocol hears of it, and nothing is lost."""
    header = sys.version_info >= (3, 13)  # each datagram counts 8 bytes more

    async def main() -> None:
        with plain(socket.AF_UNIX, str(tmp_path / "peer")) as sock:
            transport, notes = await endpoint(
                family=socket.AF_UNIX, remote_addr=str(tmp_path / "peer")
            )
            transport.set_write_buffer_limits(high=5000, low=1000)
            assert transport.get_write_buffer_limits() == (1000, 5000)
            sent = 0
            while "pause_writing" not in notes.calls:
                transport.sendto(struct.pack("!I", sent) + b"x" * 996)
                sent += 1
                if sent % 2:
                    await asyncio.sleep(0)
            queued = transport.get_write_buffer_size()
            assert queued == (5 * 1008 if header else 6 * 1000)
            got: list[bytes] = []
            await loops.until(
                lambda: got.extend(drain(sock)) or "resume_writing" in notes.calls, "resume"
            )
            transport.close()
            assert transport.is_closing()
            await loops.until(lambda: got.extend(drain(sock)) or notes.lost, "the end")
            got.extend(drain(sock))
            assert [struct.unpack_from("!I", data)[0] for data in got] == list(range(sent))
            assert notes.calls == [
                "connection_made", "pause_writing", "resume_writing", "connection_lost"
            ]  # fmt: skip

    loops.run(factory, main())


def test_a_burst_of_one_turn_does_not_pause(factory: Factory) -> None:
    """What the kernel can take never counts as a full buffer."""

    async def main() -> None:
        transport, notes = await endpoint()
        with plain() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            for _ in range(200):
                transport.sendto(b"x" * 1000, sock.getsockname())
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() == 0
            assert notes.calls == ["connection_made"]
        transport.close()

    loops.run(factory, main())


def test_callbacks_run_in_the_context_of_the_creator(factory: Factory) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="nothing")

    class Asks(Notes):
        def note(self, name: str) -> None:
            super().note(f"{name} {var.get()}")

    async def main() -> None:
        var.set("creator")
        transport, notes = await endpoint(Asks(), remote_addr=refused_port())
        var.set("later")
        transport.sendto(b"x")
        await loops.until(lambda: notes.errors, "the refusal")
        await closed(transport, notes)
        assert notes.calls == [
            "connection_made creator", "error_received creator", "connection_lost creator"
        ] or notes.calls[-1] == "connection_lost later"  # asyncio: that of close()

    loops.run(factory, main())


def test_multicast(factory: Factory) -> None:
    group = "239.255.77.77"

    async def main() -> None:
        with plain(bind=None) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", 0))
            port = sock.getsockname()[1]
            member = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton("127.0.0.1"))
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                sock.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
                )
            except OSError:
                pytest.skip("no multicast on the loopback here")
            transport, notes = await endpoint(sock=sock.dup())
            transport.sendto(b"to all", (group, port))
            try:
                await asyncio.wait_for(loops.until(lambda: notes.got or notes.errors), 2)
            except TimeoutError:
                pytest.skip("no multicast on the loopback here")
            assert notes.data() == [b"to all"] or notes.errors
            transport.close()

    loops.run(factory, main())


def test_broadcast(factory: Factory) -> None:
    async def main() -> None:
        with plain(bind=("0.0.0.0", 0)) as sock:
            to = ("127.255.255.255", sock.getsockname()[1])
            transport, notes = await endpoint(local_addr=("127.0.0.1", 0))
            transport.sendto(b"x", to)
            assert [type(exc) for exc in notes.errors] == [PermissionError]
            transport.close()
            transport, notes = await endpoint(
                local_addr=("127.0.0.1", 0), remote_addr=to, allow_broadcast=True
            )
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"1")
            transport.sendto(b"2", to)
            with pytest.raises(ValueError, match="must be None or"):
                transport.sendto(b"3", ("127.0.0.1", 1))
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(sock)) or len(got) == 2, "both")
            assert got == [b"1", b"2"] and not notes.errors
            transport.close()

    loops.run(factory, main())


@pytest.mark.parametrize("abstract", [False, True])
def test_unix(factory: Factory, tmp_path: Path, abstract: bool) -> None:
    def name(which: str) -> str:
        path = str(tmp_path / which)
        return "\0" + path[1:] if abstract else path

    async def main() -> None:
        server, seen = await endpoint(
            Notes(echo=b"re:"), family=socket.AF_UNIX, local_addr=name("server")
        )
        client, notes = await endpoint(
            family=socket.AF_UNIX, local_addr=name("client"), remote_addr=name("server")
        )
        free, heard = await endpoint(family=socket.AF_UNIX, local_addr=name("free"))
        client.sendto(b"1")
        free.sendto(b"2", name("server"))
        free.sendto(b"3", os.fsencode(name("server")))
        await loops.until(lambda: len(notes.got) == 1 and len(heard.got) == 2, "the answers")
        shown = [os.fsencode(name(which)) if abstract else name(which)
                 for which in ("server", "client", "free")]  # fmt: skip
        assert notes.got == [(b"re:1", shown[0])]
        assert heard.got == [(b"re:2", shown[0]), (b"re:3", shown[0])]
        assert sorted(seen.got) == [(b"1", shown[1]), (b"2", shown[2]), (b"3", shown[2])]
        assert client.get_extra_info("peername") == shown[0]
        with plain(socket.AF_UNIX, None) as nameless:
            nameless.sendto(b"who?", name("free"))
            await loops.until(lambda: len(heard.got) == 3, "the nameless one's")
            assert heard.got[2] == (b"who?", None)
        free.sendto(b"x", name("nobody"))
        free.sendto(b"x", "x" * 200)
        assert isinstance(heard.errors[0], (FileNotFoundError, ConnectionRefusedError))
        await loops.until(lambda: len(heard.errors) > 1 or heard.lost, "the path too long")
        for transport in (server, client, free):
            transport.close()

    loops.run(factory, main())


def test_large_unix_datagrams(factory: Factory) -> None:
    """They may exceed what UDP can carry, and a batch of them keeps its bounds."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with two:
        two.setblocking(False)

        async def main() -> None:
            transport, notes = await endpoint(sock=one)
            sizes = [150_000, 1, 100_000]
            for _ in range(2):
                before = len(notes.got)
                for size in sizes[: 1 + before]:
                    two.send(b"x" * size)
                await loops.until(lambda: len(notes.got) >= before + 1, "the first")
            await loops.until(lambda: len(notes.got) == 3, "all")
            assert [len(data) for data in notes.data()] == [150_000, 150_000, 1]
            assert all(sender is None for _, sender in notes.got)
            transport.close()

        loops.run(factory, main())


def test_interrupt_keeps_what_was_read(loop_name: str) -> None:
    """KeyboardInterrupt in datagram_received() leaves run_forever(); what was read with that
    datagram comes when the loop runs again."""
    done = loops.script(
        loop_name,
        """
        from datagrams import Notes, address, endpoint, plain

        class Once(Notes):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"12":
                    raise KeyboardInterrupt

        loop = new_loop()
        transport, notes = loop.run_until_complete(endpoint(Once()))
        with plain(bind=None) as sock:
            for i in range(8):  # from such a burst on, all that waits is read at once
                sock.sendto(b"%d" % i, address(transport))
            loop.run_until_complete(loops.until(lambda: len(notes.got) == 8))
            for i in range(8, 20):
                sock.sendto(b"%d" % i, address(transport))
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                print("interrupted", len(notes.got))
            loop.run_until_complete(loops.until(lambda: len(notes.got) == 20))
        print(notes.data() == [b"%d" % i for i in range(20)])
        transport.close()
        loop.run_until_complete(loops.until(lambda: notes.lost))
        loop.close()
        """,
    )
    assert loops.ok(done).split("\n")[:2] == ["interrupted 13", "True"]


@pytest.mark.parametrize("loop_name", ["taut"])
def test_pause_reading_within_a_batch(factory: Factory) -> None:
    """Every version of taut has pause_reading(); asyncio since 3.12."""

    class Pauses(Notes):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if len(self.got) % 3 == 0:
                self.transport.pause_reading()

    async def main() -> None:
        transport, notes = await endpoint(Pauses())
        with plain(bind=None) as sock:
            for i in range(16):  # from such a burst on, all that waits is read at once
                sock.sendto(b"%d" % i, address(transport))
            for stop in (3, 6, 9, 12, 15):
                await loops.until(lambda: len(notes.got) == stop, "a pause")
                assert not transport.is_reading()
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(notes.got) == stop
                transport.resume_reading()
                assert len(notes.got) == stop  # never within the call
            await loops.until(lambda: len(notes.got) == 16, "the rest")
        assert notes.data() == [b"%d" % i for i in range(16)]
        transport.pause_reading()
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()

    loops.run(factory, main())
