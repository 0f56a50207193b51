"""Making and running loops: the counterparts of asyncio's functions of the same names."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from ._portable import NATIVE, Loop, say_if_fallback

__all__ = ["Runner", "new_event_loop", "run"]

_T = TypeVar("_T")

# Set by `taut run` (see _launch.py): called with each loop that new_event_loop makes.
on_new_loop: Callable[[asyncio.AbstractEventLoop], None] | None = None


def new_event_loop(tasks: Literal["own", "stdlib"] | None = None) -> Loop:
    """Return a new, idle event loop; the caller closes it.

    It is not made the current loop of the thread. On platforms without taut's extension it is
    asyncio's loop, which is said once on stderr. `tasks`: "own" for futures and tasks of taut's
    own, subclasses of asyncio's which start and wake in less time; "stdlib" for asyncio's; None
    (default) takes TAUT_TASKS of the environment, else "own". On a Python whose tasks taut does
    not know they are asyncio's. Raises ValueError for other values, OSError when file descriptors
    are out.
    """
    if tasks is not None and tasks not in ("own", "stdlib"):
        raise ValueError(f"tasks must be 'own', 'stdlib' or None, not {tasks!r}")
    say_if_fallback()
    loop = Loop()
    if tasks is not None and isinstance(getattr(loop, "_own_tasks", None), bool):
        loop._own_tasks = tasks == "own"
    if on_new_loop is not None:
        on_new_loop(loop)
    return loop


class Runner(asyncio.Runner):  # type: ignore[misc]  # typeshed calls it final; CPython allows it
    """`asyncio.Runner` on a taut loop.

    `debug`: None (default) leaves the loop's debug mode to PYTHONASYNCIODEBUG and ``-X dev``;
    True or False sets it. `loop_factory`: called without arguments to make the loop; None (default)
    means `new_event_loop`. As with any loop factory, the loop is not made the thread's current one
    while it is not running. Everything else, including the handling of Ctrl-C, is asyncio.Runner's.
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(
            debug=debug, loop_factory=new_event_loop if loop_factory is None else loop_factory
        )


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Run the coroutine `main` on a new taut loop and return its result.

    `debug`: as for `Runner`. Cancels what is left over, shuts down asynchronous generators and the
    default executor, and closes the loop. Raises what `main` raises; RuntimeError when a loop is
    running in this thread; what `asyncio.run` raises for an argument that is not a coroutine.
    """
    if events._get_running_loop() is not None:
        if NATIVE:
            from ._notices import notice

            notice("nested_run", "taut.run()")
        raise RuntimeError("taut.run() cannot be called from a running event loop")
    with Runner(debug=debug) as runner:
        return runner.run(main)
