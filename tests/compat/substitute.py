"""Gives one loop for another, in every way that a program gets its event loop.

The suites of other people are run unchanged; this is how a loop gets under them.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

Factory = Callable[[], asyncio.AbstractEventLoop]


def load_factory(spec: str) -> Factory:
    """The loop factory named ``module:attribute``."""
    module, _, attribute = spec.partition(":")
    factory: Factory = getattr(importlib.import_module(module), attribute)
    return factory


class Counter:
    """A loop factory that counts its loops."""

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.made = 0

    def __call__(self, *_selector: Any) -> asyncio.AbstractEventLoop:
        self.made += 1
        return self.factory()


class AsyncioLoops:
    """Counts the loops of asyncio's own that are made from now on, by whichever way."""

    def __init__(self) -> None:
        self.made = 0
        base: Any = asyncio.BaseEventLoop
        original = base.__init__

        def count(loop: Any, *args: Any, **kwargs: Any) -> None:
            self.made += 1
            original(loop, *args, **kwargs)

        base.__init__ = count


def substitute(counter: Counter) -> type:
    """A stand-in for ``asyncio.SelectorEventLoop``: calling it makes a loop of ours, and the
    loops of ours are its instances."""
    probe = counter.factory()
    kind = type(probe)
    probe.close()

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return counter()

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, kind)

    return Meta(asyncio.SelectorEventLoop.__name__, (), {})


def install(counter: Counter) -> None:
    """Every way of getting a loop (policy, runner, class) now gives one of the factory's."""
    from asyncio import unix_events

    policy: Any = unix_events._UnixDefaultEventLoopPolicy  # type: ignore[attr-defined]
    policy._loop_factory = counter
    asyncio.SelectorEventLoop = substitute(counter)  # type: ignore[misc]
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = asyncio.SelectorEventLoop
