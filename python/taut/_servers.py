"""Servers that take uvloop by themselves wherever it is installed; under ``taut run``, taut.

Each adapter changes only what its server does when nobody has named a loop; a loop that is named
explicitly is used. A server whose insides are not as expected is left alone: the line that
``taut run`` prints then says which loop it runs on. uvicorn has a module of its own for this, see
_uvicorn.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ._portable import Loop
from ._runner import new_event_loop

__all__ = ["adapt_when_imported"]


def _current_loop() -> Loop:
    """A new loop, current in this thread: what the loop builders of these servers return."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _granian(module: Any) -> None:
    """``--loop auto``, the default, looks for rloop and uvloop."""
    module.loops.register("auto")(_current_loop)


def _gunicorn(module: Any) -> None:
    """The worker class "asgi" looks for uvloop unless ``--asgi-loop`` says otherwise."""
    worker = module.ASGIWorker
    setup = worker._setup_event_loop

    def setup_event_loop(self: Any) -> None:
        if self.cfg.asgi_loop == "auto":
            self.loop = _current_loop()
        else:
            setup(self)

    worker._setup_event_loop = setup_event_loop


def _sanic(module: Any) -> None:
    """Without a configured USE_UVLOOP, uvloop's policy replaces the one that is there."""
    mixin = module.StartupMixin
    setup = mixin.setup_loop

    def setup_loop(self: Any) -> None:
        if isinstance(self.config.USE_UVLOOP, bool):
            setup(self)

    mixin.setup_loop = setup_loop


_ADAPTERS: dict[str, Callable[[Any], None]] = {
    "granian._loops": _granian,
    "gunicorn.workers.gasgi": _gunicorn,
    "sanic.mixins.startup": _sanic,
}


class _Finder:
    """Lets the other finders find a module of _ADAPTERS, and adapts it after it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        adapt = _ADAPTERS.get(name)
        if adapt is None:
            return None
        spec = _next_spec(self, name, path, target)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_adapt(module: ModuleType) -> None:
            exec_module(module)
            try:
                adapt(module)
            except AttributeError:
                pass  # another version: as the module's docstring says

        spec.loader.exec_module = exec_and_adapt  # type: ignore[method-assign]
        return spec


def _next_spec(
    own: _Finder, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find is not None and finder is not own else None
        if spec is not None:
            return spec  # type: ignore[no-any-return, unused-ignore]
    return None


def adapt_when_imported() -> None:
    """Adapt these servers in this process, as soon as they are imported; may be called again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
