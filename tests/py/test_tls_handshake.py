"""TLS: handshakes that take too long, break off, are cancelled, or were never TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import weakref
from typing import Any

import pytest
from tls_certs import Certs
from tls_peers import (
    Echo,
    Wire,
    accept,
    attach,
    dial,
    listening,
    tcp_pair,
    tls_pair,
    wire_pair,
)

import taut
from loops import Factory, Faults, Recorder, fd_count, reset, run, serve, until

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
TOO_LONG = "SSL handshake is taking longer than {} seconds: aborting the connection"


def offer(address: Any, data: bytes, half_close: bool = True) -> bytes:
    """What a server says to those bytes, until it ends the connection. Blocks."""
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(data)
        answer = b""
        with contextlib.suppress(OSError):
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(1 << 16):
                answer += chunk
    return answer


async def still_serves(address: Any, certs: Certs) -> None:
    """The server takes a good client as if nothing had been."""

    def use() -> bytes:
        with dial(address, certs.client()) as peer:
            peer.sendall(b"echo")
            answer = peer.recv(10)
            peer.unwrap().close()
        return answer

    assert await asyncio.to_thread(use) == b"echo"


class Log:
    """A factory of echo protocols that keeps them."""

    def __init__(self) -> None:
        self.made: list[Echo] = []

    def __call__(self) -> Echo:
        self.made.append(Echo())
        return self.made[-1]

    def called(self) -> list[list[str]]:
        """The callbacks of those that had any."""
        return [one.calls for one in self.made if one.calls]


# ---- time-outs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.05, 1 / 16])
def test_a_client_gives_up(factory: Factory, certs: Certs, limit: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        ours, theirs = tcp_pair()
        protocol = Recorder()
        began = loop.time()
        with pytest.raises(ConnectionAbortedError) as caught:
            await attach("client", ours, protocol, certs.client(), ssl_handshake_timeout=limit)
        assert str(caught.value) == TOO_LONG.format(limit)
        assert 0.04 < loop.time() - began < 5
        assert protocol.calls == []
        assert await asyncio.to_thread(theirs.recv, 1 << 16)  # the ClientHello
        theirs.close()
        assert faults.contexts == []

    run(factory, main())


def test_an_accepted_socket_is_given_up(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        ours, theirs = tcp_pair()
        protocol = Recorder()
        with pytest.raises(ConnectionAbortedError) as caught:
            await attach("server", ours, protocol, certs.server(), ssl_handshake_timeout=0.05)
        assert str(caught.value) == TOO_LONG.format(0.05)
        assert protocol.calls == []
        assert await asyncio.to_thread(theirs.recv, 1) == b""
        theirs.close()

    run(factory, main())


def test_a_server_gives_up_silently(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server(), ssl_handshake_timeout=0.05)
        hello = Wire(socket.socket(), certs.client()).hello()
        for start in (b"", hello[:20], hello):
            await asyncio.to_thread(offer, address, start, half_close=False)  # ends
        assert len(log.made) == 3 and log.called() == []
        await still_serves(address, certs)
        assert faults.contexts == []
        server.close()

    run(factory, main())


def test_a_handshake_in_time_is_not_cut_later(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, ssl_handshake_timeout=0.2)
        passed = loop.create_future()
        loop.call_later(0.25, passed.set_result, None)
        await passed
        transport.write(b"x")
        assert await asyncio.to_thread(peer.recv, 10) == b"x"
        assert protocol.calls == ["connection_made"]
        transport.abort()
        peer.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- what is no TLS -----------------------------------------------------------------------------


@pytest.mark.parametrize("half_close", [True, False], ids=["eof", "stays"])
@pytest.mark.parametrize("what", [HTTP, b"\0" * 600, b"\x16\x03\x01\xff\xff" + bytes(70_000)])
def test_a_server_gets_something_else(
    factory: Factory, certs: Certs, what: bytes, half_close: bool
) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server())
        await asyncio.to_thread(offer, address, what, half_close)
        assert len(log.made) == 1 and log.called() == []
        await still_serves(address, certs)
        assert faults.contexts == []
        server.close()

    run(factory, main())


def test_a_server_gets_noise(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server())
        for size in (1, 5, 6, 100, 20_000):
            await asyncio.to_thread(offer, address, os.urandom(size))
        assert log.called() == []
        await still_serves(address, certs)
        assert faults.contexts == []
        server.close()

    run(factory, main())


@pytest.mark.parametrize(
    "answer, kind, reason",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ssl.SSLError, "WRONG_VERSION_NUMBER"),
        (b"\x15\x03\x03\x00\x02\x02\x28", ssl.SSLError, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (b"", ConnectionResetError, None),
        (b"\x16", ConnectionResetError, None),
        (b"\x16\x03\x03", ConnectionResetError, None),
    ],
    ids=["http", "alert", "eof", "one", "three"],
)
def test_a_client_gets_something_else(
    factory: Factory, certs: Certs, answer: bytes, kind: Any, reason: str | None
) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        ours, theirs = tcp_pair()
        protocol = Recorder()
        connecting = asyncio.create_task(attach("client", ours, protocol, certs.client()))
        assert await asyncio.to_thread(theirs.recv, 1 << 16)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError) as caught:
            await connecting
        assert type(caught.value) is kind
        assert getattr(caught.value, "reason", None) == reason
        assert protocol.calls == []
        assert faults.contexts == []
        theirs.close()

    run(factory, main())


def test_a_client_of_a_plain_echo_server(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        log = Log()
        server, address = await serve(log)
        with pytest.raises(ssl.SSLError) as caught:
            await loop.create_connection(
                Recorder, *address, ssl=certs.client(), server_hostname="localhost"
            )
        assert type(caught.value) is ssl.SSLError
        assert caught.value.reason == "UNEXPECTED_MESSAGE"
        await until(lambda: log.made[0].lost, "the end")
        assert faults.contexts == []
        server.close()

    run(factory, main())


# ---- breaking off -------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 100, 10_000])
def test_a_reset_in_the_handshake(factory: Factory, certs: Certs, side: str, start: int) -> None:
    """After that many bytes of the peer's first flight."""

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        fds = fd_count()
        ours, theirs = tcp_pair()
        protocol = Recorder()
        context = certs.server() if side == "server" else certs.client()
        connecting = asyncio.create_task(attach(side, ours, protocol, context))
        if side == "server":
            theirs.sendall(Wire(theirs, certs.client()).hello()[:start])
            await asyncio.sleep(0)
        else:
            wire = Wire(theirs, certs.server(), True)
            wire.incoming.write(await asyncio.to_thread(theirs.recv, 1 << 16))
            with pytest.raises(ssl.SSLWantReadError):
                wire.tls.do_handshake()
            if start <= 1000:  # else the client would be through
                theirs.sendall(wire.outgoing.read()[:start])
        reset(theirs)
        with pytest.raises(ConnectionResetError):
            await connecting
        assert protocol.calls == []
        del connecting
        await until(lambda: fd_count() <= fds + 3, "every descriptor closed")
        assert faults.contexts == []

    run(factory, main())


