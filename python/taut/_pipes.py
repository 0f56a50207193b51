"""Pipes of `taut.Loop`: the protocol, its transport in C, and the wait until both are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncio.log import logger


class Pipes:
    """connect_read_pipe() and connect_write_pipe().

    The transport closes `pipe` in the end, and gives it back the blocking mode that it came with.
    Terminals and anonymous pipes that are a standard stream of the process are not switched at
    all, so that print() and the processes that share them never meet BlockingIOError.
    """

    if TYPE_CHECKING:
        create_future: Any
        get_debug: Any
        _make_read_pipe_transport: Any
        _make_write_pipe_transport: Any

    async def connect_read_pipe(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], pipe: Any
    ) -> tuple[Any, Any]:
        """Read from `pipe`: an object with fileno() and close(), for a pipe, FIFO, socket or
        character device (a terminal, say); (transport, protocol).

        Raises ValueError for anything else, OSError when the descriptor is closed.
        """
        return await self._connect_pipe(
            "Read", self._make_read_pipe_transport, protocol_factory, pipe
        )

    async def connect_write_pipe(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], pipe: Any
    ) -> tuple[Any, Any]:
        """Write to `pipe`, which is as for connect_read_pipe(); (transport, protocol).

        Raises ValueError for anything else, OSError when the descriptor is closed.
        """
        return await self._connect_pipe(
            "Write", self._make_write_pipe_transport, protocol_factory, pipe
        )

    async def _connect_pipe(
        self, kind: str, make: Any, protocol_factory: Callable[[], Any], pipe: Any
    ) -> tuple[Any, Any]:
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = make(pipe, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            waiter = None  # which holds the exception, whose traceback holds this frame
            raise
        if self.get_debug():
            logger.debug("%s pipe %r connected: (%r, %r)", kind, pipe.fileno(), transport, protocol)
        return transport, protocol
