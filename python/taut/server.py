"""`taut.server.Server`: the C server with its coroutine methods."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from . import _core


class Server(_core.Server, asyncio.AbstractServer):
    """A listening server, as `loop.create_server()` and `loop.create_unix_server()` return it.

    Accepts in C. Every method behaves as that of the running CPython's `asyncio.Server`;
    `close_clients()` and `abort_clients()` are there on every version.
    """

    async def start_serving(self) -> None:
        """Start to listen and accept; harmless when it already does. Raises OSError."""
        self._start_serving()
        # One turn of the loop, so that it accepts before the caller goes on.
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled, then close and wait for the open connections.

        From Python 3.14 on these are closed then, as by `close_clients()`.
        Raises RuntimeError when the server is closed or already served this way.
        """
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self.get_loop().create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            try:
                self.close()
                if sys.version_info >= (3, 14):
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever_fut = None

    async def wait_closed(self) -> None:
        """Wait until the server is closed and, from Python 3.12 on, its connections are gone.

        Up to Python 3.11 it returns at once when the server is closed, as asyncio's does.
        """
        waiter: Any = self._closed_waiter()
        if waiter is not None:
            await waiter

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await self.wait_closed()