def test_a_client_hello_cut_at_each_byte(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server())
        hello = Wire(socket.socket(), certs.client()).hello()

        def all_of_them() -> None:
            for end in range(len(hello)):
                offer(address, hello[:end])

        await asyncio.to_thread(all_of_them)
        await until(lambda: len(log.made) == len(hello), "all connections")
        assert log.called() == []
        await still_serves(address, certs)
        assert faults.contexts == []
        server.close()

    run(factory, main())


def test_a_client_hello_with_each_byte_changed(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server())
        hello = Wire(socket.socket(), certs.client()).hello()

        def all_of_them() -> None:
            for at in range(len(hello)):
                offer(address, hello[:at] + bytes([hello[at] ^ 0x55]) + hello[at + 1 :])

        await asyncio.to_thread(all_of_them)
        await until(lambda: len(log.made) == len(hello), "all connections")
        assert log.called() == []
        await still_serves(address, certs)
        assert faults.contexts == []
        server.close()

    run(factory, main())


@pytest.mark.parametrize("how", ["before", "hello"])
def test_cancelling_a_handshake(factory: Factory, certs: Certs, side: str, how: str) -> None:
    """Before anything has come, and amid the peer's messages."""

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        fds = fd_count()
        ours, theirs = tcp_pair()
        protocol = Recorder()
        context = certs.server() if side == "server" else certs.client()
        task = asyncio.create_task(attach(side, ours, protocol, context))
        await asyncio.sleep(0)
        if how == "hello":
            if side == "client":
                assert (await asyncio.to_thread(theirs.recv, 1 << 16))[0] == 22  # a handshake
            else:
                theirs.sendall(Wire(theirs, certs.client()).hello())
                assert (await asyncio.to_thread(theirs.recv, 1 << 16))[0] == 22
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task

        def rest() -> bytes:
            data = b""
            try:
                while chunk := theirs.recv(1 << 16):
                    data += chunk
            except ConnectionResetError:
                pass
            return data

        await asyncio.to_thread(rest)  # ends
        theirs.close()
        await until(lambda: fd_count() == fds, "every descriptor closed")
        assert protocol.calls == []
        assert faults.contexts == []

    run(factory, main())


