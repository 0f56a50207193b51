"""Who connects where: a note of each outgoing connection, for the doctor's rules about them.

A few microseconds for each, beside a system call or three; bounded memory.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from types import CodeType
from typing import Any, NamedTuple

from . import _core

#: So many of the latest are kept.
KEPT = 4096
_DEPTH_MAX = 60


class Site(NamedTuple):
    """A line of the program's own code."""

    code: CodeType
    line: int


class Made(NamedTuple):
    """An attempt to connect."""

    at: float  # time.monotonic()
    where: tuple[Any, ...]  # host and port, or the path
    site: Site | None  # of the program's own code, None: a library's task
    sock: weakref.ref[Any] | None  # None: it failed, ...
    errno: int | None = None  # ... with this

    @property
    def is_open(self) -> bool:
        """Whether the socket is still there and open."""
        sock = None if self.sock is None else self.sock()
        return sock is not None and sock.fileno() >= 0


made: deque[Made] = deque(maxlen=KEPT)


def site() -> Site | None:
    """The innermost line of the program's own that is running now."""
    frame = sys._getframe(2)
    for _ in range(_DEPTH_MAX):
        if _core.code_is_user(frame.f_code):
            return Site(frame.f_code, frame.f_lineno)
        outer = frame.f_back
        if outer is None or outer.f_code.co_name == "run_forever":
            break  # in a task that a library has made
        frame = outer
    return None


def note(address: Any, by: Site | None, sock: Any, errno: int | None = None) -> None:
    """An attempt to connect is over; `sock` None: it failed."""
    where = tuple(address[:2]) if isinstance(address, tuple) else (address,)
    ref = None if sock is None else weakref.ref(sock)
    made.append(Made(time.monotonic(), where, by, ref, errno))
