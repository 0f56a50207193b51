"""The other end of a TLS connection under test: a blocking socket, driven from a thread.

Such a peer is not asyncio, so it can do what asyncio never does: stop reading, reset, leave out
close_notify. Its calls block, up to a deadline, so they go through asyncio.to_thread().
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from tls_certs import Certs

from loops import DEADLINE_S, Recorder, until


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: the one that connected, the one that was accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), timeout=DEADLINE_S)
        two, _ = listener.accept()
    two.settimeout(DEADLINE_S)
    for sock in (one, two):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, two


def wrap(sock: socket.socket, context: ssl.SSLContext, server_side: bool, **options: Any) -> Any:
    """The handshake of a blocking peer. Reading tells a close_notify (b"") from a bare EOF."""
    if not server_side:
        options.setdefault("server_hostname", "localhost")
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it
    return context.wrap_socket(sock, server_side=server_side, suppress_ragged_eofs=False, **options)


def dial(address: Any, context: ssl.SSLContext, **options: Any) -> ssl.SSLSocket:
    """A blocking TLS client."""
    sock = socket.create_connection(address[:2], timeout=DEADLINE_S)
    try:
        made: ssl.SSLSocket = wrap(sock, context, False, **options)
    except BaseException:
        sock.close()
        raise
    return made


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A listening socket for a blocking TLS server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        yield listener


def accept(listener: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The next connection of a blocking TLS server."""
    sock, _ = listener.accept()
    sock.settimeout(DEADLINE_S)
    try:
        made: ssl.SSLSocket = wrap(sock, context, True)
    except BaseException:
        sock.close()
        raise
    return made


async def attach(
    side: str, sock: socket.socket, protocol: Any, context: Any, **options: Any
) -> Any:
    """The running loop's transport over a connected socket, as "client" or as "server"."""
    loop = asyncio.get_running_loop()
    if side == "server":
        made = loop.connect_accepted_socket(lambda: protocol, sock, ssl=context, **options)
    else:
        options.setdefault("server_hostname", "localhost")
        made = loop.create_connection(lambda: protocol, sock=sock, ssl=context, **options)
    return (await made)[0]


async def tls_pair(
    side: str, protocol: Any, certs: Certs, version: str | None = None, **options: Any
) -> tuple[Any, ssl.SSLSocket]:
    """A transport of the running loop on that side, and its blocking peer.

    The server sends no session tickets: a peer that closes without having read them resets.
    """
    ours, theirs = tcp_pair()
    server, client = certs.server(version=version), certs.client(version=version)
    server.num_tickets = 0
    mine, other = (server, client) if side == "server" else (client, server)
    peer = asyncio.create_task(asyncio.to_thread(wrap, theirs, other, side != "server"))
    try:
        transport = await attach(side, ours, protocol, mine, **options)
    except BaseException:
        theirs.close()
        await asyncio.gather(peer, return_exceptions=True)
        raise
    return transport, await peer


async def try_to_connect(address: Any, context: Any, name: str | None = "localhost") -> Any:
    """The client's exception, or its transport, which is closed then."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    try:
        transport, _ = await loop.create_connection(
            lambda: protocol, *address, ssl=context, server_hostname=name
        )
    except (OSError, ValueError) as exc:
        assert protocol.calls == []
        return exc
    transport.close()
    await until(lambda: protocol.lost, "the end")
    return transport


def say_close(peer: ssl.SSLSocket) -> None:
    """Sends close_notify without waiting for the answer, which may have come all the same."""
    peer.setblocking(False)
    with contextlib.suppress(OSError):
        peer.unwrap()
    peer.setblocking(True)


class Wire:
    """A peer whose records are made in memory, so that it decides when bytes go out or come in.

    `outgoing` is what TLS has to say; `send()` passes it on, `receive()` takes what has come.
    All of it blocks.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_side: bool = False
    ) -> None:
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    def send(self) -> None:
        self.sock.sendall(self.outgoing.read())

    def receive(self) -> bool:
        """Whether anything came; False at EOF."""
        data = self.sock.recv(1 << 16)
        self.incoming.write(data)
        return data != b""

    def hello(self) -> bytes:
        """What a client says first; it is not sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()
        raise AssertionError("a handshake without an answer")

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send()
                if not self.receive():
                    raise ssl.SSLEOFError("EOF in the handshake") from None
            else:
                self.send()
                return

    def say_close(self) -> None:
        """Makes and sends close_notify, and waits for nothing."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.send()

    def read_all(self) -> tuple[bytes, bool]:
        """What comes until the end, and whether it ended by a close_notify."""
        data = bytearray()
        while True:
            try:
                chunk = self.tls.read(1 << 18)
                if not chunk:
                    return bytes(data), True
                data += chunk
            except ssl.SSLZeroReturnError:
                return bytes(data), True
            except ssl.SSLWantReadError:
                if not self.receive():
                    return bytes(data), False


async def wire_pair(
    side: str, protocol: Any, certs: Certs, version: str | None = None, **options: Any
) -> tuple[Any, Wire]:
    """Like tls_pair(), with a Wire as the peer."""
    ours, theirs = tcp_pair()
    server, client = certs.server(version=version), certs.client(version=version)
    server.num_tickets = 0
    mine, other = (server, client) if side == "server" else (client, server)
    wire = Wire(theirs, other, side == "client")
    shaking = asyncio.create_task(asyncio.to_thread(wire.handshake))
    transport = await attach(side, ours, protocol, mine, **options)
    await shaking
    return transport, wire


def recv_exactly(peer: ssl.SSLSocket, size: int) -> bytes:
    """That many bytes, or what came before the peer's close_notify. Blocks."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = peer.recv_into(view[got:])
        if count == 0:
            break
        got += count
    return bytes(data[:got])


def recv_all(peer: ssl.SSLSocket) -> bytes:
    """Everything until close_notify. Blocks; SSLError for an EOF without one."""
    data = bytearray()
    while chunk := peer.recv(1 << 18):
        data += chunk
    return bytes(data)


def answer_close(peer: ssl.SSLSocket) -> None:
    """Ends the connection as TLS has it, both close_notify exchanged. Blocks."""
    peer.unwrap().close()


def refused(exc: BaseException | None, alert: str) -> bool:
    """Whether a client was refused by the loop's server, which may say why by an alert.

    asyncio closes without sending the alert that OpenSSL has made.
    """
    if isinstance(exc, ssl.SSLError):
        return alert in exc.reason
    return type(exc) is ConnectionResetError


class Buffered(asyncio.BufferedProtocol):
    """Like Recorder, for a buffer of `size` bytes that is used again and again.

    It is a memoryview: asyncio reads the second record into a copy of a bytearray's slice.
    """

    def __init__(self, size: int = 65536, raises: tuple[str, ...] = ()) -> None:
        self.buffer = memoryview(bytearray(size))
        self.calls: list[str] = []
        self.data = bytearray()
        self.raises = raises
        self.lost: list[BaseException | None] = []
        self.transport: Any = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self.data += self.buffer[:nbytes]
        self.note("buffer_updated")

    note = Recorder.note
    connection_made = Recorder.connection_made  # type: ignore[assignment]
    eof_received = Recorder.eof_received  # type: ignore[assignment]
    connection_lost = Recorder.connection_lost  # type: ignore[assignment]
    pause_writing = Recorder.pause_writing
    resume_writing = Recorder.resume_writing


class Echo(Recorder):
    """Sends back what comes."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class BufferedEcho(Buffered):
    """The same with a buffer."""

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.transport.write(bytes(self.buffer[:nbytes]))
