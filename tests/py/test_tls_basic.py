"""TLS by `ssl=`: connecting, what a transport tells and has, arguments."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
from tls_certs import Certs
from tls_peers import (
    Buffered,
    BufferedEcho,
    Echo,
    accept,
    answer_close,
    dial,
    listening,
    recv_all,
    tls_pair,
    try_to_connect,
)

from loops import Factory, Recorder, run, serve, until


async def finish(transport: Any, protocol: Any, peer: ssl.SSLSocket) -> None:
    """Ends a connection from both sides; nothing must have gone wrong on it."""
    transport.close()
    await asyncio.to_thread(answer_close, peer)
    await until(lambda: protocol.lost, "the end")
    assert protocol.lost == [None]


# ---- connecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(Echo, Recorder), (BufferedEcho, Buffered)], ids=["", "buffer"])
def test_create_server_and_connection(
    factory: Factory, certs: Certs, version: str, kinds: Any
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        echo, recorder = kinds
        served: list[Any] = []
        server, address = await serve(
            lambda: served.append(echo()) or served[-1], ssl=certs.server(version=version)
        )
        transport, protocol = await loop.create_connection(
            recorder, *address, ssl=certs.client(version=version), server_hostname="localhost"
        )
        assert protocol.transport is transport
        payload = bytes(range(256)) * 1000
        transport.write(payload)
        await until(lambda: len(protocol.data) == len(payload), "the echo")
        assert protocol.data == payload
        transport.close()
        await until(lambda: protocol.lost and served[0].lost, "the ends")
        assert protocol.lost == [None] and served[0].lost == [None]
        assert served[0].calls[-2:] == ["eof_received", "connection_lost"]
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls[-1] == "connection_lost"
        assert transport.is_closing()
        server.close()
        await server.wait_closed()

    run(factory, main())


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes lines until EOF."""
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for line in (b"one\n", b"x" * 60_000 + b"\n"):
        writer.write(line)
        await writer.drain()
        assert await reader.readline() == line
    assert not writer.can_write_eof()
    writer.close()
    await writer.wait_closed()


def test_streams_over_tcp(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        server = await asyncio.start_server(
            echo_stream, "127.0.0.1", 0, ssl=certs.server(version=version)
        )
        port = server.sockets[0].getsockname()[1]
        client = certs.client(version=version)
        await talk(*await asyncio.open_connection("localhost", port, ssl=client))
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_streams_over_unix(factory: Factory, certs: Certs, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "sock")
        server = await asyncio.start_unix_server(echo_stream, path, ssl=certs.server())
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=certs.client(), server_hostname="localhost"
        )
        assert writer.get_extra_info("peername") == path
        await talk(reader, writer)
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_many_connections_at_once(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, ssl=certs.server())
        port = server.sockets[0].getsockname()[1]
        context = certs.client()

        async def one(n: int) -> bytes:
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            writer.write(b"%d\n" % n)
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer

        assert await asyncio.gather(*map(one, range(50))) == [b"%d\n" % n for n in range(50)]
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_a_blocking_peer_on_either_side(
    factory: Factory, certs: Certs, side: str, version: str
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version)
        assert protocol.calls == ["connection_made"]
        await asyncio.to_thread(peer.sendall, b"ping")
        await until(lambda: protocol.data == b"ping", "the data")
        transport.write(b"pong")
        assert await asyncio.to_thread(peer.recv, 100) == b"pong"
        await finish(transport, protocol, peer)

    run(factory, main())


# ---- what a transport tells ---------------------------------------------------------------------


def test_extra_info_while_open_and_after(
    factory: Factory, certs: Certs, side: str, version: str
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version)
        info = transport.get_extra_info
        obj = info("ssl_object")
        assert type(obj) is ssl.SSLObject
        assert obj.server_side == (side == "server")
        assert obj.server_hostname == (None if side == "server" else "localhost")
        assert obj.version() == f"TLSv{version}"
        assert info("cipher") == obj.cipher() == peer.cipher()
        assert info("compression") is None
        assert info("sslcontext") is obj.context
        assert info("sockname") == peer.getpeername()
        assert info("peername") == peer.getsockname()
        assert type(info("socket")).__name__ == "TransportSocket"
        assert info("socket").family == socket.AF_INET
        assert info("socket").fileno() >= 0
        assert info("colour") is None and info("colour", "red") == "red"
        if side == "client":
            assert info("peercert") == obj.getpeercert()
            assert ("DNS", "localhost") in info("peercert")["subjectAltName"]
        else:
            assert info("peercert") is None  # none was asked for
        cert = info("peercert")
        await finish(transport, protocol, peer)
        assert info("ssl_object") is obj and info("sslcontext") is obj.context
        assert info("peercert") == cert and info("cipher") == obj.cipher()
        assert info("compression", "none") is None

    run(factory, main())


