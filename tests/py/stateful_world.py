"""One event loop with one connection, for the stateful tests: what is done to it, what it shows.

Two worlds, asyncio's and taut's, are given the same decisions; what they show must be the same.
After each step a world is settled: the loop turns until nothing is on its way and nothing changes.

What depends on timing is not in what is shown:
- how data is cut into pieces: data_received() calls in a row count as one;
- get_write_buffer_size(): only whether it is zero, and only where the kernel's buffers, whose size
  is known within bounds, leave no doubt;
- how much of what was written arrives when the connection is cut with bytes on their way.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from stateful_base import Base, shown
from stateful_peer import (
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    KERNEL_MAX,
    KERNEL_MIN,
    WRITE_COST,
    Peer,
    TlsPeer,
    tape,
    tcp_info,
    tcp_pair,
    unix_pair,
    unread,
)

import loops

LIMITS_DEFAULT = (65536, 16384)
#: writelines() of asyncio 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 never pauses the protocol and fails
#: after the connection was lost (CVE-2024-12254). There the oracle's is what it is elsewhere: one
#: write() of all.
WRITELINES_BROKEN = (3, 12) <= sys.version_info < (3, 12, 9) or (
    (3, 13) <= sys.version_info < (3, 13, 2)
)
EXTRA = ("socket", "sockname", "peername", "sslcontext", "cipher", "peercert", "ssl_object", "none")


class Protocol:
    """What both kinds of protocol do: note, then act as armed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = len(world.protocols)
        world.protocols.append(self)

    def connection_made(self, transport: Any) -> None:
        self.world.transport = transport
        self.world.note("made", self.number)

    def eof_received(self) -> bool | None:
        return self.world.note("eof", self.number)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.world.lost += 1
        self.world.note("lost", self.number, shown(exc))

    def pause_writing(self) -> None:
        self.world.flow("pause", self.number)

    def resume_writing(self) -> None:
        self.world.flow("resume", self.number)


