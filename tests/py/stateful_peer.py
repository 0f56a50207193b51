"""The other ends of the stateful tests: sockets that never block, driven between the loop's turns.

A peer is no event loop. It does what it is told and looks when it is asked to (`pump`), so that one
thread plays both sides and each step's outcome is the kernel's, not the scheduler's.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
from typing import Any

import loops

#: What the kernel holds of a stream whose peer does not read, for the buffers set below: never
#: fewer than KERNEL_MIN bytes (a write counts for at least WRITE_COST), never more than KERNEL_MAX.
KERNEL_MIN, KERNEL_MAX = 8_000, 60_000
WRITE_COST = 1_000
BUFFER_SIZE = 16_384
RECEIVED_AT = 128  # tcpi_bytes_received in struct tcp_info
ESTABLISHED, FIN_WAIT1, FIN_WAIT2 = 1, 4, 5


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets, with small buffers from the first to the second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """The same with Unix sockets."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
    for sock in (ours, theirs):
        sock.setblocking(False)
    return ours, theirs


def unread(sock: socket.socket) -> int:
    """Bytes that have come and were not read."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))[0])


def tcp_info(sock: socket.socket) -> tuple[int, int]:
    """The state of a TCP socket, and how many bytes it has received in all."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED_AT + 8)
    return info[0], struct.unpack_from("Q", info, RECEIVED_AT)[0]


def tape(size: int, salt: int) -> bytes:
    """Bytes in which a lost, doubled or moved piece shows. 251 and 256 share no factor."""
    turn = bytes((salt + i * 7) % 251 for i in range(251))
    made = bytearray(turn * (size // 251 + 1))[:size]
    for at in range(0, size - 4, 1000):
        made[at : at + 4] = at.to_bytes(4, "big")
    return bytes(made)


class Peer:
    """A plain socket. `end` is how the other side ended: "eof", "reset", or None so far."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reading = True
        self.received = bytearray()
        self.end: str | None = None
        self.sent_raw = 0
        self.sent = 0
        self.shut = False
        self.closed = False
        self.was_reset = False
        self.tape = tape(1 << 18, 3)

    def send(self, size: int) -> None:
        """Sends the next bytes of its tape. Their number is such that the kernel takes them."""
        data = self.tape[self.sent : self.sent + size]
        self.sent += size
        self._send_app(data)

    def _send_app(self, data: bytes) -> None:
        self._send_raw(data)

    def _send_raw(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                count = self.sock.send(view)
            except (BrokenPipeError, ConnectionResetError):
                self.shut = True
                return
            self.sent_raw += count
            view = view[count:]

    def shutdown(self) -> None:
        """Half-closes."""
        self.shut = True
        with contextlib.suppress(OSError):  # the other side is gone
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.closed = self.shut = True
        self.reading = False
        self.sock.close()

    def reset(self) -> None:
        """Closes so that the other side hears of an error, where the socket has a way to say so."""
        self.was_reset = self.closed = self.shut = True
        self.reading = False
        if self.sock.family == socket.AF_UNIX:
            self.sock.close()
        else:
            loops.reset(self.sock)

    def pump(self) -> None:
        """Reads what there is, when it reads at all."""
        while self.reading and self.end is None:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                return
            except (ConnectionResetError, BrokenPipeError):
                self._ended("reset")
                return
            if not data:
                self._ended("eof")
                return
            self._came(data)

    def _came(self, data: bytes) -> None:
        self.received += data

    def _ended(self, how: str) -> None:
        self.end = how

    def finish(self) -> None:
        """At the end of an example: hears the other side out, then closes."""
        if not self.closed:
            self.close()


class TlsPeer(Peer):
    """The same over TLS. `close_notify` tells whether the other side ended its stream properly."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        super().__init__(sock)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: Any = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )
        self.shaken = False
        self.notified = False
        self.close_notify = False
        self.error: str | None = None

    @classmethod
    def over(cls, plain: Peer, context: ssl.SSLContext, server_side: bool) -> TlsPeer:
        """Goes on where a plain peer stands (start_tls)."""
        peer = cls(plain.sock, context, server_side)
        peer.sent, peer.sent_raw, peer.received = plain.sent, plain.sent_raw, plain.received
        return peer

    def _flush(self) -> None:
        self._send_raw(self.outgoing.read())

    def _send_app(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def shutdown(self) -> None:
        """Says close_notify: TLS has no other half-close."""
        self.shut = True
        self._notify()

    def _notify(self) -> None:
        if self.notified or self.closed:
            return
        self.notified = True
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    def _came(self, data: bytes) -> None:
        self.incoming.write(data)
        self.step()

    def step(self) -> None:
        """Goes on with the handshake, then reads."""
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while not self.close_notify:
                data = self.tls.read(1 << 18)
                if data:
                    self.received += data
                else:
                    self.close_notify = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.close_notify = True
        except ssl.SSLError as exc:
            self.error = exc.reason
        self._flush()

    def finish(self) -> None:
        if not self.closed:
            self._notify()
        super().finish()
