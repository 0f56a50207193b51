"""One loop with one datagram endpoint, and its peers, for the stateful tests.

Datagrams over loopback are neither lost (the buffers are larger than what is sent in a step) nor
reordered, and a full Unix socket holds the same number of them in both worlds. What differs is when
a send that fails is told: taut sends a turn's datagrams together, so that error_received() may come
at the turn's end, where asyncio calls it within sendto(); and the report of a closed port goes to
the next call on the socket, whichever it is. So such a send ends its turn, and when it returned is
not compared.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from typing import Any

from stateful_base import Base, shown
from stateful_peer import tape

#: Before 3.11.7 asyncio's datagram transports cannot pause.
PAUSES = sys.version_info >= (3, 11, 7)
#: asyncio 3.13.0 counts 8 bytes more for each datagram that waits, and never takes them back: it
#: shows a buffer that is not there, and with a low mark below those would not resume.
LEAKS = sys.version_info >= (3, 13)
SIZE_MAX = 65_507
SERIAL = itertools.count()


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, world: DgramWorld) -> None:
        self.world = world
        self.number = len(world.protocols)
        world.protocols.append(self)

    def connection_made(self, transport: Any) -> None:
        self.world.transport = transport
        self.world.note("made", self.number)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.world.note("data", self.number, len(data), data[:8], self.world.who(addr))

    def error_received(self, exc: OSError) -> None:
        self.world.note("error", self.number, shown(exc))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.world.lost += 1
        self.world.note("lost", self.number, shown(exc))

    def pause_writing(self) -> None:
        self.world.note("pause", self.number)

    def resume_writing(self) -> None:
        self.world.note("resume", self.number)


class DgramPeer:
    """A datagram socket that reads, or not."""

    def __init__(self, family: int) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.bind(abstract() if family == socket.AF_UNIX else ("127.0.0.1", 0))
        self.address = text(self.sock.getsockname())
        self.received: list[tuple[int, bytes]] = []
        self.reading = True
        self.closed = False

    def pump(self) -> None:
        while self.reading and not self.closed:
            try:
                data = self.sock.recv(1 << 17)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue  # an earlier send of ours went nowhere
            self.received.append((len(data), data[:8]))

    def close(self) -> None:
        self.closed = True
        self.sock.close()


def abstract() -> str:
    """A name for a Unix socket, outside the file system."""
    return f"\0taut-stateful-{os.getpid()}-{next(SERIAL)}"


def text(addr: Any) -> Any:
    """An address as it is given; the socket module shows abstract names as bytes."""
    return addr.decode() if isinstance(addr, bytes) else addr


class DgramWorld(Base):
    """`kind`: "udp", "connected" (UDP with a remote address), "unix" (with a remote address)."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self.kind = kind
        self.family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        self.peers = [DgramPeer(self.family) for _ in range(2)]
        self.tape = tape(1 << 18, 5)
        self.count = 0
        self.sent: list[int] = []  # to the first peer
        self.closes_full = False

    def who(self, addr: Any) -> Any:
        """Which peer an address is."""
        known = [peer.address for peer in self.peers]
        return known.index(text(addr)) if text(addr) in known else addr

    def connect(self) -> None:
        """Makes the endpoint."""
        remote = self.peers[0].address if self.kind != "udp" else None
        local: Any = abstract() if self.kind == "unix" else ("127.0.0.1", 0)
        coro = self.loop.create_datagram_endpoint(
            lambda: Protocol(self), local_addr=local, remote_addr=remote, family=self.family
        )
        self.finish(coro, self.pump)
        self.address = self.transport.get_extra_info("sockname")

    def pump(self) -> None:
        for peer in self.peers:
            peer.pump()

    def fingerprint(self) -> Any:
        size = self.transport.get_write_buffer_size() if self.transport is not None else 0
        return len(self.log), size, [len(peer.received) for peer in self.peers]

    # ---- what is done -----------------------------------------------------------------------

    def burst(self, operations: list[str]) -> None:
        fails = [at for at, operation in enumerate(operations) if self.may_fail(operation)]
        super().burst(operations[: fails[0] + 1] if fails else operations)

    def may_fail(self, operation: str) -> bool:
        """Whether the kernel may refuse it, now or later."""
        name, _, argument = operation.partition(":")
        if name != "sendto":
            return False
        _, size, target = argument.split("*")
        aimed = self.peers[0 if target == "-" else int(target)]
        return aimed.closed or int(size) > SIZE_MAX

    def operate(self, name: str, argument: str = "") -> None:
        if self.inside and self.may_fail(f"{name}:{argument}"):
            return
        super().operate(name, argument)
        if name == "sendto":
            self.log.pop()

    def _do_sendto(self, argument: str) -> None:
        kind, size, target = argument.split("*")
        if self.lost and (self.kind == "udp" or self.closes_full):
            return  # asyncio uses the closed socket: AttributeError
        peer = None if target == "-" else self.peers[int(target)]
        if peer is None and self.kind == "udp":
            peer = self.peers[0]
        self.count += 1
        data = self.tape[self.count * 7 :][: int(size)]
        made = {"bytes": bytes, "array": bytearray, "view": memoryview}[kind](data)
        self.sent.append(int(size))
        try:
            self.transport.sendto(made, None if peer is None else peer.address)
        except ValueError as exc:
            raise ValueError(str(exc).replace(str(self.peers[0].address), "PEER")) from None

    def _do_close(self, _: str) -> None:
        # whether datagrams wait in the transport is only known when few or none are on their way
        sizes = self.sent[len(self.peers[0].received) :] if self.kind == "unix" else []
        self.closes_full |= len(sizes) > 4 or sum(sizes) > 50_000
        self.transport.close()

    def _do_abort(self, _: str) -> None:
        if not (self.lost and self.closes_full):
            self.transport.abort()

    def _do_pause(self, _: str) -> None:
        if PAUSES:
            self.transport.pause_reading()

    def _do_resume(self, _: str) -> None:
        if PAUSES:
            self.transport.resume_reading()

    def _do_switch(self, _: str) -> None:
        self.transport.set_protocol(Protocol(self))

    def _do_limits(self, argument: str) -> None:
        high, low = (int(part) if part != "-" else None for part in argument.split("*"))
        if LEAKS and argument not in ("-*-", "-*10000"):
            return
        self.transport.set_write_buffer_limits(high=high, low=low)

    def peer_sends(self, which: int, sizes: list[int]) -> None:
        """Datagrams from a peer to the endpoint, if that is still there."""
        for size in sizes:
            self.count += 1
            try:
                data = self.tape[self.count * 7 :][:size]
                self.peers[which].sock.sendto(data, self.address)
            except (ConnectionRefusedError, BlockingIOError, PermissionError) as exc:
                self.log.append(("peer", type(exc).__name__))

    # ---- what is seen -----------------------------------------------------------------------

    def show(self) -> dict[str, Any]:
        transport = self.transport
        events, self.log = self.log, []
        return {
            "events": events,
            "received": [peer.received for peer in self.peers],
            # asyncio's abort() drops the buffer, and goes on telling its size
            "buffer": not (self.lost or LEAKS) and transport.get_write_buffer_size() > 0,
            "closing": transport.is_closing(),
            "limits": transport.get_write_buffer_limits(),
            "protocol": getattr(transport.get_protocol(), "number", None),
            "extra": [
                type(transport.get_extra_info(key)).__name__
                for key in ("socket", "sockname", "peername", "none")
            ],
        }

    def end(self) -> None:
        for peer in self.peers:
            peer.reading = not peer.closed
        self.settle()
        if not self.lost:
            self.turn(self.transport.abort)
        self.settle()

    def drop(self) -> None:
        for peer in self.peers:
            peer.close()
        self.turn()
        self.loop.close()
