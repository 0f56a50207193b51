"""Random sequences on datagram endpoints, with asyncio as the oracle."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from stateful_base import Machine, bounded
from stateful_dgram import DgramWorld
from stateful_machine import seldom

#: The last two are more than a datagram holds.
SIZES = st.sampled_from([0, 1, 700, 9_000, 20_000, 65_508, 100_000])
SENDS = st.builds(
    "sendto:{}*{}*{}".format,
    st.sampled_from(["bytes", "array", "view"]),
    SIZES,
    st.sampled_from(["-", "-", "0", "1"]),
)
LIMITS = ["-*-", "0*0", "1000*-", "100000*0", "-*10000"]
CALLS = st.sampled_from(["pause", "resume", "switch"])
OPERATIONS = st.one_of(SENDS, SENDS, SENDS, CALLS, st.sampled_from(LIMITS).map("limits:{}".format))
LAST = st.sampled_from([*[""] * 6, "pause", "close", "abort", "close sendto:bytes*700*-"])
BURSTS = st.builds(
    lambda first, last: first + last.split(), st.lists(OPERATIONS, min_size=1, max_size=5), LAST
)
SMALL = ["sendto:bytes*700*-", "sendto:view*9000*0"]
ENDS = ["close", "abort", "raise"]
REACTIONS = {
    "data": SMALL + ENDS + ["pause", "switch"],
    "error": SMALL + ENDS + ["switch"],
    "pause": SMALL + ENDS,
    "resume": SMALL + ["pause", "raise"],
    "lost": SMALL + ENDS + ["resume"],
}


def reactions(event: str) -> Any:
    actions = st.lists(st.sampled_from(REACTIONS[event]), min_size=1, max_size=2)
    return actions.map(lambda chosen: sorted(chosen, key=lambda action: action == "raise"))


class DgramMachine(Machine):
    kinds = ("udp", "connected")

    @initialize(made=seldom(SMALL + ENDS), choice=st.integers(0, 1))
    def connect(self, made: list[str], choice: int) -> None:
        kind = self.kinds[choice % len(self.kinds)]
        self.begin(lambda name: DgramWorld(name, kind))
        self.each(lambda world: world.armed.update(made=made), settle=False)
        self.each(DgramWorld.connect)

    @rule(operations=BURSTS)
    def operate(self, operations: list[str]) -> None:
        self.each(lambda world: world.burst(operations))

    @rule(count=st.sampled_from([8, 30]), operation=SENDS)
    def floods(self, count: int, operation: str) -> None:
        if "20000" not in operation and not self.oracle.may_fail(operation):
            self.each(lambda world: world.burst([operation] * count))

    @rule(
        event_and_actions=st.sampled_from(sorted(REACTIONS)).flatmap(
            lambda event: st.tuples(st.just(event), reactions(event))
        )
    )
    def arm(self, event_and_actions: tuple[str, list[str]]) -> None:
        event, actions = event_and_actions
        self.each(lambda world: world.armed.update({event: list(actions)}))

    @precondition(lambda self: self.oracle.lost == 0)
    @rule(which=st.integers(0, 1), sizes=st.lists(st.sampled_from([0, 1, 700, 9_000]), max_size=9))
    def peer_sends(self, which: int, sizes: list[int]) -> None:
        if not self.oracle.peers[which].closed:
            self.each(lambda world: world.peer_sends(which, sizes))

    @rule(reads=st.booleans())
    def peer_reads(self, reads: bool) -> None:
        if self.oracle.kind == "unix":  # a UDP socket that is not read drops
            self.each(lambda world: setattr(world.peers[0], "reading", reads))

    @rule(which=seldom(["0", "1"]))
    def peer_leaves(self, which: list[str]) -> None:
        if which and not self.oracle.peers[int(which[0])].closed:
            self.each(lambda world: world.peers[int(which[0])].close())


class UnixDgramMachine(DgramMachine):
    kinds = ("unix",)


TestDgram = DgramMachine.TestCase
TestDgram.settings = bounded(60, 15)
TestUnixDgram = UnixDgramMachine.TestCase
TestUnixDgram.settings = bounded(60, 15)
