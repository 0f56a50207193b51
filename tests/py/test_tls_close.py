"""TLS: how connections end, by close(), abort(), the peer, a time-out or a cancelled handshake."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import sys
import weakref
from typing import Any

import pytest

import taut
from tls_certs import Certs
from tls_peers import (
    Echo,
    answer_close,
    attach,
    dial,
    recv_all,
    say_close,
    tcp_pair,
    tls_pair,
    wire_pair,
    wrap,
)

from loops import Factory, Faults, Recorder, fd_count, reset, run, serve, until

BIG = bytes(range(256)) * 20_000  # 5 MB: more than all buffers on the way hold


def bare(peer: ssl.SSLSocket) -> socket.socket:
    """The socket below a blocking peer, which is not used any more."""
    return socket.socket(fileno=peer.detach())


# ---- close() ------------------------------------------------------------------------------------


def test_close_flushes_and_says_so(factory: Factory, certs: Certs, side: str, version: str) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version)
        transport.write(BIG)
        transport.close()
        assert transport.is_closing()
        assert await asyncio.to_thread(recv_all, peer) == BIG  # ends by close_notify
        assert not protocol.lost  # it waits for the answer
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        # asyncio calls eof_received() when the answer comes.
        assert [c for c in protocol.calls if c != "eof_received"][-1] == "connection_lost"
        assert "data_received" not in protocol.calls

    run(factory, main())


def test_a_peer_that_does_not_answer_is_cut(
    factory: Factory, certs: Certs, side: str, version: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version, ssl_shutdown_timeout=0.1)
        began = loop.time()
        transport.close()
        assert await asyncio.to_thread(recv_all, peer) == b""
        await until(lambda: protocol.lost, "the end")
        assert 0.09 < loop.time() - began < 5
        assert type(protocol.lost[0]) is TimeoutError
        assert str(protocol.lost[0]) == "SSL shutdown timed out"
        assert faults.contexts == []
        peer.close()

    run(factory, main())


def test_a_peer_that_does_not_read_is_cut(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, ssl_shutdown_timeout=0.1)
        transport.write(BIG)
        transport.write(BIG)
        transport.close()
        await until(lambda: protocol.lost, "the end")
        assert type(protocol.lost[0]) is TimeoutError
        assert str(protocol.lost[0]) == "SSL shutdown timed out"
        peer.close()

    run(factory, main())


def test_a_peer_that_keeps_sending_does_not_keep_the_connection(
    factory: Factory, certs: Certs, side: str
) -> None:
    def pour(peer: ssl.SSLSocket) -> None:
        try:
            while True:
                peer.sendall(bytes(10_000))
        except OSError:
            pass  # the other end has gone
        finally:
            peer.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs)
        pouring = asyncio.create_task(asyncio.to_thread(pour, peer))
        await until(lambda: len(protocol.data) > 100_000, "data")
        began = loop.time()
        transport.close()
        await until(lambda: protocol.lost, "the end")
        await pouring
        assert loop.time() - began < 5
        exc = protocol.lost[0]
        assert isinstance(exc, ssl.SSLError)
        assert exc.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
        assert faults.contexts == []

    run(factory, main())


def test_closing_twice_leaves_the_transport_usable(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("client", protocol, certs)
        transport.close()
        transport.close()
        if type(transport).__module__ == "asyncio.sslproto":
            peer.close()
            pytest.skip("asyncio's transport forgets its connection in the second close()")
        assert transport.is_closing()
        transport.write(b"into the void")
        assert type(transport.get_extra_info("ssl_object")) is ssl.SSLObject
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        peer.close()

    run(factory, main())


def test_aborting_after_closing_twice(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("client", protocol, certs, ssl_shutdown_timeout=0.1)
        transport.close()
        transport.close()
        if type(transport).__module__ == "asyncio.sslproto" and sys.version_info < (3, 11, 7):
            with pytest.raises(AttributeError):
                transport.abort()
        else:
            transport.abort()
        await until(lambda: protocol.lost, "the end")
        peer.close()

    run(factory, main())


def test_closing_in_data_received(factory: Factory, certs: Certs, side: str) -> None:
    class Closes(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"enough")
            self.transport.close()

    async def main() -> None:
        protocol = Closes()
        _, peer = await tls_pair(side, protocol, certs)
        await asyncio.to_thread(peer.sendall, b"x")
        assert await asyncio.to_thread(recv_all, peer) == b"enough"
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.data == b"x"
        assert protocol.lost == [None]

    run(factory, main())


def test_closing_while_reading_is_paused(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("server", protocol, certs)
        transport.pause_reading()
        transport.write(b"last")
        transport.close()
        assert await asyncio.to_thread(recv_all, peer) == b"last"
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]

    run(factory, main())


def test_writing_after_close_warns_from_the_sixth_time(
    factory: Factory, certs: Certs, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("client", protocol, certs)
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(5):
                transport.write(b"x")
            assert caplog.messages == []
            transport.write(b"x")
            transport.writelines([b"x"])
        assert caplog.messages == ["SSL connection is closed"] * 2
        assert await asyncio.to_thread(recv_all, peer) == b""
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- abort() ------------------------------------------------------------------------------------


def test_abort_drops_everything(factory: Factory, certs: Certs, side: str, version: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version)
        transport.write(BIG)
        transport.write(BIG)
        transport.abort()
        transport.abort()
        assert transport.is_closing()
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        assert protocol.calls[-1] == "connection_lost"
        with pytest.raises(OSError):  # an EOF without close_notify, or a reset
            await asyncio.to_thread(recv_all, peer)
        transport.close()
        assert faults.contexts == []
        peer.close()

    run(factory, main())


def test_abort_in_connection_made(factory: Factory, certs: Certs, side: str) -> None:
    class Aborts(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.abort()

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Aborts()
        try:
            _, peer = await tls_pair(side, protocol, certs)
            peer.close()
        except OSError:
            pass  # the peer had not finished its handshake
        await until(lambda: protocol.lost, "the end")
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert protocol.lost == [None]
        assert faults.contexts == []

    run(factory, main())


@pytest.mark.parametrize("callback", ["data_received", "eof_received"])
def test_abort_in_callbacks(factory: Factory, certs: Certs, side: str, callback: str) -> None:
    class Aborts(Recorder):
        def note(self, name: str) -> None:
            super().note(name)
            if name == callback:
                self.transport.abort()

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Aborts()
        _, peer = await tls_pair(side, protocol, certs)

        def provoke() -> None:
            peer.sendall(b"x")
            if callback == "eof_received":
                say_close(peer)

        await asyncio.to_thread(provoke)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        assert protocol.calls[-2:] == [callback, "connection_lost"]
        assert faults.contexts == []
        peer.close()

    run(factory, main())


# ---- the peer ends it ---------------------------------------------------------------------------


def test_close_notify_from_the_peer(
    factory: Factory, certs: Certs, side: str, version: str
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs, version)
        await asyncio.to_thread(peer.sendall, b"last")
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        assert protocol.data == b"last"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert protocol.lost == [None]
        assert transport.is_closing()

    run(factory, main())


def test_the_answer_of_eof_received_has_no_effect(
    factory: Factory, certs: Certs, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Stays(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        protocol = Stays()
        _, peer = await tls_pair(side, protocol, certs)
        with caplog.at_level(logging.WARNING, "asyncio"):
            await asyncio.to_thread(answer_close, peer)
            await until(lambda: protocol.lost, "the end")
        expected = "returning true from eof_received() has no effect when using ssl"
        assert caplog.messages == [expected]
        assert protocol.lost == [None]

    run(factory, main())


def test_what_eof_received_writes_is_sent(
    factory: Factory, certs: Certs, side: str, version: str
) -> None:
    class Answers(Recorder):
        def eof_received(self) -> None:
            super().eof_received()
            self.transport.write(b"bye")

    async def main() -> None:
        protocol = Answers()
        _, wire = await wire_pair(side, protocol, certs, version)
        await asyncio.to_thread(wire.say_close)
        data, said = await asyncio.to_thread(wire.read_all)
        assert (data, said) == (b"bye", True)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        wire.sock.close()

    run(factory, main())


def test_eof_without_close_notify(factory: Factory, certs: Certs, side: str, version: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        _, peer = await tls_pair(side, protocol, certs, version)
        await asyncio.to_thread(peer.sendall, b"last")
        peer.close()
        await until(lambda: protocol.lost, "the end")
        assert protocol.data == b"last"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert protocol.lost == [None]
        assert faults.contexts == []

    run(factory, main())


def test_a_half_closed_socket_without_close_notify(
    factory: Factory, certs: Certs, side: str
) -> None:
    """What is still to be written goes out all the same."""

    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs)
        transport.write(BIG)
        socket.socket.shutdown(peer, socket.SHUT_WR)
        await until(lambda: "eof_received" in protocol.calls, "the EOF")

        def read() -> int:
            size = 0
            try:
                while chunk := peer.recv(1 << 18):
                    size += len(chunk)
            except (ssl.SSLError, BrokenPipeError):
                # asyncio does not say close_notify then; later OpenSSLs want to say something here
                pass
            return size

        assert await asyncio.to_thread(read) == len(BIG)
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]
        peer.close()

    run(factory, main())


def test_reset_while_reading(factory: Factory, certs: Certs, side: str, version: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder()
        _, peer = await tls_pair(side, protocol, certs, version)
        await asyncio.to_thread(peer.sendall, b"x")
        await until(lambda: protocol.data, "data")
        reset(bare(peer))
        await until(lambda: protocol.lost, "the end")
        assert [type(exc) for exc in protocol.lost] == [ConnectionResetError]
        assert "eof_received" not in protocol.calls
        assert faults.contexts == []

    run(factory, main())


def test_reset_while_writing(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, peer = await tls_pair(side, protocol, certs)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        writer.write(BIG)
        writer.write(BIG)
        draining = asyncio.create_task(writer.drain())
        await asyncio.to_thread(peer.recv, 10)
        assert not draining.done()
        reset(bare(peer))
        with pytest.raises(OSError):  # ConnectionResetError, or BrokenPipeError by a write
            await draining
        with pytest.raises(OSError):
            await reader.read()
        assert transport.is_closing()
        assert faults.contexts == []

    run(factory, main())


# ---- during the handshake -----------------------------------------------------------------------


def test_a_server_that_closes_during_handshakes(factory: Factory, certs: Certs) -> None:
    """It stops to listen; a handshake that has begun goes on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        made: list[Echo] = []
        server, address = await serve(lambda: made.append(Echo()) or made[-1], ssl=certs.server())
        begun = [socket.create_connection(address, timeout=20) for _ in range(3)]
        await until(lambda: len(made) == 3, "three handshakes")
        server.close()
        assert not server.is_serving()

        def use(sock: socket.socket) -> bytes:
            with wrap(sock, certs.client(), False) as peer:
                peer.sendall(b"echo")
                answer: bytes = peer.recv(10)
                peer.unwrap().close()
            return answer

        assert await asyncio.to_thread(use, begun[0]) == b"echo"
        begun[1].close()
        reset(begun[2])
        await until(lambda: made[0].lost, "the end of the one that came about")
        await server.wait_closed()
        assert made[1].calls == made[2].calls == []
        assert faults.contexts == []

    run(factory, main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_a_server_ends_its_clients(
    factory: Factory, loop_name: str, certs: Certs, how: str
) -> None:
    if loop_name == "asyncio" and sys.version_info < (3, 13):
        pytest.skip("asyncio has these methods from Python 3.13 on")

    async def main() -> None:
        protocol = Recorder()
        server, address = await serve(lambda: protocol, ssl=certs.server())
        peer = await asyncio.to_thread(dial, address, certs.client())
        await until(lambda: protocol.calls, "the connection")
        ours = isinstance(asyncio.get_running_loop(), taut.Loop)
        server.close()
        getattr(server, how)()

        def read() -> None:
            try:
                assert recv_all(peer) == b""
            except OSError:
                # asyncio closes below TLS: nobody says close_notify
                assert how == "abort_clients" or not ours
            peer.close()

        await asyncio.to_thread(read)
        await until(lambda: protocol.lost, "the end")
        await server.wait_closed()

    run(factory, main())


# ---- what is left -------------------------------------------------------------------------------


def test_transports_and_protocols_are_freed(factory: Factory, certs: Certs, side: str) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair(side, protocol, certs)
        refs = [weakref.ref(transport), weakref.ref(protocol)]
        transport.close()
        await asyncio.to_thread(answer_close, peer)
        await until(lambda: protocol.lost, "the end")
        del transport, protocol
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in refs] == [None, None]

    run(factory, main())


def test_connections_leave_nothing_behind(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server_context, client_context = certs.server(), certs.client()

        async def cycle() -> None:
            one, two = tcp_pair()
            client, server = Recorder(), Echo()
            await asyncio.gather(
                attach("client", one, client, client_context),
                attach("server", two, server, server_context),
            )
            client.transport.write(b"x" * 1000)
            await until(lambda: len(client.data) == 1000, "the echo")
            client.transport.close()
            await until(lambda: client.lost and server.lost, "the ends")

        def left() -> tuple[int, int, int]:
            gc.collect()
            kinds = (Recorder, asyncio.BaseTransport)
            alive = sum(isinstance(thing, kinds) for thing in gc.get_objects())
            return fd_count(), alive, sys.getallocatedblocks()

        for _ in range(20):
            await cycle()
        fds, alive, blocks = left()
        for _ in range(200):
            await cycle()
        after = left()
        assert after[0] == fds
        assert after[1] <= alive
        assert after[2] - blocks < 600  # three objects a connection would be as many
        assert loop.is_running()

    run(factory, main())
