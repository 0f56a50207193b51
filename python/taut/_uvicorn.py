"""Stands in for uvicorn's ``uvicorn.loops.auto`` under ``taut run``.

uvicorn's default, "auto", means uvloop wherever that is installed. UVICORN_LOOP is only read by its
command line; a program that calls uvicorn.run(app) ends up here. A loop that is named explicitly
does not.
"""

from __future__ import annotations

from collections.abc import Callable

from ._policy import install
from ._portable import Loop
from ._runner import new_event_loop

__all__ = ["auto_loop_factory", "auto_loop_setup"]


def auto_loop_factory(use_subprocess: bool = False) -> Callable[[], Loop]:
    """What uvicorn from 0.36 on asks for: the function that makes its loop."""
    return new_event_loop


def auto_loop_setup(use_subprocess: bool = False) -> None:
    """What uvicorn before 0.36 asks for: to make asyncio.run use the loop."""
    install()
