"""The state machine of the stateful tests: makes the decisions, and holds two worlds together."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from stateful_base import Machine
from stateful_world import World

SIZES = st.sampled_from([0, 1, 700, 5_000, 30_000, 150_000, 300_000])
WRITES = st.builds("write:{}*{}".format, st.sampled_from(["bytes", "array", "view"]), SIZES)
LINES = st.lists(SIZES, max_size=4).map(lambda sizes: "lines:" + "*".join(map(str, sizes or [0])))
LIMITS = st.sampled_from(["-*-", "0*0", "1000*-", "100000*0", "1000000*-", "-*10000"])
GENTLE = st.sampled_from(["pause", "resume", "switch:plain", "switch:buffered"])
OPERATIONS = st.one_of(WRITES, WRITES, LINES, GENTLE, LIMITS.map("limits:{}".format))
#: What ends a burst, and perhaps the connection: seldom, for a connection must live to show much.
LAST = st.sampled_from([*[""] * 6, "pause", "eof", "close", "abort", "close write:bytes*700"])
BURSTS = st.builds(
    lambda first, last: first + last.split(), st.lists(OPERATIONS, min_size=1, max_size=4), LAST
)
SMALL = ["write:bytes*700", "lines:1*700"]
BIG = ["write:array*300000", "write:view*300000"]
ENDS = ["close", "abort", "raise"]
#: What a callback does; each once.
REACTIONS = {
    "data": SMALL + ENDS + ["eof", "pause", "switch:plain", "switch:buffered"],
    "eof": SMALL + ENDS + ["keep"],
    "pause": BIG + ENDS + ["pause"],
    "resume": BIG + ENDS + ["pause", "eof"],
    "lost": SMALL + ENDS + ["eof", "resume"],
}
#: Before 3.11.7 asyncio reads all the same when reading was paused in connection_made().
MADE = (
    SMALL
    + ENDS
    + ["eof", "switch:buffered"]
    + (["pause"] if sys.version_info >= (3, 11, 7) else [])
)


def seldom(actions: list[str]) -> Any:
    """Mostly none, else one of them."""
    return st.sampled_from([[] for _ in range(2 * len(actions))] + [[one] for one in actions])


def reactions(event: str) -> Any:
    """One or two actions; what raises or returns comes last."""
    last = ("raise", "keep")
    actions = st.lists(st.sampled_from(REACTIONS[event]), min_size=1, max_size=2)
    return actions.map(lambda chosen: sorted(chosen, key=lambda action: action in last))


class StreamMachine(Machine):
    """A stream transport. Subclasses name the kind, and what it can do."""

    kind = "tcp"

    @initialize(made=seldom(MADE), choice=st.integers(0, 3))
    def connect(self, made: list[str], choice: int) -> None:
        kind, contexts = self.chosen(choice)
        self.begin(lambda name: World(name, kind, contexts))
        self.each(lambda world: world.armed.update(made=made), settle=False)
        self.each(World.connect)

    def chosen(self, choice: int) -> tuple[str, Any]:
        """The kind of connection, and TLS contexts by whether they are a server's."""
        return self.kind, None

    # ---- decisions --------------------------------------------------------------------------

    @rule(operations=BURSTS)
    def operate(self, operations: list[str]) -> None:
        self.each(lambda world: world.burst(operations))

    @rule(
        event_and_actions=st.sampled_from(sorted(REACTIONS)).flatmap(
            lambda event: st.tuples(st.just(event), reactions(event))
        )
    )
    def arm(self, event_and_actions: tuple[str, list[str]]) -> None:
        event, actions = event_and_actions
        self.each(lambda world: world.armed.update({event: list(actions)}))

    def can_send(self, size: int) -> bool:
        """Whether the kernel surely takes it and, when a callback acts on it, delivers it whole."""
        peer = self.oracle.peer
        if self.oracle.tls and self.oracle.transport.is_closing():
            # asyncio drops what it has yet to send, and fails; taut sends that first, reading on
            return False
        return (
            not peer.shut
            and self.oracle.lost == 0
            and (peer.sent + size - len(self.oracle.data) <= 40_000 and peer.sent + size < 1 << 18)
        )

    @rule(size=st.sampled_from([1, 1000, 10_000, 40_000]))
    def peer_sends(self, size: int) -> None:
        if self.can_send(size):
            self.each(lambda world: world.peer.send(size))

    @rule(reads=st.booleans())
    def peer_reads(self, reads: bool) -> None:
        if not self.oracle.peer.closed:
            self.each(lambda world: setattr(world.peer, "reading", reads))

    @precondition(lambda self: not self.oracle.peer.closed)
    @rule(how=seldom(["shutdown", "close", "reset"]))
    def peer_ends(self, how: list[str]) -> None:
        if how and not (how == ["shutdown"] and self.oracle.peer.shut):
            self.each(lambda world: getattr(world.peer, how[0])())
