"""create_datagram_endpoint()'s arguments and those of the transport's methods, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loops
from datagrams import Notes, address, closed, drain, endpoint, plain

Factory = Callable[[], asyncio.AbstractEventLoop]


def refusal(factory: Factory, **options: Any) -> BaseException:
    """What create_datagram_endpoint() raises for these."""

    async def main() -> BaseException:
        fds = loops.fd_count()
        with pytest.raises(Exception) as info:
            await endpoint(**options)
        assert loops.fd_count() == fds
        return info.value

    return loops.run(factory, main())


@pytest.mark.parametrize("options, kind, text", [
    ({"local_addr": None}, ValueError, "unexpected address family"),
    ({"local_addr": "127.0.0.1"}, TypeError, "2-tuple is expected"),
    ({"local_addr": ("127.0.0.1", 0, 0)}, TypeError, "2-tuple is expected"),
    ({"local_addr": ["127.0.0.1", 0]}, TypeError, "2-tuple is expected"),
    ({"remote_addr": ("127.0.0.1",)}, TypeError, "2-tuple is expected"),
    ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)}, ValueError,
     "can not get address information"),
    ({"local_addr": ("127.0.0.1", 0), "family": socket.AF_INET6}, socket.gaierror, ""),
    ({"local_addr": ("192.0.2.1", 0)}, OSError, "annot assign"),
    ({"local_addr": ("127.0.0.1", 70000)}, OverflowError, "port must be 0-65535"),
    ({"remote_addr": ("255.255.255.255", 1)}, PermissionError, "ermission denied"),
    ({"family": socket.AF_UNIX, "local_addr": ("a", 1)}, TypeError, "string is expected"),
    ({"family": socket.AF_UNIX, "local_addr": b"a"}, TypeError, "string is expected"),
    ({"family": socket.AF_UNIX, "remote_addr": "/nowhere/at/all"}, FileNotFoundError, ""),
    ({"family": socket.AF_UNIX, "local_addr": "x" * 200}, OSError, "AF_UNIX path too long"),
])  # fmt: skip
def test_bad_addresses(
    factory: Factory, options: dict[str, Any], kind: type[BaseException], text: str
) -> None:
    exc = refusal(factory, **options)
    assert isinstance(exc, kind) and text in str(exc), repr(exc)


@pytest.mark.parametrize("option", [
    {"local_addr": ("127.0.0.1", 0)}, {"remote_addr": ("127.0.0.1", 1)}, {"family": 1},
    {"proto": 1}, {"flags": 1}, {"reuse_port": True}, {"allow_broadcast": True},
])  # fmt: skip
def test_sock_excludes_the_other_options(factory: Factory, option: dict[str, Any]) -> None:
    with plain() as sock:
        exc = refusal(factory, sock=sock, **option)
        [(name, value)] = option.items()
        assert isinstance(exc, ValueError)
        assert str(exc) == (
            "socket modifier keyword arguments can not be used when sock is specified. "
            f"({name}={value})"
        )
        assert sock.fileno() >= 0


def test_sock_must_be_a_datagram_socket(factory: Factory) -> None:
    with socket.socket() as sock:
        exc = refusal(factory, sock=sock)
        kind = "datagram socket" if sys.version_info >= (3, 13) else "UDP Socket"
        assert isinstance(exc, ValueError)
        assert str(exc) == f"A {kind} was expected, got {sock!r}"


def test_a_protocol_factory_that_raises(factory: Factory) -> None:
    async def main() -> None:
        with plain() as sock, pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: 1 // 0, sock=sock  # type: ignore[arg-type,return-value]
            )

    loops.run(factory, main())


def test_given_socket(factory: Factory) -> None:
    """It is switched to non-blocking, used as it is, and closed in the end."""

    async def main() -> None:
        with plain() as peer, contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(peer.getsockname())
            assert sock.gettimeout() is None
            transport, notes = await endpoint(sock=sock)
            assert sock.gettimeout() == 0
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport.sendto(b"1")
            transport.sendto(b"2", ("127.0.0.1", 9))  # connected: goes to the peer all the same
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(peer)) or len(got) == 2, "both")
            assert got == [b"1", b"2"]
            await closed(transport, notes)
            assert sock.fileno() == -1

    loops.run(factory, main())


@pytest.mark.parametrize("loop_name", ["taut"])
def test_connected_pair_of_unix_sockets(factory: Factory) -> None:
    """asyncio takes an empty peer name for none, and cannot send on one of a socket pair."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main() -> None:
        transport, notes = await endpoint(sock=one)
        other, heard = await endpoint(Notes(echo=b"re:"), sock=two)
        transport.sendto(b"1")
        await loops.until(lambda: notes.got, "the answer")
        assert notes.got == [(b"re:1", None)] and heard.got == [(b"1", None)]
        transport.close()
        other.close()

    loops.run(factory, main())