@pytest.mark.parametrize("how", ["create_connection", "start_tls"])
def test_a_failed_handshake_leaves_no_cycle(certs: Certs, how: str) -> None:
    """Of asyncio's versions only the latest do so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[weakref.ref[Any]] = []

        class Client(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def __init__(self) -> None:
                made.append(weakref.ref(self))

        async def connect(address: Any) -> None:
            context = ssl.create_default_context()  # which does not know the server's authority
            try:  # pytest.raises() would keep it
                if how == "create_connection":
                    await loop.create_connection(
                        Client, *address, ssl=context, server_hostname="localhost"
                    )
                else:
                    transport, client = await loop.create_connection(Client, *address)
                    await loop.start_tls(transport, client, context, server_hostname="localhost")
            except ssl.SSLCertVerificationError:
                made.append(made[0])

        server, address = await serve(Recorder, ssl=certs.server())
        gc.collect()
        gc.disable()
        try:
            await connect(address)
            await until(lambda: not any(one() for one in made), "the end of it all")
        finally:
            gc.enable()
        assert made[-1] is made[0]
        server.close()

    run(taut.new_event_loop, main())


def test_a_timeout_around_open_connection(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        silent, address = await serve(Recorder)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.open_connection(
                    *address, ssl=certs.client(), server_hostname="localhost"
                )
        silent.close()
        await silent.wait_closed()

    run(factory, main())


# ---- in pieces and in one -----------------------------------------------------------------------


def test_a_handshake_byte_by_byte(factory: Factory, certs: Certs, side: str, version: str) -> None:
    class Trickle(Wire):
        def send(self) -> None:
            for byte in self.outgoing.read():
                self.sock.sendall(bytes([byte]))

    async def main() -> None:
        ours, theirs = tcp_pair()
        protocol = Recorder()
        server, client = certs.server(version=version), certs.client(version=version)
        mine, other = (server, client) if side == "server" else (client, server)
        wire = Trickle(theirs, other, side == "client")
        shaking = asyncio.create_task(asyncio.to_thread(wire.handshake))
        transport = await attach(side, ours, protocol, mine)
        await shaking
        wire.tls.write(b"data")
        await asyncio.to_thread(wire.send)
        await until(lambda: protocol.data == b"data", "the data")
        assert protocol.calls[0] == "connection_made"
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


@pytest.mark.parametrize("end", ["open", "close_notify", "fin"])
def test_data_with_the_last_flight(factory: Factory, certs: Certs, end: str) -> None:
    """A client's Finished, its request and even its end in one segment."""

    async def main() -> None:
        ours, theirs = tcp_pair()
        protocol = Recorder()
        wire = Wire(theirs, certs.client(version="1.3"))
        serving = asyncio.create_task(attach("server", ours, protocol, certs.server(version="1.3")))

        def speak() -> None:
            theirs.sendall(wire.hello())
            while True:
                assert wire.receive()
                try:
                    wire.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass
            wire.tls.write(b"request")
            if end == "close_notify":
                with contextlib.suppress(ssl.SSLWantReadError):
                    wire.tls.unwrap()
            wire.send()
            if end == "fin":
                theirs.shutdown(socket.SHUT_WR)

        await asyncio.to_thread(speak)
        transport = await serving
        await until(lambda: protocol.data == b"request", "the data")
        assert protocol.calls[:2] == ["connection_made", "data_received"]
        if end != "open":
            await until(lambda: protocol.lost, "the end")
            assert protocol.calls[2:] == ["eof_received", "connection_lost"]
            assert protocol.lost == [None]
        transport.abort()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_pausing_in_connection_made(factory: Factory, certs: Certs, side: str) -> None:
    class Paused(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.stuck = side == "client" and type(transport).__module__ == "asyncio.sslproto"
            if not self.stuck:
                transport.pause_reading()

    async def main() -> None:
        protocol = Paused()
        transport, wire = await wire_pair(side, protocol, certs)
        if protocol.stuck:
            transport.abort()
            wire.sock.close()
            pytest.skip("asyncio does not send the client's Finished then: both sides hang")
        wire.tls.write(b"later")
        wire.send()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        await until(lambda: protocol.data == b"later", "the data")
        transport.abort()
        wire.sock.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- debug mode ---------------------------------------------------------------------------------


def test_debug_mode_tells_of_handshakes(
    factory: Factory, certs: Certs, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs)
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        peer.close()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(factory, main(), debug=True)
    assert any("starts SSL handshake" in text for text in caplog.messages)
    assert any("SSL handshake took" in text for text in caplog.messages)


def test_debug_mode_reports_a_servers_failures(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        log = Log()
        server, address = await serve(log, ssl=certs.server(), ssl_handshake_timeout=0.05)
        expected: list[Any] = []
        for what, kind in ((HTTP, ssl.SSLError), (b"", ConnectionResetError)):
            await asyncio.to_thread(offer, address, what)
            expected.append(kind)
            await until(lambda: len(faults.contexts) == len(expected), "the report")
        await asyncio.to_thread(offer, address, b"", half_close=False)
        expected.append(ConnectionAbortedError)
        await until(lambda: len(faults.contexts) == len(expected), "the report")
        assert faults.exceptions() == expected
        for context, protocol in zip(faults.contexts, log.made):
            assert context["message"] == "Error on transport creation for incoming connection"
            assert context["protocol"] is protocol
            assert isinstance(context["transport"], asyncio.Transport)
        assert faults.contexts[0]["exception"].reason == "HTTP_REQUEST"
        assert str(faults.contexts[2]["exception"]) == TOO_LONG.format(0.05)
        server.close()

    run(factory, main(), debug=True)


def test_debug_mode_tells_of_a_clients_failures(
    factory: Factory, certs: Certs, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        with listening() as listener:
            accepted = asyncio.create_task(
                asyncio.to_thread(accept, listener, certs.server("expired"))
            )
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.get_running_loop().create_connection(
                    Recorder,
                    *listener.getsockname(),
                    ssl=certs.client(),
                    server_hostname="localhost",
                )
            await asyncio.gather(accepted, return_exceptions=True)
        assert faults.contexts == []

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(factory, main(), debug=True)
    expected = "SSL handshake failed on verifying the certificate"
    assert any(expected in text for text in caplog.messages)