def test_socket_names_after_the_end(factory: Factory, certs: Certs, side: str) -> None:
    """asyncio's TLS transport forgets its socket when the connection is lost; taut's answers as a
    plain transport does, so that connection_lost() can say who it was."""

    async def main() -> None:
        class Asks(Recorder):
            def connection_lost(self, exc: BaseException | None) -> None:
                info = self.transport.get_extra_info
                self.seen = [info(name, "none") for name in ("socket", "peername", "sockname")]
                super().connection_lost(exc)

        protocol = Asks()
        transport, peer = await tls_pair(side, protocol, certs)
        names = peer.getsockname(), peer.getpeername()
        await finish(transport, protocol, peer)
        if type(transport).__module__ == "asyncio.sslproto":
            assert protocol.seen == ["none", "none", "none"]
        else:
            assert protocol.seen[0].fileno() == -1
            assert protocol.seen[1:] == list(names)

    run(factory, main())


def test_a_sslobject_class_of_its_own(factory: Factory, certs: Certs, side: str) -> None:
    class Own(ssl.SSLObject):
        pass

    class Context(ssl.SSLContext):
        sslobject_class = Own

    async def main() -> None:
        protocol = Recorder()
        server, client = certs.server(kind=Context), certs.client(kind=Context)
        made, address = await serve(lambda: protocol, ssl=server)
        other = Recorder()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: other, *address, ssl=client, server_hostname="localhost"
        )
        await until(lambda: protocol.calls, "the server's side")
        watched = other if side == "client" else protocol
        assert type(watched.transport.get_extra_info("ssl_object")) is Own
        transport.close()
        await until(lambda: protocol.lost and other.lost, "the ends")
        made.close()

    run(factory, main())


def test_alpn(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        server, client = certs.server(version=version), certs.client(version=version)
        server.set_alpn_protocols(["h2", "http/1.1"])
        client.set_alpn_protocols(["spdy", "http/1.1", "h2"])
        served = Recorder()
        made, address = await serve(lambda: served, ssl=server)
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, *address, ssl=client, server_hostname="localhost"
        )
        await until(lambda: served.calls, "the server's side")
        for end in (transport, served.transport):
            assert end.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        transport.close()
        await until(lambda: served.lost and protocol.lost, "the ends")
        made.close()

    run(factory, main())


# ---- what a transport has -----------------------------------------------------------------------


def test_the_transport_is_asyncios(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs)
        assert isinstance(transport, asyncio.Transport)
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        transport.colour = "red"
        assert transport.colour == "red"
        assert weakref.ref(transport)() is transport
        assert not transport.is_closing()
        assert transport._start_tls_compatible
        assert transport._sendfile_compatible is asyncio.constants._SendfileMode.FALLBACK
        for wrong in ("text", 1, None, [b"x"]):
            with pytest.raises(TypeError, match="expecting a bytes-like instance"):
                transport.write(wrong)
        assert transport.get_protocol() is protocol
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        await asyncio.to_thread(peer.sendall, b"x")
        await until(lambda: second.data == b"x", "the data")
        buffered = Buffered()
        transport.set_protocol(buffered)
        await asyncio.to_thread(peer.sendall, b"y")
        await until(lambda: buffered.data == b"y", "the data")
        await finish(transport, buffered, peer)
        assert protocol.calls == ["connection_made"] and second.calls == ["data_received"]

    run(factory, main())


