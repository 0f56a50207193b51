"""The one place that decides which loop class this machine gets.

Linux on x86-64 and aarch64 has the C loop. There, an extension that is missing or does not load is
an error: a service must not fall back to a slower, unwatched loop unnoticed. Anywhere else `Loop`
is the platform's own asyncio loop, so that the same program also runs on a laptop, and the first
loop made says so on stderr.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

__all__ = ["NATIVE", "Loop", "say", "say_if_fallback", "say_once"]

# Annotated as str so that the type checker looks at the branches of every platform.
_PLATFORM: str = sys.platform


def _native() -> bool:
    return _PLATFORM == "linux" and os.uname().machine in ("x86_64", "aarch64")


def _load_core() -> None:
    try:
        importlib.import_module("taut._core")
    except ModuleNotFoundError as exc:
        if exc.name != "taut._core":
            raise
        where = os.path.dirname(os.path.abspath(__file__))
        raise ImportError(
            f"taut's extension module (taut._core) for Python {sys.version_info.major}."
            f"{sys.version_info.minor} is missing from {where}: install taut with this Python "
            "(pip install taut)",
            name="taut._core",
        ) from None


NATIVE: bool = _native()
"""True where taut's own loop runs; False where `Loop` is asyncio's."""

if TYPE_CHECKING:
    from .loop import Loop as Loop
elif NATIVE:
    _load_core()
    from .loop import Loop
elif _PLATFORM == "win32":
    Loop = asyncio.ProactorEventLoop
else:
    Loop = asyncio.SelectorEventLoop

_said: set[str] = set()


def say(line: str, stream: TextIO | None = None) -> None:
    """Write ``taut: <line>`` to stderr (or `stream`); a closed or absent stderr is no error."""
    out = sys.stderr if stream is None else stream
    try:
        out.write(f"taut: {line}\n")
        out.flush()
    except (AttributeError, OSError, ValueError):
        pass


def say_once(line: str) -> None:
    """`say` it on stderr, the first time in this process."""
    if line not in _said:
        _said.add(line)
        say(line)


def say_if_fallback() -> None:
    """Once per process: a line on stderr when loops are asyncio's for want of the extension."""
    if NATIVE:
        return
    machine = os.uname().machine if hasattr(os, "uname") else "this machine"
    say_once(
        f"no native loop for {_PLATFORM} on {machine}; running on asyncio "
        f"({Loop.__name__}), without stall reports"
    )
