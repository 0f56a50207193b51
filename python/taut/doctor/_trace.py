"""The flight recorder's dump in Python."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from .._portable import NATIVE, say_once

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["dump"]


_names_known = False


def _name_tasks() -> None:
    """Lets a trace say what tasks are called, also where there is no console."""
    global _names_known
    from .. import _listing

    if not _names_known:
        _listing.enable()
        _names_known = True


def dump(file: str | os.PathLike[str] | IO[bytes] | None = None) -> bytes:
    """What the loops of this process did last, as a trace for ui.perfetto.dev.

    That is the latest 65,536 events of each loop: iterations and waits, steps of tasks, callbacks,
    I/O, timers, garbage collections, stalls. Tasks are tracks. ``taut dump PID`` writes the same
    from outside. With ``TAUT_RECORDER=0`` nothing is recorded.

    Args:
        file: a path, or a binary file that is open for writing, to which the trace is written.

    Returns:
        The trace: JSON in Chrome's format, some megabytes of it when much has happened.
    """
    if not NATIVE:
        say_once("nothing is recorded here: the doctor needs taut's extension, which is for Linux")
        text = b'{"traceEvents": []}\n'
    else:
        _name_tasks()
        text = _core.trace()
    if isinstance(file, (str, os.PathLike)):
        with open(file, "wb") as to:
            to.write(text)
    elif file is not None:
        file.write(text)
    return text
