"""What `taut.Loop` tells in debug mode, and of callbacks that failed."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.format_helpers
import socket
from typing import TYPE_CHECKING, Any

from asyncio.log import logger

_format_source: Any = asyncio.format_helpers._format_callback_source
_format_handle: Any = asyncio.base_events._format_handle  # type: ignore[attr-defined]
# Later versions keep arguments, which may be secrets, out of the text unless told otherwise.
_TAKES_DEBUG = "debug" in (_format_source.__kwdefaults__ or ())


class Debug:
    """Log lines and reports; called by `_core`, each at most once per event that it tells of."""

    if TYPE_CHECKING:
        _getaddrinfo: Any
        call_exception_handler: Any
        get_debug: Any
        slow_callback_duration: float
        time: Any

    def _callback_failed(self, handle: Any, exc: BaseException) -> None:
        """Report what a callback raised, in the words of asyncio.Handle."""
        context: dict[str, Any] = {"message": "Exception in callback", "exception": exc}
        if handle is not None:
            options = {"debug": self.get_debug()} if _TAKES_DEBUG else {}
            args = handle._args if handle._args is not None else ()
            source = _format_source(handle._callback, args, **options)
            context["message"] = f"Exception in callback {source}"
            context["handle"] = handle
            if handle._source_traceback:
                context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _callback_slow(self, handle: Any, seconds: float) -> None:
        self._say_slow(_format_handle(handle), seconds)

    def _call_slow(self, owner: Any, name: str, about: Any, seconds: float) -> None:
        """As for callbacks, of a method that was called without one."""
        self._say_slow(f"{type(owner).__qualname__}.{name}() of {about!r}", seconds)

    def _say_slow(self, what: str, seconds: float) -> None:
        logger.warning("Executing %s took %.3f seconds", what, seconds)

    def _log_accepted(self, server: Any, fd: int, peer: Any) -> None:
        conn = socket.socket(fileno=fd)
        try:
            logger.debug("%r got a new connection from %r: %r", server, peer, conn)
        finally:
            conn.detach()

    async def _getaddrinfo_logged(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """getaddrinfo() with its question, its answer and the time that it took."""
        asked = f"{host}:{port!r}"
        for name, value in ("family", family), ("type", type), ("proto", proto), ("flags", flags):
            if value:
                asked += f", {name}={value!r}"
        logger.debug("Get address info %s", asked)
        began = self.time()
        found = await self._getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )
        seconds = self.time() - began
        log = logger.info if seconds >= self.slow_callback_duration else logger.debug
        log(f"Getting address info {asked} took {seconds * 1e3:.3f}ms: {found!r}")
        return found
