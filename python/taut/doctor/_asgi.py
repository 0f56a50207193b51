"""The middleware that tells the doctor of an ASGI application's requests, for use by hand."""

from __future__ import annotations

from typing import Any

from .. import _routes

__all__ = ["asgi"]


def asgi(app: Any) -> Any:
    """An ASGI application that does what `app` does, and whose requests are counted by route.

    ``taut run`` does this by itself for the applications of uvicorn, hypercorn, gunicorn and
    granian. By hand: ``app = taut.doctor.asgi(app)``, or ``app.add_middleware(taut.doctor.asgi)``.
    Doing it twice counts once.

    Args:
        app: an ASGI 3 application. What it returns and raises goes through as it is, and so do
            scopes other than ``http`` and ``websocket``.
    """
    return _routes.middleware(app)