def test_options_reach_the_socket(factory: Factory) -> None:
    async def main() -> None:
        def option(transport: Any, name: int) -> int:
            value: int = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, name)
            return value

        first, _ = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
        second, _ = await endpoint(local_addr=address(first), reuse_port=True)
        assert option(second, socket.SO_REUSEPORT) == 1
        assert option(second, socket.SO_BROADCAST) == 0
        with pytest.raises(OSError):
            await endpoint(local_addr=address(first))
        third, _ = await endpoint(family=socket.AF_INET, allow_broadcast=True)
        assert option(third, socket.SO_BROADCAST) == 1
        assert address(third) == ("0.0.0.0", 0)
        fourth, _ = await endpoint(
            local_addr=("127.0.0.1", 0), proto=socket.IPPROTO_UDP, flags=socket.AI_NUMERICHOST
        )
        assert fourth.get_extra_info("socket").proto == socket.IPPROTO_UDP
        for transport in (first, second, third, fourth):
            transport.close()

    loops.run(factory, main())


def test_stale_unix_socket_is_replaced(factory: Factory, tmp_path: Path) -> None:
    path = str(tmp_path / "stale")

    async def main() -> None:
        with plain(socket.AF_UNIX, path):
            pass
        transport, _ = await endpoint(family=socket.AF_UNIX, local_addr=path)
        assert address(transport) == path
        transport.close()
        (tmp_path / "file").write_text("kept")
        with pytest.raises(OSError):
            await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "file"))
        assert (tmp_path / "file").read_text() == "kept"

    loops.run(factory, main())


@pytest.mark.parametrize("data", ["text", 1, None, [b"a"], object()])
def test_sendto_wants_bytes(factory: Factory, data: Any) -> None:
    async def main() -> None:
        transport, _ = await endpoint()
        message = f"data argument must be a bytes-like object, not {type(data).__name__!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            transport.sendto(data, ("127.0.0.1", 9))
        assert not transport.is_closing()
        transport.close()

    loops.run(factory, main())


def test_sendto_calls(factory: Factory) -> None:
    async def main() -> None:
        transport, _ = await endpoint()
        with plain() as sock:
            to = sock.getsockname()
            transport.sendto(data=b"1", addr=to)
            transport.sendto(b"2", addr=to)
            for args, kwargs in [((), {}), ((b"x", to, 1), {}), ((b"x",), {"data": b"x"}),
                                 ((b"x", to), {"address": to}), ((), {"addr": to})]:  # fmt: skip
                with pytest.raises(TypeError):
                    transport.sendto(*args, **kwargs)
            transport.sendto(memoryview(b"a-b-")[::2], to)  # not contiguous
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(sock)) or len(got) >= 2, "all")
            assert got[:2] == [b"1", b"2"]
        transport.close()

    loops.run(factory, main())


def test_sendto_of_a_connected_endpoint_checks_the_address(factory: Factory) -> None:
    async def main() -> None:
        with plain() as sock:
            to = sock.getsockname()
            transport, _ = await endpoint(remote_addr=to)
            for addr in (("127.0.0.1", 9), (to[0], to[1] + 1), "text", (), 0):
                with pytest.raises(ValueError, match="Invalid address: must be None or"):
                    transport.sendto(b"x", addr)
            transport.sendto(b"1", (to[0], to[1]))
            transport.sendto(b"2", None)
            got: list[bytes] = []
            await loops.until(lambda: got.extend(drain(sock)) or len(got) == 2, "both")
            assert got == [b"1", b"2"]
            transport.close()

    loops.run(factory, main())


@pytest.mark.parametrize("addr, kind", [
    (None, TypeError), ("127.0.0.1", TypeError), (("127.0.0.1",), TypeError),
    (("127.0.0.1", "9"), TypeError), (("127.0.0.1", 70000), OverflowError),
    (("127.0.0.1", -1), OverflowError), (("::1", 9, 0, 0), TypeError),
    ((9, "127.0.0.1"), TypeError), (("a\0b", 9), Exception),
])  # fmt: skip
def test_an_address_that_is_none_ends_an_unconnected_endpoint(
    factory: Factory, addr: Any, kind: type[BaseException]
) -> None:
    """asyncio takes what the socket module raises for fatal, unless it is an OSError."""

    async def main() -> None:
        faults = loops.Faults(asyncio.get_running_loop())
        transport, notes = await endpoint()
        transport.sendto(b"x", addr)
        await loops.until(lambda: notes.lost, "the end")
        assert isinstance(notes.lost[0], kind), repr(notes.lost[0])
        [context] = faults.contexts
        assert context["message"] == "Fatal write error on datagram transport"
        assert context["exception"] is notes.lost[0]
        assert context["transport"] is transport and context["protocol"] is notes

    loops.run(factory, main())


