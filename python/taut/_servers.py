"""Servers that take uvloop by themselves wherever it is installed; under ``taut run``, taut. And
the applications that servers run, whose requests are told of by route (_routes.py).

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

from . import _routes
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
    if _routes.are_wanted():
        load = worker.load_wsgi

        def load_wsgi(self: Any) -> None:
            load(self)
            self.asgi = _routes.middleware(self.asgi)

        worker.load_wsgi = load_wsgi


def _sanic(module: Any) -> None:
    """Without a configured USE_UVLOOP, uvloop's policy replaces the one that is there."""
    mixin = module.StartupMixin
    setup = mixin.setup_loop

    def setup_loop(self: Any) -> None:
        if isinstance(self.config.USE_UVLOOP, bool):
            setup(self)

    mixin.setup_loop = setup_loop


def _uvicorn(module: Any) -> None:
    """Its workers load their application here, too."""
    config = module.Config
    load = config.load

    def load_and_wrap(self: Any) -> None:
        load(self)
        self.loaded_app = _routes.middleware(self.loaded_app)

    config.load = load_and_wrap


def _hypercorn(module: Any) -> None:
    """The task of a request is made by the connection's, so that nothing says when it came."""
    wrapper = module.ASGIWrapper
    init = wrapper.__init__

    def init_wrapped(self: Any, app: Any) -> None:
        init(self, _routes.middleware(app, arrived=True))

    wrapper.__init__ = init_wrapped


def _granian_asgi(module: Any) -> None:
    wrap = module._callback_wrapper

    def wrap_callback(callback: Any, *args: Any, **kwargs: Any) -> Any:
        return wrap(_routes.middleware(callback, arrived=True), *args, **kwargs)

    module._callback_wrapper = wrap_callback


def _aiohttp(module: Any) -> None:
    _routes.adapt_aiohttp(module.Application)


_ADAPTERS: dict[str, Callable[[Any], None]] = {
    "granian._loops": _granian,
    "gunicorn.workers.gasgi": _gunicorn,
    "sanic.mixins.startup": _sanic,
}
_ROUTE_ADAPTERS: dict[str, Callable[[Any], None]] = {
    "aiohttp.web_app": _aiohttp,
    "granian.asgi": _granian_asgi,
    "hypercorn.app_wrappers": _hypercorn,
    "uvicorn.config": _uvicorn,
}


class _Finder:
    """Lets the other finders find a module, and adapts it after it has run."""

    def __init__(self) -> None:
        self._adapters = _ADAPTERS | (_ROUTE_ADAPTERS if _routes.are_wanted() else {})

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        adapt = self._adapters.get(name)
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