def test_pausing_is_remembered(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("client", protocol, certs)
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await finish(transport, protocol, peer)

    run(factory, main())


def test_buffer_limits(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("server", protocol, certs)
        kib = 1024
        assert transport.get_write_buffer_limits() == (128 * kib, 512 * kib)
        assert transport.get_read_buffer_limits() == (64 * kib, 256 * kib)
        assert transport.get_write_buffer_size() == 0
        assert transport.get_read_buffer_size() == 0
        for name in ("write", "read"):
            put = getattr(transport, f"set_{name}_buffer_limits")
            get = getattr(transport, f"get_{name}_buffer_limits")
            put(high=100)
            assert get() == (25, 100)
            put(low=30)
            assert get() == (30, 120)
            put(high=70, low=60)
            assert get() == (60, 70)
            for high, low in ((10, 11), (10, -1)):
                with pytest.raises(ValueError, match="must be >= low"):
                    put(high=high, low=low)
            assert get() == (60, 70)
            put()
            assert get() == ((128 * kib, 512 * kib) if name == "write" else (64 * kib, 256 * kib))
        await finish(transport, protocol, peer)
        assert "pause_writing" not in protocol.calls

    run(factory, main())


def test_an_unclosed_transport_is_told(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        _, peer = await tls_pair("client", protocol, certs)
        kept.append(peer)

    kept: list[ssl.SSLSocket] = []
    # Recorded by hand: __del__ may run in any of these calls.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop = factory()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        gc.collect()
        kept.pop().close()
    texts = [str(one.message) for one in seen if one.category is ResourceWarning]
    assert any("unclosed transport" in text for text in texts)


# ---- arguments ----------------------------------------------------------------------------------


def test_ssl_true_verifies(factory: Factory, certs: Certs, monkeypatch: Any) -> None:
    async def main() -> None:
        server, address = await serve(Recorder, ssl=certs.server())
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        exc = await try_to_connect(address, True)
        assert type(exc) is ssl.SSLCertVerificationError
        monkeypatch.setenv("SSL_CERT_FILE", certs.path("ca"))
        transport = await try_to_connect(address, True)
        assert transport.get_extra_info("sslcontext").verify_mode is ssl.CERT_REQUIRED
        server.close()

    run(factory, main())


def test_an_empty_server_hostname(factory: Factory, certs: Certs, monkeypatch: Any) -> None:
    """It says that there is no name: none is sent and none is checked."""

    async def main() -> None:
        names: list[str | None] = []
        context = certs.server()
        context.sni_callback = lambda obj, name, _: names.append(name)
        server, address = await serve(Recorder, ssl=context)
        with warnings.catch_warnings():
            # Some builds of Python 3.11 warn here.
            warnings.filterwarnings("ignore", "check_hostname requires", DeprecationWarning)
            refused = await try_to_connect(address, certs.client(), "")
            assert isinstance(refused, ValueError) == (sys.version_info >= (3, 14))
        client = certs.client()
        client.check_hostname = False
        transport = await try_to_connect(address, client, "")
        assert transport.get_extra_info("ssl_object").server_hostname is None
        monkeypatch.setenv("SSL_CERT_FILE", certs.path("ca"))
        transport = await try_to_connect(address, True, "")
        assert not transport.get_extra_info("sslcontext").check_hostname
        assert names == [None] * (3 if sys.version_info < (3, 14) else 2)
        server.close()

    run(factory, main())


def test_arguments_of_clients(factory: Factory, certs: Certs, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = certs.client()
        address = ("127.0.0.1", 1)
        path = str(tmp_path / "sock")
        with socket.socket() as sock:
            for ssl_value in (True, context):
                with pytest.raises(ValueError, match="set server_hostname .* without a host"):
                    await loop.create_connection(Recorder, sock=sock, ssl=ssl_value)
        with pytest.raises(ValueError, match="pass server_hostname when using ssl"):
            await loop.create_unix_connection(Recorder, path, ssl=context)
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_connection(Recorder, *address, **{name: 1.0})
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_unix_connection(Recorder, path, **{name: 1.0})
        for call, where in (
            (loop.create_connection, address),
            (loop.create_unix_connection, [path]),
        ):
            with pytest.raises(ValueError, match="server_hostname is only meaningful with ssl"):
                await call(Recorder, *where, server_hostname="localhost")

    run(factory, main())


@pytest.mark.parametrize("value", [0, -1.5])
@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_timeouts_are_positive(factory: Factory, certs: Certs, name: str, value: float) -> None:
    async def main() -> None:
        server, address = await serve(Recorder)
        with pytest.raises(ValueError, match=f"{name} should be a positive number, got {value}$"):
            await asyncio.get_running_loop().create_connection(
                Recorder, *address, ssl=certs.client(), server_hostname="x", **{name: value}
            )
        server.close()

    run(factory, main())


def test_arguments_of_servers(factory: Factory, certs: Certs, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "sock")
        with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)
        with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
            await loop.create_unix_server(Recorder, path, ssl=True)
        ours, theirs = socket.socketpair()
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_server(Recorder, "127.0.0.1", 0, **{name: 1.0})
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_unix_server(Recorder, path, **{name: 1.0})
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.connect_accepted_socket(Recorder, ours, **{name: 1.0})
        with pytest.raises(ValueError, match="Server side SSL needs a valid SSLContext"):
            await loop.connect_accepted_socket(Recorder, ours, ssl=True)
        ours.close()
        theirs.close()

    run(factory, main())


def test_what_is_no_context(factory: Factory) -> None:
    async def main() -> None:
        server, address = await serve(Recorder)
        with pytest.raises(AttributeError, match="wrap_bio"):
            await asyncio.get_running_loop().create_connection(
                Recorder, *address, ssl="context", server_hostname="localhost"
            )
        server.close()

    run(factory, main())


def test_a_wrapped_socket_is_refused(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as listener:
            server = asyncio.create_task(asyncio.to_thread(accept, listener, certs.server()))
            client = await asyncio.to_thread(dial, listener.getsockname(), certs.client())
            with await server as peer, client:
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await loop.create_connection(Recorder, sock=client)
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await loop.connect_accepted_socket(Recorder, peer, ssl=certs.server())

    run(factory, main())


def test_data_in_connection_made(factory: Factory, certs: Certs, side: str) -> None:
    class Greets(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            assert type(transport.get_extra_info("ssl_object")) is ssl.SSLObject
            transport.write(b"hello")
            transport.close()

    async def main() -> None:
        protocol = Greets()
        _, peer = await tls_pair(side, protocol, certs)
        assert await asyncio.to_thread(recv_all, peer) == b"hello"
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]

    run(factory, main())