def test_an_address_of_another_family_is_an_error_of_the_system(factory: Factory) -> None:
    async def main() -> None:
        transport, notes = await endpoint()
        transport.sendto(b"x", ("::1", 9))
        await loops.until(lambda: notes.errors, "the error")
        assert isinstance(notes.errors[0], socket.gaierror)
        transport.close()

    loops.run(factory, main())


def test_what_the_transport_tells(factory: Factory, loop_name: str) -> None:
    async def main() -> None:
        with plain() as sock:
            transport, notes = await endpoint(
                local_addr=("127.0.0.1", 0), remote_addr=sock.getsockname()
            )
            assert isinstance(transport, asyncio.Transport)
            if loop_name == "taut" or sys.version_info >= (3, 12):
                assert isinstance(transport, asyncio.DatagramTransport)
            shown = transport.get_extra_info("socket")
            assert shown.family == socket.AF_INET and shown.type == socket.SOCK_DGRAM
            assert transport.get_extra_info("sockname") == shown.getsockname()
            assert transport.get_extra_info("peername") == sock.getsockname()
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", default=3) == 3
            assert transport.get_protocol() is notes
            assert transport.get_write_buffer_limits() == (16384, 65536)
            assert transport.get_write_buffer_size() == 0
            with pytest.raises(ValueError, match="must be >="):
                transport.set_write_buffer_limits(high=1, low=2)
            fd = shown.fileno()
            assert re.fullmatch(
                rf"<\w*DatagramTransport fd={fd} read=polling write=<idle, bufsize=0>>",
                repr(transport),
            )
            other = Notes()
            transport.set_protocol(other)
            assert transport.get_protocol() is other
            sock.sendto(b"x", address(transport))
            await loops.until(lambda: other.got, "the datagram")
            transport.anything = 1  # has a __dict__
            await closed(transport, other)
            assert re.fullmatch(rf"<\w*DatagramTransport closed fd={fd}>", repr(transport))
            assert transport.get_extra_info("peername") == sock.getsockname()

    loops.run(factory, main())


def test_debug_log(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> str:
        with plain() as sock:
            for options in ({"local_addr": ("127.0.0.1", 0)}, {"remote_addr": sock.getsockname()}):
                transport, _ = await endpoint(**options)  # type: ignore[arg-type]
                transport.close()
            return caplog.text.replace(str(sock.getsockname()[1]), "PORT").replace("_Selector", "")

    caplog.set_level(logging.DEBUG, "asyncio")
    text = loops.run(factory, main(), debug=True)
    for line in (
        r"INFO .* Datagram endpoint local_addr=\('127.0.0.1', 0\) remote_addr=None created: ",
        r"DEBUG .* Datagram endpoint remote_addr=\('127.0.0.1', PORT\) created: ",
    ):
        both = r"\(<DatagramTransport fd=\d+ read=idle write=<idle, bufsize=0>>, <datagrams.Notes"
        assert re.search(line + both, text), text


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no netlink sockets here")
def test_a_family_that_only_the_socket_module_knows(factory: Factory) -> None:
    """Kernel routing messages: a dump of the links, asked for and received."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
        sock.bind((0, 0))
    except OSError:
        pytest.skip("no netlink sockets here")

    async def main() -> None:
        transport, notes = await endpoint(sock=sock)
        get_link = (20).to_bytes(4, sys.byteorder) + bytes([18, 0, 1, 3]) + bytes(12)
        for _ in range(2):
            before = len(notes.got)
            transport.sendto(get_link, (0, 0))
            await loops.until(lambda: len(notes.got) > before, "the answer")
        assert notes.got[0][1] == (0, 0)
        transport.close()

    loops.run(factory, main())


def test_only_the_owner_may_watch_the_fd(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await endpoint()
        fd = transport.get_extra_info("socket").fileno()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(fd, os.getpid)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_writer(fd, os.getpid)
        transport.close()

    loops.run(factory, main())
