"""What the worlds of the stateful tests share: a loop that is turned, a log, armed reactions."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant

import loops

QUIET_TURNS = 3
EXAMPLE_LIMIT_S = 120
#: So many times as many examples, by random seeds. 0: a usual run, the same examples every time.
LONG = int(os.environ.get("TAUT_TEST_LONG") or 0)


def bounded(examples: int, steps: int) -> settings:
    """The settings of a machine: so many examples of so many steps, or more (LONG)."""
    return settings(
        max_examples=examples * (10 * LONG or 1),
        stateful_step_count=steps,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


def fds() -> set[str]:
    """The open file descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


def shown(exc: BaseException | None) -> tuple[Any, ...] | None:
    """An exception as both loops must raise it. TLS: the reason, without the line of _ssl.c."""
    if exc is None:
        return None
    reason = getattr(exc, "reason", None)
    return (type(exc).__name__, reason if reason is not None else str(exc))


class Logged(logging.Handler):
    """What the loop logs: to the world whose turn it is."""

    def __init__(self, world: Base) -> None:
        super().__init__(logging.WARNING)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        self.world.log.append(("logged", record.getMessage()))


class Base:
    """One loop, one transport, and the log of what was called and what was called back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop: Any = loops.factory(name)()
        self.loop.set_exception_handler(self.fault)
        self.log: list[Any] = []
        self.protocols: list[Any] = []
        self.armed: dict[str, list[str]] = {}
        self.inside: list[str] = []  # callbacks that are running
        self.transport: Any = None
        self.lost = 0
        self.ended_in_resume = False
        self.handler = Logged(self)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """While this world has its turn, what loops log is its own."""
        logger = logging.getLogger("asyncio")
        logger.addHandler(self.handler)
        propagates, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = propagates
            logger.removeHandler(self.handler)

    # ---- turning ----------------------------------------------------------------------------

    def turn(self, function: Any = None, *args: Any) -> None:
        """One iteration of the loop, and in it the call."""
        if function is not None:
            self.loop.call_soon(function, *args)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def pump(self) -> None:
        """Lets the peers read."""

    def fingerprint(self) -> Any:
        """Changes whenever anything happens."""

    def on_its_way(self) -> str:
        """What the kernel or the loop must still bring, or nothing."""
        return ""

    def settle(self) -> None:
        """Turns until nothing is on its way and nothing has changed for some turns."""
        deadline = time.monotonic() + loops.DEADLINE_S
        quiet = 0
        while quiet < QUIET_TURNS:
            before = self.fingerprint()
            self.turn()
            self.pump()
            waits = self.on_its_way()
            unchanged = self.fingerprint() == before
            quiet = quiet + 1 if unchanged and not waits else 0
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} waits for {waits or 'quiet'}: {self.log[-20:]}")
            if waits and unchanged:  # the kernel's turn
                self.loop.call_later(0.001, self.loop.stop)
                self.loop.run_forever()

    def finish(self, coro: Any, play: Callable[[], None]) -> Any:
        """Runs a coroutine while the peers play their part. What it raises is noted: None."""
        task = self.loop.create_task(coro)
        deadline = time.monotonic() + loops.DEADLINE_S
        while not task.done():
            play()
            self.turn()
            assert time.monotonic() < deadline, (self.name, "not done", self.log)
        try:
            return task.result()
        except (OSError, RuntimeError, ZeroDivisionError) as exc:
            self.log.append(("refused", shown(exc)))
            return None

    # ---- callbacks --------------------------------------------------------------------------

    def fault(self, _loop: Any, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        message = context["message"]
        exc = context.get("exception")
        if self.name == "asyncio" and self.ended_in_resume and type(exc) is AttributeError:
            return  # asyncio ends such a connection twice; the second time nothing is there
        if message.startswith("Exception in callback"):  # of what, is each loop's own business
            message = "Exception in callback"
        self.log.append(("fault", message, shown(exc)))

    def note(self, event: str, *details: Any) -> bool | None:
        """A callback: into the log, then it acts as armed."""
        self.log.append((event, *details))
        return self.react(event)

    def react(self, event: str) -> bool | None:
        """What was armed for the event, once."""
        self.inside.append(event)
        try:
            for action in self.armed.pop(event, ()):
                if action == "raise":
                    raise ZeroDivisionError(event)
                if action == "keep":
                    return True
                self.operate(*action.split(":", 1))
        finally:
            self.inside.pop()
        return None

    # ---- calls ------------------------------------------------------------------------------

    def burst(self, operations: list[str]) -> None:
        """Several operations within one turn."""

        def go() -> None:
            for operation in operations:
                self.operate(*operation.split(":", 1))

        self.turn(go)

    def operate(self, name: str, argument: str = "") -> None:
        """One call of the transport, with its begin, its end and what it raised in the log."""
        self.log.append((">", name, argument))
        self.ended_in_resume |= "resume" in self.inside and name in ("close", "abort", "eof")
        try:
            getattr(self, "_do_" + name)(argument)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, OSError) as exc:
            self.log.append(("raised", name, shown(exc)))
        self.log.append(("<", name, self.transport.is_closing()))

    def show(self) -> dict[str, Any]:
        """The state after a step, and the events of that step."""
        raise NotImplementedError

    def check(self) -> None:
        """What must hold whatever the other world does."""
        assert self.lost <= 1, "connection_lost() twice"

    def end(self) -> None:
        """Ends the connection from both sides."""
        raise NotImplementedError

    def drop(self) -> None:
        """Gives everything back."""
        raise NotImplementedError


class Machine(RuleBasedStateMachine):
    """Holds two worlds together."""

    worlds: list[Any] = []

    def begin(self, make: Callable[[str], Base]) -> None:
        """Makes both worlds. conftest's limit holds for each example, not for all of them."""
        faulthandler.dump_traceback_later(EXAMPLE_LIMIT_S, exit=True, file=sys.__stderr__)
        self.before = fds()
        self.worlds = [make(name) for name in ("asyncio", "taut")]

    @property
    def oracle(self) -> Any:
        return self.worlds[0]

    def each(self, act: Callable[[Any], Any], settle: bool = True) -> None:
        """The same in both worlds."""
        for world in self.worlds:
            with world.current():
                act(world)
                if settle:
                    world.settle()
                    world.check()

    @invariant()
    def same(self) -> None:
        if not self.worlds:
            return
        expected, got = (world.show() for world in self.worlds)
        # How much the kernel takes is each socket's own affair: known when both worlds know it.
        unsure = {"buffer empty"} & (expected.keys() ^ got.keys())
        for key in ["events", *sorted((expected.keys() | got.keys()) - unsure)]:
            assert expected.get(key) == got.get(key), (
                f"{key}: asyncio {expected.get(key)!r}, taut {got.get(key)!r}"
            )

    def teardown(self) -> None:
        if not self.worlds:
            return
        try:
            self.each(lambda world: world.end(), settle=False)
            self.same()
        finally:
            for world in self.worlds:
                with world.current():
                    world.drop()
            self.worlds = []
        assert fds() == self.before, "a file descriptor is left"
