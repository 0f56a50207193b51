"""Random sequences on pipe transports, with asyncio as the oracle."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from stateful_base import Base, Machine, bounded, shown
from stateful_machine import seldom
from stateful_peer import tape

#: A pipe takes 65536 bytes, a socket pair less: never fewer than the first, nor more than the
#: second. A write counts for at least WRITE_COST: each may take a page of its own.
PIPE_MIN, PIPE_MAX, WRITE_COST = 4096, 300_000, 4096
LIMITS_DEFAULT = (65536, 16384)


class Protocol(asyncio.Protocol):
    """For reading and for writing."""

    def __init__(self, world: PipeWorld) -> None:
        self.world = world
        self.number = len(world.protocols)
        world.protocols.append(self)

    def connection_made(self, transport: Any) -> None:
        self.world.transport = transport
        self.world.note("made", self.number)

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.world.came(self.number, data)

    def eof_received(self) -> None:
        self.world.note("eof", self.number)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.world.lost += 1
        # asyncio's BrokenPipeError has neither number nor text when the reader's going was noticed
        told = "broken pipe" if isinstance(exc, BrokenPipeError) else shown(exc)
        self.world.note("lost", self.number, told)

    def pause_writing(self) -> None:
        self.world.note("pause", self.number)

    def resume_writing(self) -> None:
        self.world.note("resume", self.number)


class PipeWorld(Base):
    """`writes`: the transport's direction. `sockets`: a socket pair in place of a pipe."""

    def __init__(self, name: str, writes: bool, sockets: bool) -> None:
        super().__init__(name)
        self.writes, self.sockets = writes, sockets
        if sockets:
            pair = socket.socketpair()
            ends = [sock.detach() for sock in pair]
        else:
            ends = list(os.pipe())
        ours, self.peer = (ends[1], ends[0]) if writes else ends
        self.pipe = os.fdopen(ours, "wb" if writes else "rb", 0)
        os.set_blocking(self.peer, False)
        self.reading = True  # the peer of a writer
        self.gone = self.shut = False
        self.given = 0  # bytes of the tape that the peer has written, or we
        self.cost = 0
        self.data = bytearray()
        self.limits = LIMITS_DEFAULT
        self.tape = tape(1 << 22, 9)
        self.cut = False
        self.flushes = False

    def connect(self) -> None:
        """Makes the transport."""
        connect = self.loop.connect_write_pipe if self.writes else self.loop.connect_read_pipe
        self.finish(connect(lambda: Protocol(self), self.pipe), self.pump)

    # ---- turning ----------------------------------------------------------------------------

    def pump(self) -> None:
        while self.writes and self.reading and not (self.gone or self.shut):
            try:
                data = os.read(self.peer, 1 << 18)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.shut = True
            self.data += data

    def fingerprint(self) -> Any:
        size = self.transport.get_write_buffer_size() if self.writes and self.transport else 0
        return len(self.log), len(self.data), size, self.shut

    def on_its_way(self) -> str:
        if self.writes and self.reading and not (self.gone or self.shut):
            if self.pipe.closed:
                return "the peer to see the end"
            if not self.cut and len(self.data) < self.given:
                return "bytes to reach the peer"
        if not self.writes and not self.pipe.closed and not self.transport.is_closing():
            waits = struct.unpack("i", fcntl.ioctl(self.pipe, termios.FIONREAD, b"\0" * 4))[0]
            if waits > 0 and self.reads:
                return "data to be read"
        return ""

    # ---- callbacks and calls ----------------------------------------------------------------

    reads = True  # resumed, as far as the reader was told

    def came(self, number: int, data: bytes) -> None:
        self.data += data
        if self.log and self.log[-1][:2] == ("data", number):
            self.log[-1] = ("data", number, len(self.data))
        else:
            self.log.append(("data", number, len(self.data)))
        self.react("data")

    def left(self, more: int = 0) -> tuple[int, int]:
        """Bounds of the write buffer's size."""
        left = self.given - len(self.data) + more
        if left == more:
            self.cost = 0
        fits = self.cost + max(WRITE_COST, more) <= PIPE_MIN
        return max(0, left - PIPE_MAX), 0 if fits else left

    def _do_write(self, argument: str) -> None:
        kind, digits = argument.split("*")
        size = int(digits)
        least, most = self.left(size)
        if least <= self.limits[0] < most or (self.lost and self.flushes):
            return
        data = self.tape[self.given :][:size]
        made: Any = {"bytes": bytes, "array": bytearray, "view": memoryview}[kind](data)
        if not (self.transport.is_closing() or self.gone):
            self.given += size
            self.cost += max(WRITE_COST, size)
        self.transport.write(made)

    def _do_close(self, _: str) -> None:
        if self.writes:
            self.flushes |= self.left()[1] > 0
        self.transport.close()

    def _do_abort(self, _: str) -> None:
        if self.writes and not self.transport.is_closing():
            self.cut |= self.left()[1] > 0
            self.transport.abort()

    def _do_eof(self, _: str) -> None:
        if self.writes and not self.lost:
            self.flushes |= self.left()[1] > 0
            self.transport.write_eof()

    def _do_pause(self, _: str) -> None:
        if not self.writes and not self.transport.is_closing():
            self.reads = False
            self.transport.pause_reading()

    def _do_resume(self, _: str) -> None:
        if not self.writes and not self.transport.is_closing():
            self.reads = True
            self.transport.resume_reading()

    def _do_switch(self, _: str) -> None:
        if not self.transport.is_closing():
            self.transport.set_protocol(Protocol(self))

    def _do_limits(self, argument: str) -> None:
        if not self.writes:
            return
        high, low = (int(part) if part != "-" else None for part in argument.split("*"))
        least, most = self.left()
        mark = high if high is not None else 65536 if low is None else 4 * low
        if not least <= mark < most:
            self.transport.set_write_buffer_limits(high=high, low=low)
            bottom, top = self.transport.get_write_buffer_limits()
            self.limits = (top, bottom)

    # ---- the peer ---------------------------------------------------------------------------

    def peer_writes(self, size: int) -> None:
        """The next bytes, which the pipe takes."""
        try:
            wrote = os.write(self.peer, self.tape[self.given :][:size])
            assert wrote == size
            self.given += size
        except (BrokenPipeError, ConnectionResetError) as exc:
            self.log.append(("peer", type(exc).__name__))

    def peer_leaves(self) -> None:
        self.cut |= self.writes
        self.gone = True
        os.close(self.peer)

    # ---- what is seen -----------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        assert self.tape[: len(self.data)] == self.data, "wrong bytes"

    def show(self) -> dict[str, Any]:
        events, self.log = self.log, []
        seen = {
            "events": events,
            "closing": self.transport.is_closing(),
            "protocol": getattr(self.transport.get_protocol(), "number", None),
            "extra": [type(self.transport.get_extra_info(key)).__name__ for key in ("pipe", "no")],
            "peer sees": self.shut,
        }
        if not self.cut:
            seen["data"] = len(self.data)
        if self.writes:
            least, most = self.left()
            if not self.cut and (self.reading or least > 0 or most == 0):
                seen["buffer"] = self.transport.get_write_buffer_size() > 0
            seen["limits"] = self.transport.get_write_buffer_limits()
        return seen

    def end(self) -> None:
        self.reading = True
        if not self.lost:
            self.turn(self.transport.close)
        self.settle()

    def drop(self) -> None:
        if not self.gone:
            os.close(self.peer)
        self.turn()
        self.loop.close()
        self.pipe.close()


