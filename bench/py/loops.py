"""The event loops that are compared, by name."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable

Factory = Callable[[], asyncio.AbstractEventLoop]

#: In the order of the tables. The module of each has a function new_event_loop.
LOOPS = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "rloop": "rloop",
    "rsloop": "rsloop",
    "zuvloop": "zuvloop",
    "taut": "taut",
    "taut-stdlib": "taut",
}
REFERENCE = "uvloop"
OURS = "taut"
#: taut with asyncio's own tasks: compared where tasks run.
STDLIB = "taut-stdlib"
RIVALS = tuple(name for name in LOOPS if name not in (OURS, STDLIB))
#: Replaces a loop's transports; compared where TLS is, on uvloop.
AIOFASTNET = "aiofastnet"
#: taut where it does not reach OpenSSL directly, but goes through ssl.MemoryBIO.
MEMORY = "taut-memory"
TASKS = {OURS: "own", STDLIB: "stdlib"}


def factory(name: str) -> Factory:
    """The function that makes a loop of that name; ImportError where it is not installed."""
    if name == AIOFASTNET:
        wrapper = importlib.import_module(AIOFASTNET)
        wrapped: Factory = wrapper.loop_factory(factory(REFERENCE))
        return wrapped
    if name == MEMORY:
        os.environ["TAUT_TLS"] = "memory"
        return factory(OURS)
    make: Factory = importlib.import_module(LOOPS[name]).new_event_loop
    if name in TASKS and "tasks" in inspect.signature(make).parameters:  # a BASE may not have it
        return functools.partial(make, tasks=TASKS[name])  # type: ignore[call-arg]
    return make


def installed() -> list[str]:
    return [name for name, module in LOOPS.items() if importlib.util.find_spec(module)]


def without_tasks(loops: list[str]) -> list[str]:
    """Of these loops those that differ where no task runs."""
    return [name for name in loops if name != STDLIB]


def over_tls(loops: list[str]) -> list[str]:
    """Of these loops those whose TLS is compared, and what is compared on TLS alone."""
    names = [name for name in without_tasks(loops) if name != "rloop"]
    if OURS in loops:
        names.append(MEMORY)
    if REFERENCE in loops and importlib.util.find_spec(AIOFASTNET):
        names.append(AIOFASTNET)
    return names
