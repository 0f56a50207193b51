"""Requests by route: a small ASGI middleware, and its like for aiohttp.web.

What the doctor needs to know is which task works for which request, and what route that is. The
first is told when a request begins and ends, the second is asked for later: a router knows it only
once it was called. What is counted is in taut._core (binding/request.h).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._portable import NATIVE

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["Middleware", "adapt_aiohttp", "are_wanted", "middleware"]

#: Others count as "OTHER": a client can send any word.
_METHODS = {
    name: name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
}
_NO_ROUTE = "(no route)"
_SEGMENTS_MAX = 8
_VARIES = re.compile(r"\d+|(?=.*\d)[0-9A-Fa-f-]{8,}|.{40,}", re.DOTALL)


def are_wanted() -> bool:
    """Whether servers under ``taut run`` get the middleware: not with ``TAUT_ROUTES=0``."""
    return NATIVE and os.environ.get("TAUT_ROUTES", "").strip().lower() not in ("0", "off")


class Middleware:
    """An ASGI application that calls `app`, and tells the doctor which requests are under way.

    Whatever `app` does, returns or raises is what this does; other attributes are those of `app`.
    """

    def __init__(self, app: Any, arrived: bool = False) -> None:
        self.app = app
        self._arrived = arrived

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        kind = scope["type"]
        if kind == "http":
            method = _METHODS.get(scope.get("method"), "OTHER")
        elif kind == "websocket":
            method = "WEBSOCKET"
        else:
            return await self.app(scope, receive, send)
        request = _core.request_begin(scope, method, scope.get("path"), _asgi_route, self._arrived)
        try:
            return await self.app(scope, receive, send)
        finally:
            _core.request_end(request)

    def __getattr__(self, name: str) -> Any:
        if name == "app":  # of an instance that was never initialised
            raise AttributeError(name)
        return getattr(self.app, name)


def middleware(app: Any, arrived: bool = False) -> Any:
    """`app` within :class:`Middleware`; itself where nothing can be counted.

    `arrived`: the server calls the application in the turn of the loop in which the request came.
    """
    return Middleware(app, arrived) if NATIVE and not isinstance(app, Middleware) else app


def _asgi_route(scope: Any, last: bool) -> str | None:
    """The route as a template, by what routers leave in the scope; None: not known yet."""
    fastapi = scope.get("fastapi")
    included = None if fastapi is None else fastapi.get("effective_route_context")
    route = scope.get("route")
    if included is not None:  # a router that FastAPI has included knows nothing of its prefix
        path = getattr(included.starlette_route, "path", None) or included.path_format
    elif route is not None:
        path = getattr(route, "path", None)
    else:
        path = scope.get("path_template")  # Litestar
    prefix = ""
    if "app_root_path" in scope:  # Starlette's mounts take their part off the path
        prefix = _prefix(scope)
        if type(route).__name__ == "Mount":
            return f"{prefix}/*" if last else None
    if isinstance(path, str):
        return prefix + path
    if not last:
        return None
    return _NO_ROUTE if "router" in scope else _without_values(scope["path"])


def _prefix(scope: Any) -> str:
    """Where mounts have got to, with the names of their parameters."""
    root: str = scope["root_path"].removeprefix(scope["app_root_path"])
    names = {str(value): name for name, value in scope.get("path_params", {}).items()}
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in root.split("/"))


def _without_values(path: str) -> str:
    """A path of which nobody says the route: what looks like an id becomes ``{}``."""
    parts = path.split("/", _SEGMENTS_MAX)
    return "/".join("{}" if _VARIES.fullmatch(part) else part for part in parts[:_SEGMENTS_MAX])


def _aiohttp_route(request: Any, last: bool) -> str | None:
    match = request._match_info
    if match is None:
        return _NO_ROUTE if last else None
    resource = match.route.resource
    canonical: str = _NO_ROUTE if resource is None else resource.canonical
    return canonical


def adapt_aiohttp(application: Any) -> None:
    """Makes the class aiohttp.web.Application tell of its requests."""
    handle: Callable[[Any, Any], Any] = application._handle

    async def _handle(self: Any, request: Any) -> Any:
        upgrades = getattr(request._message, "upgrade", False)
        method = "WEBSOCKET" if upgrades else _METHODS.get(request.method, "OTHER")
        told = _core.request_begin(request, method, request.path, _aiohttp_route, True)
        try:
            return await handle(self, request)
        finally:
            _core.request_end(told)

    application._handle = _handle