SIZES = st.sampled_from([0, 1, 700, 4_000, 30_000, 400_000, 700_000])
WRITES = st.builds("write:{}*{}".format, st.sampled_from(["bytes", "array", "view"]), SIZES)
LIMITS = st.sampled_from(["-*-", "0*0", "1000*-", "400000*0", "2000000*-", "-*10000"])
WRITING = st.one_of(WRITES, WRITES, st.just("switch"), LIMITS.map("limits:{}".format))
READING = st.sampled_from(["pause", "resume", "switch"])
LAST = st.sampled_from([*[""] * 9, "close", "abort", "eof"])
BIG = ["write:array*700000", "write:view*700000"]
ENDS = ["close", "abort", "raise"]
REACTIONS = {
    "data": ["close", "raise", "pause", "switch"],
    "eof": ["close", "raise", "pause"],
    "pause": [*BIG, *ENDS, "eof"],
    "resume": [*BIG, *ENDS, "eof"],
    "lost": [*ENDS, "pause", "resume", "write:bytes*700"],
}


def reactions(event: str) -> Any:
    actions = st.lists(st.sampled_from(REACTIONS[event]), min_size=1, max_size=2)
    return actions.map(lambda chosen: sorted(chosen, key=lambda action: action == "raise"))


class PipeMachine(Machine):
    writes = False
    operations = READING

    @initialize(
        made=seldom(["close", "raise", "write:bytes*700"]),
        sockets=st.booleans(),
    )
    def connect(self, made: list[str], sockets: bool) -> None:
        if not self.writes and made == ["write:bytes*700"]:
            made = []
        self.begin(lambda name: PipeWorld(name, self.writes, sockets))
        self.each(lambda world: world.armed.update(made=made), settle=False)
        self.each(PipeWorld.connect)

    @rule(data=st.data())
    def operate(self, data: Any) -> None:
        operations = data.draw(st.lists(self.operations, min_size=1, max_size=4))
        operations += data.draw(LAST).split()
        self.each(lambda world: world.burst(operations))

    @rule(
        event_and_actions=st.sampled_from(sorted(REACTIONS)).flatmap(
            lambda event: st.tuples(st.just(event), reactions(event))
        )
    )
    def arm(self, event_and_actions: tuple[str, list[str]]) -> None:
        event, actions = event_and_actions
        if not self.writes:
            actions = [action for action in actions if not action.startswith("write")]
        self.each(lambda world: world.armed.update({event: list(actions)}))

    @precondition(lambda self: not self.oracle.gone)
    @rule(leaves=seldom(["yes"]))
    def peer_leaves(self, leaves: list[str]) -> None:
        if not leaves:
            return
        least, most = self.oracle.left() if self.writes else (0, 0)
        if least > 0 or most == 0:  # whether bytes are left decides what connection_lost() is told
            self.each(PipeWorld.peer_leaves)


class ReadPipeMachine(PipeMachine):
    @rule(size=st.sampled_from([1, 700, 4_000, 30_000]))
    def peer_writes(self, size: int) -> None:
        world = self.oracle
        if not world.gone and world.given - len(world.data) + size <= 40_000:
            self.each(lambda each: each.peer_writes(size))


class WritePipeMachine(PipeMachine):
    writes = True
    operations = WRITING

    @rule(reads=st.booleans())
    def peer_reads(self, reads: bool) -> None:
        self.each(lambda world: setattr(world, "reading", reads))


TestReadPipe = ReadPipeMachine.TestCase
TestReadPipe.settings = bounded(40, 12)
TestWritePipe = WritePipeMachine.TestCase
TestWritePipe.settings = bounded(60, 15)
