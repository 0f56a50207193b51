"""Making taut's loop the one that asyncio's own functions create."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events

from ._portable import Loop
from ._runner import new_event_loop

__all__ = ["EventLoopPolicy", "install"]

# Python 3.14 warns when the public names of the policy machinery are touched; its private base
# class is the same thing without the warning.
if sys.version_info >= (3, 14):
    _Base = events._BaseDefaultEventLoopPolicy
else:
    _Base = asyncio.DefaultEventLoopPolicy


class EventLoopPolicy(_Base):  # type: ignore[misc, valid-type, unused-ignore]
    """An event loop policy whose loops are taut's; in all else the platform's default policy.

    For ``asyncio.set_event_loop_policy(taut.EventLoopPolicy())``. Policies are deprecated from
    Python 3.14 on, where `install` works without one.
    """

    def new_event_loop(self) -> Loop:
        """Return a new taut loop; see `taut.new_event_loop`."""
        return new_event_loop()


def install() -> None:
    """Make asyncio.run, asyncio.Runner and asyncio.new_event_loop use taut loops from now on.

    For the whole process and every thread; may be called again. Loops that exist already, and
    libraries that name another loop themselves (uvloop.run, a ``loop_factory``), are not affected.
    Up to Python 3.13 this sets the event loop policy; from 3.14 on, where policies are deprecated,
    it replaces the function by which asyncio makes loops.
    """
    if sys.version_info >= (3, 14):
        events.new_event_loop = new_event_loop
        asyncio.new_event_loop = new_event_loop
    elif not isinstance(asyncio.get_event_loop_policy(), EventLoopPolicy):
        asyncio.set_event_loop_policy(EventLoopPolicy())