class Plain(Protocol, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.world.came(self.number, data)


class Buffered(Protocol, asyncio.BufferedProtocol):
    """The buffer is a memoryview: asyncio's TLS reads the second record into a copy of a
    bytearray's slice."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.buffer = memoryview(bytearray(65536))

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.world.came(self.number, bytes(self.buffer[:nbytes]))


class World(Base):
    """A loop, a connection, its peer. `kind`: "tcp", "unix", or the side of TLS it has."""

    def __init__(self, name: str, kind: str, contexts: Any = None) -> None:
        super().__init__(name)
        self.kind, self.contexts = kind, contexts
        self.mute = False  # asyncio's TLS transport forgets its protocol at the second close()
        self.data = bytearray()  # what the protocols were given
        self.written = bytearray()  # what calls that did not raise have written
        self.asked = 0  # the same, counted alike in both worlds
        self.cost = 0
        self.cut = False
        self.flushes = False  # close() was called with bytes left to send
        self.unsure = False  # ... or without: nobody can say
        self.written_to_nobody = False  # in this turn
        self.paused = self.eof_written = False
        self.limits = LIMITS_DEFAULT
        self.tape = tape(1 << 19, 11)
        self.ours, theirs = unix_pair() if kind == "unix" else tcp_pair()
        self.peer = Peer(theirs)

    @property
    def tls(self) -> bool:
        return isinstance(self.peer, TlsPeer)

    # ---- turning ----------------------------------------------------------------------------

    def turn(self, function: Any = None, *args: Any) -> None:
        self.written_to_nobody = False
        super().turn(function, *args)

    def pump(self) -> None:
        self.peer.pump()

    def fingerprint(self) -> Any:
        size = 0
        if self.transport is not None and not self.mute:
            size = self.transport.get_write_buffer_size()
        inside = unread(self.ours) if self.ours.fileno() >= 0 else -1
        peer = (len(self.peer.received), self.peer.end, self.peer.sent_raw)
        return len(self.log), len(self.data), size, inside, peer

    def on_its_way(self) -> str:
        peer = self.peer
        alive = self.ours.fileno() >= 0
        if peer.reading and peer.end is None:
            if not alive:
                return "the peer to see the end"
            if not self.cut and len(peer.received) < len(self.written):
                return f"{len(self.written) - len(peer.received)} bytes to reach the peer"
        if not alive:
            return ""
        if not self.transport.is_closing() and self.transport.is_reading() and not self.tls:
            if unread(self.ours) > 0:
                return "data to be read"
        if self.kind == "unix":
            return ""  # where nothing travels
        state, received = tcp_info(self.ours)
        if peer.was_reset and state in (ESTABLISHED, FIN_WAIT1, FIN_WAIT2):
            return "the reset"
        if not peer.was_reset and received < peer.sent_raw and not self.cut:
            return "the peer's data"
        if peer.shut and not self.tls and state in (ESTABLISHED, FIN_WAIT1, FIN_WAIT2):
            return "the peer's FIN"
        return ""

    # ---- what is noted ----------------------------------------------------------------------

    def fault(self, _loop: Any, context: dict[str, Any]) -> None:
        message = context["message"]
        if self.tls:  # asyncio's names the function of its SSLProtocol that was running
            message = "TLS"
        super().fault(_loop, {**context, "message": message})

    def came(self, number: int, data: bytes) -> None:
        self.data += data
        if self.log and self.log[-1][:2] == ("data", number):
            self.log[-1] = ("data", number, len(self.data))
        else:
            self.log.append(("data", number, len(self.data)))
        self.react("data")

    def note(self, event: str, *details: Any) -> bool | None:
        if event == "eof":
            self.flushes |= self.pending()[1] > 0
        if event == "lost" and (self.flushes or self.unread_by_peer() > KERNEL_MIN):
            # After an error what had not left is lost; and closing with data unread is a reset.
            ignored = unread(self.ours) if self.ours.fileno() >= 0 else 0
            self.cut |= details[-1] is not None or self.peer.closed or ignored > 0
        return super().note(event, *details)

    def flow(self, event: str, number: int) -> None:
        """pause_writing() or resume_writing(). TLS: only that they take turns.

        asyncio counts only what its socket transport did not want, a whole write later.
        """
        assert self.paused == (event == "resume"), (self.name, event, "twice")
        self.paused = event == "pause"
        if not self.tls:
            self.note(event, number)

    # ---- what is done -----------------------------------------------------------------------

    def connect(self) -> None:
        """Makes the connection; TLS: with its handshake."""
        made: Any
        if self.kind in ("client", "server"):
            self.peer = TlsPeer(
                self.peer.sock, self.contexts[self.kind == "client"], self.kind == "client"
            )
        if self.kind == "server":
            made = self.loop.connect_accepted_socket(
                lambda: Plain(self), self.ours, ssl=self.contexts[True]
            )
        elif self.kind == "client":
            made = self.loop.create_connection(
                lambda: Plain(self),
                sock=self.ours,
                ssl=self.contexts[False],
                server_hostname="localhost",
            )
        else:
            made = self.loop.create_connection(lambda: Plain(self), sock=self.ours)
        self._finish(made)

    def _finish(self, coro: Any) -> Any:
        made = self.finish(coro, self._play)
        self.mute |= made is None and self.tls  # closed already
        return made

    def _play(self) -> None:
        if isinstance(self.peer, TlsPeer):
            self.peer.step()
        self.peer.pump()

    def start_tls(self, server_side: bool) -> None:
        """TLS from here on, for the same protocol."""
        self.peer = TlsPeer.over(self.peer, self.contexts[not server_side], not server_side)
        protocol = self.transport.get_protocol()
        made = self._finish(
            self.loop.start_tls(
                self.transport,
                protocol,
                self.contexts[server_side],
                server_side=server_side,
                server_hostname=None if server_side else "localhost",
            )
        )
        if made is not None:
            self.transport = made
            self.limits = LIMITS_DEFAULT

    def operate(self, name: str, argument: str = "") -> None:
        if self.mute:
            return
        if self.flushes and self.lost and name in ("write", "lines", "abort"):
            return  # asyncio does not know that the connection is lost, and fails on what is gone
        if self.unsure and not self.tls and name in ("write", "lines"):
            return  # what is written after close() leaves if anything was left to send then
        if "resume" in self.inside and name in ("write", "lines"):
            if sys.version_info >= (3, 12) and self.transport.is_closing():
                return  # asyncio's close() has forgotten what it would write with
        if self.peer.closed and not self.lost and name in ("write", "lines"):
            # The first segment is answered by a reset, the next send() fails: it depends on how
            # writes are put together which call that is, and taut sends a turn's writes as one.
            if self.written_to_nobody:
                return
            self.written_to_nobody = True
        super().operate(name, argument)
        if self.written_to_nobody and not self.lost:
            self.log[-1] = ("<", name, None)

    def _do_write(self, argument: str) -> None:
        kind, size = argument.split("*")
        if (data := self._next(int(size))) is not None:
            made: Any = {"bytes": bytes, "array": bytearray, "view": memoryview}[kind](data)
            self._written(data, lambda: self.transport.write(made))

    def _do_lines(self, argument: str) -> None:
        sizes = [int(size) for size in argument.split("*")]
        if (data := self._next(sum(sizes))) is None:
            return
        parts, at = [], 0
        for size in sizes:
            parts.append(bytearray(data[at : at + size]))
            at += size
        if WRITELINES_BROKEN and self.name == "asyncio" and not self.tls:
            self._written(data, lambda: self._lines_as_one(parts))
        else:
            self._written(data, lambda: self.transport.writelines(parts))

    def _lines_as_one(self, parts: list[bytearray]) -> None:
        try:
            self.transport.write(b"".join(parts))
        except RuntimeError as exc:
            raise RuntimeError(str(exc).replace("write()", "writelines()")) from None

    def _next(self, size: int) -> bytes | None:
        """The next bytes, or None when nobody could say whether they pause the protocol."""
        least, most = self.pending(size)
        if least <= self.limits[0] < most and not self.tls:
            return None
        at = len(self.written)
        return (self.tape * 2)[at % len(self.tape) :][:size]

    def _written(self, data: bytes, call: Any) -> None:
        """Counted before the call, in which pause_writing() may write more."""
        at, asked, cost = len(self.written), self.asked, self.cost
        if self.tls and self.transport.is_closing():
            call()  # drops it: close_notify was the last word
            return
        self.cut |= self.tls and self.peer.shut
        self.written += data
        self.asked += len(data)
        self.cost += max(WRITE_COST, len(data))
        try:
            call()
        except BaseException:
            del self.written[at:]
            self.asked, self.cost = asked, cost
            raise

    def unread_by_peer(self) -> int:
        """Bytes written that the peer has not read, small writes counted as the kernel does."""
        if len(self.peer.received) >= self.asked:
            self.cost = 0
        return min(self.cost, max(WRITE_COST * 100, self.asked - len(self.peer.received)))

    def pending(self, more: int = 0) -> tuple[int, int]:
        """Bounds of the write buffer's size."""
        left = self.asked - len(self.peer.received) + more
        fits = self.unread_by_peer() + max(WRITE_COST, more) <= KERNEL_MIN
        return max(0, left - KERNEL_MAX), 0 if fits else left

    def _do_close(self, _: str) -> None:
        self.mute |= self.tls and self.transport.is_closing()
        least, most = self.pending()
        self.flushes |= most > 0
        if least == 0 < most and not self.tls:
            self.unsure = True
            self.peer.reading |= not self.peer.closed  # so that the end comes in either case
        self.transport.close()

    def _do_abort(self, _: str) -> None:
        if self.unread_by_peer() > KERNEL_MIN:
            self.cut = True
        self.transport.abort()

    def _do_eof(self, _: str) -> None:
        self.eof_written = True
        self.transport.write_eof()

    def _do_pause(self, _: str) -> None:
        self.transport.pause_reading()

    def _do_resume(self, _: str) -> None:
        if "eof" in (event[0] for event in self.log):
            return  # asyncio would read the EOF again, and call eof_received() twice
        self.transport.resume_reading()

    def _do_switch(self, kind: str) -> None:
        self.transport.set_protocol((Buffered if kind == "buffered" else Plain)(self))

    def _do_limits(self, argument: str) -> None:
        high, low = (int(part) if part != "-" else None for part in argument.split("*"))
        if self.tls and (high == 0 or self.lost):
            return  # asyncio's TLS pauses at 0 with nothing to send, also a protocol that is gone
        least, most = self.pending()
        mark = high if high is not None else 65536 if low is None else 4 * low
        if least <= mark < most and not self.tls:
            return
        self.transport.set_write_buffer_limits(high=high, low=low)
        bottom, top = self.transport.get_write_buffer_limits()
        self.limits = (top, bottom)

    # ---- what is seen -----------------------------------------------------------------------

    def show(self) -> dict[str, Any]:
        transport, peer = self.transport, self.peer
        events, self.log = self.log, [event for event in self.log if event[0] == "eof"]
        seen: dict[str, Any] = {"events": events, "data": bytes(self.data), "peer end": peer.end}
        if not self.cut:
            seen["peer received"] = len(peer.received)
        if isinstance(peer, TlsPeer):
            seen["peer's TLS"] = (peer.close_notify, peer.error)
        if transport is not None and not self.mute:
            least, most = self.pending()
            if peer.reading or ((least > 0 or most == 0) and not self.tls):
                seen["buffer empty"] = transport.get_write_buffer_size() == 0
            seen["closing"] = transport.is_closing()
            seen["reading"] = transport.is_reading()
            seen["limits"] = transport.get_write_buffer_limits()
            seen["protocol"] = getattr(transport.get_protocol(), "number", None)
            # asyncio's TLS transport has nothing to say of the socket once the connection is lost.
            keys = EXTRA[3:] if self.tls and self.lost else EXTRA
            seen["extra"] = [type(transport.get_extra_info(key)).__name__ for key in keys]
        return seen

    def check(self) -> None:
        assert self.written[: len(self.peer.received)] == self.peer.received, "wrong bytes sent"
        assert self.peer.tape[: len(self.data)] == self.data, "wrong bytes received"
        super().check()

    def end(self) -> None:
        if not self.peer.closed:
            self.peer.reading = True
        if self.ours.fileno() >= 0 and self.transport is not None:
            if not self.mute:
                self.turn(self._do_close, "")
            deadline = time.monotonic() + loops.DEADLINE_S
            while self.ours.fileno() >= 0 and time.monotonic() < deadline:
                self.turn()
                self.peer.pump()
                if isinstance(self.peer, TlsPeer) and self.peer.close_notify:
                    self.peer.finish()
        self.settle()

    def drop(self) -> None:
        self.peer.finish()
        self.turn()
        self.loop.close()
        self.ours.close()
