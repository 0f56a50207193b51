"""TLS on a connection that exists: loop.start_tls(), StreamWriter.start_tls(), TLS in TLS."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from typing import Any

import pytest
from tls_certs import Certs
from tls_peers import (
    Buffered,
    Wire,
    answer_close,
    attach,
    recv_all,
    recv_exactly,
    say_close,
    tcp_pair,
    wrap,
)

from loops import Factory, Faults, Recorder, fd_count, reset, run, serve, until

GO = b"STARTTLS\n"


async def plain(side: str, protocol: Any) -> tuple[Any, Any]:
    """A transport without TLS, made as a client or as a server, and the blocking other end."""
    ours, theirs = tcp_pair()
    loop = asyncio.get_running_loop()
    if side == "server":
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    return transport, theirs


def contexts(certs: Certs, side: str, version: str | None = None) -> tuple[Any, Any]:
    """A context for this side, and one for the other."""
    server, client = certs.server(version=version), certs.client(version=version)
    server.num_tickets = 0
    return (server, client) if side == "server" else (client, server)


async def upgrade(transport: Any, protocol: Any, side: str, context: Any, **options: Any) -> Any:
    """loop.start_tls() on that side."""
    if side == "server":
        options["server_side"] = True
    else:
        options.setdefault("server_hostname", "localhost")
    loop = asyncio.get_running_loop()
    return await loop.start_tls(transport, protocol, context, **options)


# ---- loop.start_tls() ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Recorder, Buffered])
def test_start_tls(factory: Factory, certs: Certs, side: str, version: str, kind: Any) -> None:
    async def main() -> None:
        protocol = kind()
        transport, theirs = await plain(side, protocol)
        theirs.sendall(b"plain")
        await until(lambda: protocol.data == b"plain", "the data before")
        transport.write(b"text")
        assert await asyncio.to_thread(theirs.recv, 10) == b"text"
        mine, other = contexts(certs, side, version)
        peer_made = asyncio.create_task(asyncio.to_thread(wrap, theirs, other, side == "client"))
        upgraded = await upgrade(transport, protocol, side, mine)
        peer = await peer_made
        assert upgraded is not transport and isinstance(upgraded, asyncio.Transport)
        assert upgraded.get_protocol() is protocol
        assert protocol.calls.count("connection_made") == 1
        info = upgraded.get_extra_info
        assert type(info("ssl_object")) is ssl.SSLObject
        assert info("ssl_object").version() == f"TLSv{version}"
        assert info("sslcontext") is mine
        assert info("peername") == transport.get_extra_info("peername") == peer.getsockname()
        protocol.data.clear()
        payload = os.urandom(300_000)
        sending = asyncio.create_task(asyncio.to_thread(peer.sendall, payload))
        await until(lambda: len(protocol.data) == len(payload), "the data")
        await sending
        assert protocol.data == payload
        upgraded.write(payload)
        assert await asyncio.to_thread(recv_exactly, peer, len(payload)) == payload
        upgraded.close()
        assert await asyncio.to_thread(recv_all, peer) == b""
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        assert protocol.calls.count("connection_lost") == 1

    run(factory, main())


def test_start_tls_for_another_protocol(factory: Factory, certs: Certs) -> None:
    """Its connection_made() is not called."""

    async def main() -> None:
        first, second = Recorder(), Recorder()
        transport, theirs = await plain("client", first)
        mine, other = contexts(certs, "client")
        peer_made = asyncio.create_task(asyncio.to_thread(wrap, theirs, other, True))
        upgraded = await upgrade(transport, second, "client", mine)
        peer = await peer_made
        await asyncio.to_thread(peer.sendall, b"x")
        await until(lambda: second.data == b"x", "the data")
        upgraded.abort()
        await until(lambda: second.lost, "the end")
        peer.close()
        assert first.calls == ["connection_made"]
        assert second.calls == ["data_received", "connection_lost"]

    run(factory, main())


def test_start_tls_for_a_stream_protocol_without_connection_made(
    factory: Factory, certs: Certs, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        reader.feed_data(b"buffered;")
        transport, theirs = await plain("client", Recorder())
        mine, other = contexts(certs, "client")
        peer_made = asyncio.create_task(asyncio.to_thread(wrap, theirs, other, True))
        upgraded = await upgrade(transport, protocol, "client", mine)
        writer = asyncio.StreamWriter(upgraded, protocol, reader, loop)
        peer = await peer_made
        await asyncio.to_thread(peer.sendall, b"secret")
        assert await reader.readexactly(15) == b"buffered;secret"
        writer.write(b"answer")
        await writer.drain()
        assert await asyncio.to_thread(peer.recv, 100) == b"answer"
        with caplog.at_level(logging.WARNING, "asyncio"):
            await asyncio.to_thread(say_close, peer)
            assert await reader.read() == b""
            await writer.wait_closed()
        # It does not know of TLS, and asks to stay open.
        text = "returning true from eof_received() has no effect when using ssl"
        assert caplog.messages == [text]
        writer.close()
        peer.close()

    run(factory, main())


def test_the_hello_waits_in_the_socket(factory: Factory, certs: Certs) -> None:
    """A server that pauses at the right place gets none of the client's TLS as plain data."""

    class Upgrades(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.data == GO:
                self.transport.pause_reading()

    async def main() -> None:
        protocol = Upgrades()
        transport, theirs = await plain("server", protocol)
        wire = Wire(theirs, certs.client())
        theirs.sendall(GO)
        await until(lambda: protocol.data == GO, "the command")
        theirs.sendall(wire.hello())
        shaking = asyncio.create_task(asyncio.to_thread(wire.handshake))
        for _ in range(10):
            await asyncio.sleep(0.001)
        upgraded = await upgrade(transport, protocol, "server", certs.server())
        await shaking
        assert upgraded.is_reading()
        wire.tls.write(b"secret")
        wire.send()
        await until(lambda: protocol.data == GO + b"secret", "the data")
        upgraded.abort()
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


def test_start_tls_over_tls(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        one, two = tcp_pair()
        client, server = Recorder(), Recorder()
        outer_client = certs.client(version=version)
        below, under = await asyncio.gather(
            attach("client", one, client, outer_client),
            attach("server", two, server, certs.server(version=version)),
        )
        inner, inner_server = await asyncio.gather(
            upgrade(below, client, "client", certs.client(), server_hostname="other.example"),
            upgrade(under, server, "server", certs.server("other")),
        )
        names = inner.get_extra_info("peercert")["subjectAltName"]
        assert names == (("DNS", "other.example"),)
        assert below.get_extra_info("sslcontext") is outer_client
        assert inner.get_extra_info("sslcontext") is not outer_client
        assert inner.get_extra_info("peername") == two.getsockname()
        payload = os.urandom(500_000)
        inner.write(payload)
        inner_server.write(payload[::-1])
        await until(lambda: len(server.data) == len(client.data) == 500_000, "the data")
        assert server.data == payload and client.data == payload[::-1]
        inner.close()
        await until(lambda: client.lost and server.lost, "the ends")
        assert client.lost == server.lost == [None]
        assert client.calls.count("connection_lost") == 1

    run(factory, main())


# ---- what fails ---------------------------------------------------------------------------------


def test_a_failed_handshake(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        transport, theirs = await plain("client", protocol)
        _, other = contexts(certs, "client")
        peer_made = asyncio.create_task(asyncio.to_thread(wrap, theirs, other, True))
        with pytest.raises(ssl.SSLCertVerificationError):
            await upgrade(
                transport, protocol, "client", certs.client(), server_hostname="other.example"
            )
        assert transport.is_closing()
        await asyncio.gather(peer_made, return_exceptions=True)
        await until(lambda: protocol.lost, "the end")
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert type(protocol.lost[0]) is ssl.SSLCertVerificationError
        assert faults.contexts == []
        theirs.close()

    run(factory, main())


def test_a_handshake_that_takes_too_long(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        transport, theirs = await plain(side, protocol)
        mine, _ = contexts(certs, side)
        with pytest.raises(ConnectionAbortedError, match="taking longer than 0.05 seconds"):
            await upgrade(transport, protocol, side, mine, ssl_handshake_timeout=0.05)
        assert transport.is_closing()
        # The protocol is not told: whoever awaits start_tls() is.
        assert protocol.calls == ["connection_made"]
        theirs.close()
        assert faults.contexts == []

    run(factory, main())


def test_a_cancelled_handshake(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        transport, theirs = await plain(side, protocol)
        mine, _ = contexts(certs, side)
        transport.pause_reading()  # so that the hello below cannot come before start_tls()
        task = asyncio.create_task(upgrade(transport, protocol, side, mine))
        if side == "client":
            assert (await asyncio.to_thread(theirs.recv, 1 << 16))[0] == 22
        else:
            theirs.sendall(Wire(theirs, certs.client()).hello())
            assert (await asyncio.to_thread(theirs.recv, 1 << 16))[0] == 22
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.is_closing()

        def rest() -> None:
            while theirs.recv(1 << 16):
                pass

        await asyncio.to_thread(rest)  # ends
        theirs.close()
        assert protocol.calls == ["connection_made"]
        assert faults.contexts == []

    run(factory, main())


def test_a_reset_in_the_handshake(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        fds = fd_count()
        protocol = Recorder()
        transport, theirs = await plain(side, protocol)
        mine, _ = contexts(certs, side)
        task = asyncio.create_task(upgrade(transport, protocol, side, mine))
        await asyncio.sleep(0)
        reset(theirs)
        with pytest.raises(ConnectionResetError):
            await task
        assert protocol.calls == ["connection_made"]
        await until(lambda: fd_count() == fds, "every descriptor closed")
        assert faults.contexts == []

    run(factory, main())


@pytest.mark.filterwarnings("ignore:check_hostname:DeprecationWarning")  # up to Python 3.11
def test_arguments_of_start_tls(factory: Factory, certs: Certs) -> None:
    """They are refused before anything has changed: the transport goes on without TLS."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        protocol = Recorder()
        transport, theirs = await plain("client", protocol)
        context = certs.client()
        for wrong in (None, True, "context"):
            with pytest.raises(TypeError) as caught:
                await loop.start_tls(transport, protocol, wrong)
            expected = "sslcontext is expected to be an instance of ssl.SSLContext"
            assert str(caught.value) == f"{expected}, got {wrong!r}"
        for value in (0, -1):
            for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                with pytest.raises(ValueError) as invalid:
                    await loop.start_tls(
                        transport, protocol, context, server_hostname="x", **{name: value}
                    )
                assert str(invalid.value) == f"{name} should be a positive number, got {value}"
        # From 3.14 on its missing name is noticed first.
        with pytest.raises((ssl.SSLError, ValueError), match="PROTOCOL_TLS_CLIENT|check_hostname"):
            await loop.start_tls(transport, protocol, context, server_side=True)
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_SERVER"):
            await loop.start_tls(transport, protocol, certs.server(), server_hostname="x")
        assert transport.get_protocol() is protocol
        theirs.sendall(b"plain")
        await until(lambda: protocol.data == b"plain", "the data")
        transport.close()
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


def test_transports_that_cannot(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        pipe, _ = await loop.connect_read_pipe(Recorder, os.fdopen(read_end, "rb"))
        for wrong in (None, object(), asyncio.Transport(), pipe):
            with pytest.raises(TypeError) as caught:
                await loop.start_tls(wrong, Recorder(), certs.client(), server_hostname="x")
            assert str(caught.value) == f"transport {wrong!r} is not supported by start_tls()"
        pipe.close()
        os.close(write_end)

    run(factory, main())


# ---- StreamWriter.start_tls() -------------------------------------------------------------------


def test_streams(factory: Factory, certs: Certs, version: str) -> None:
    """Both ends upgrade, after plain lines; what is over the reader's limit comes as well."""
    payload = os.urandom(1_000_000)

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == GO
        writer.write(b"go ahead\n")
        await writer.start_tls(certs.server(version=version))
        assert writer.get_extra_info("ssl_object").server_side
        data = await reader.readexactly(len(payload))
        writer.write(data)
        await writer.drain()
        assert await reader.read() == b""
        writer.close()
        ended.append(True)

    async def main() -> None:
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(GO)
        assert await reader.readline() == b"go ahead\n"
        before = writer.transport
        await writer.start_tls(certs.client(version=version), server_hostname="localhost")
        assert writer.transport is not before
        assert ("DNS", "localhost") in writer.get_extra_info("peercert")["subjectAltName"]
        writer.write(payload)
        await writer.drain()
        assert await reader.readexactly(len(payload)) == payload
        writer.close()
        await writer.wait_closed()
        await until(lambda: ended, "the server's end")
        server.close()
        await server.wait_closed()

    ended: list[bool] = []
    run(factory, main())


def test_plain_lines_in_the_reader_stay_before_the_secret_ones(
    factory: Factory, certs: Certs
) -> None:
    """From Python 3.14 on they are taken for the handshake instead, which fails."""
    since_314 = sys.version_info >= (3, 14)

    async def main() -> None:
        lines: list[bytes] = []

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines.append(await reader.readline())
            await until(lambda: b"injected" in reader._buffer, "what came with the command")
            writer.write(b"go ahead\n")
            if since_314:
                with pytest.raises(ssl.SSLError):
                    await writer.start_tls(certs.server())
                lines.append(bytes(reader._buffer))
                return
            await writer.start_tls(certs.server())
            lines.extend([await reader.readline(), await reader.readline()])
            writer.close()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(GO + b"injected\n")
        assert await reader.readline() == b"go ahead\n"
        if since_314:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await writer.start_tls(certs.client(), server_hostname="localhost")
            await until(lambda: len(lines) == 2, "the server's failure")
            assert lines == [GO, b""]
        else:
            await writer.start_tls(certs.client(), server_hostname="localhost")
            writer.write(b"secret\n")
            assert await reader.read() == b""
            assert lines == [GO, b"injected\n", b"secret\n"]
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_a_streams_wrong_name(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with pytest.raises(OSError):
                await writer.start_tls(certs.server())
            ended.set()

        ended = asyncio.Event()
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(ssl.SSLCertVerificationError):
            await writer.start_tls(certs.client(), server_hostname="other.example")
        with pytest.raises(ssl.SSLCertVerificationError):
            await reader.read()
        writer.close()
        await ended.wait()
        server.close()
        assert faults.contexts == []

    run(factory, main())


def test_start_tls_on_a_connection_of_a_server(factory: Factory, certs: Certs) -> None:
    """The server still counts it: wait_closed() waits from Python 3.12 on."""

    async def main() -> None:
        protocol = Recorder()
        server, address = await serve(lambda: protocol)
        client = Recorder()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: client, *address)
        await until(lambda: protocol.transport, "the connection")
        inner, served = await asyncio.gather(
            upgrade(transport, client, "client", certs.client()),
            upgrade(protocol.transport, protocol, "server", certs.server()),
        )
        server.close()
        inner.write(b"still")
        await until(lambda: protocol.data == b"still", "the data")
        served.close()
        await until(lambda: protocol.lost and client.lost, "the ends")
        await server.wait_closed()

    run(factory, main())
