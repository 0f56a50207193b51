"""The event loops that are compared, by name."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Callable

#: In the order of the tables. The module of each has a function new_event_loop.
LOOPS = {"asyncio": "asyncio", "uvloop": "uvloop", "rloop": "rloop", "taut": "taut"}
REFERENCE = "uvloop"
#: Replaces a loop's transports; compared where TLS is, on uvloop.
AIOFASTNET = "aiofastnet"
#: taut where it does not reach OpenSSL directly, but goes through ssl.MemoryBIO.
MEMORY = "taut-memory"


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The function that makes a loop of that name; ImportError where it is not installed."""
    if name == AIOFASTNET:
        wrapper = importlib.import_module(AIOFASTNET)
        wrapped: Callable[[], asyncio.AbstractEventLoop] = wrapper.loop_factory(factory(REFERENCE))
        return wrapped
    if name == MEMORY:
        os.environ["TAUT_TLS"] = "memory"
        return factory("taut")
    make: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        LOOPS[name]
    ).new_event_loop
    return make


def installed() -> list[str]:
    return [name for name, module in LOOPS.items() if importlib.util.find_spec(module)]


def over_tls(loops: list[str]) -> list[str]:
    """Of these loops those whose TLS is compared, and what is compared on TLS alone."""
    names = [name for name in loops if name != "rloop"]
    if "taut" in loops:
        names.append(MEMORY)
    if REFERENCE in loops and importlib.util.find_spec(AIOFASTNET):
        names.append(AIOFASTNET)
    return names
