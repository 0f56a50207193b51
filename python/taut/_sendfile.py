"""Sending files: by sendfile(2) where it can be done, else by reading in an executor and writing.

Orchestration only: the kernel's path is in `taut._core` (loop_sendfile.c, stream_sendfile.c).
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.constants
import io
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import _core

_Mode: Any = asyncio.constants._SendfileMode
_Guard: Any = asyncio.base_events._SendfileFallbackProtocol  # type: ignore[attr-defined]


class Sendfile:
    """sendfile() and sock_sendfile() of `taut.Loop`."""

    if TYPE_CHECKING:
        get_debug: Any
        run_in_executor: Any
        sock_sendall: Any
        _check_sendfile_params: Any
        _sendfile_native: Any
        _sock_sendfile_native: Any
        _tls_send_file: Any

    async def sendfile(
        self,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send `count` bytes of a file (None: all) from `offset` on, and return how many were sent.

        Over TCP and Unix sockets sendfile(2) sends them, after what was written before. write()
        raises RuntimeError meanwhile, and so does another sendfile(). Over TLS, and for files that
        have no descriptor or that sendfile(2) refuses, they are read and written, unless `fallback`
        is false; then, as with asyncio, `offset` 0 is the file's current position up to Python
        3.13. Reading from the peer pauses. close() and abort() end it with ConnectionError. The
        file's position afterwards, also after an error or cancellation, is `offset` plus what was
        sent.

        An iteration of the loop sends at most 4 MiB. What is not in the page cache is first read
        in the default executor, so that the disk does not stall the loop; so is all of a file
        object that is not simply open(..., "rb")'s. On file systems that cannot say what is in
        memory (preadv2(2) with RWF_NOWAIT), sendfile(2) waits for the disk instead.

        Raises RuntimeError when the transport is closing or of another kind,
        asyncio.SendfileNotAvailableError (without `fallback`), OSError, and TypeError or
        ValueError for the file's mode, `offset` and `count`.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        mode = getattr(transport, "_sendfile_compatible", _Mode.UNSUPPORTED)
        if mode is _Mode.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is _Mode.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)  # type: ignore[no-any-return]
            except asyncio.SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                f"fallback is disabled and native sendfile is not supported for transport "
                f"{transport!r}"
            )
        return await self._sendfile_fallback(transport, file, offset, count)

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """As `sendfile()`, over a connected, non-blocking stream socket."""
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        asyncio.base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        self._check_sendfile_params(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(sock, file, offset, count)  # type: ignore[no-any-return]
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    async def _sendfile_fallback(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        _seek(file, offset)
        # In the protocol's place meanwhile: waits while the transport's buffer is full.
        guard = _Guard(transport)

        async def send(block: memoryview) -> None:
            await guard.drain()
            transport.write(block)

        try:
            fd = _descriptor(file) if isinstance(transport, _core.SSLTransport) else None
            if fd is not None and (not count or (isinstance(count, int) and count > 0)):
                return await self._send_descriptor(transport, guard, file, fd, offset, count)
            return await self._read_and_send(file, offset, count, send)
        finally:
            await guard.restore()

    async def _send_descriptor(
        self, transport: Any, guard: Any, file: Any, fd: int, offset: int, count: int | None
    ) -> int:
        """Over TLS, without a thread as long as the file is in the page cache."""
        start = file.tell()
        size = asyncio.constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        sent = 0

        def note(number: int) -> None:
            nonlocal sent
            sent += number

        try:
            while not count or sent < count:
                left = count - sent if count else None
                if await self._tls_send_file(transport, fd, start + sent, left, note):
                    break
                room = min(size, count - sent) if count else size
                block = await self.run_in_executor(None, os.pread, fd, room, start + sent)
                if not block:
                    break
                await guard.drain()
                transport.write(block)
                sent += len(block)
            return sent
        finally:
            if sent > 0:
                file.seek(offset + sent)

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        _seek(file, offset)

        async def send(block: memoryview) -> None:
            await self.sock_sendall(sock, block)

        return await self._read_and_send(file, offset, count, send)

    async def _read_and_send(
        self,
        file: Any,
        offset: int,
        count: int | None,
        send: Callable[[memoryview], Awaitable[None]],
    ) -> int:
        """Block by block, each read in the executor: a slow disk does not stall the loop."""
        size = asyncio.constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        buffer = memoryview(bytearray(min(count, size) if count else size))
        sent = 0
        try:
            while not count or sent < count:
                room = buffer[: count - sent] if count else buffer
                got = await self.run_in_executor(None, file.readinto, room)
                if not got:
                    break
                await send(room[:got])
                sent += got
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)


def _seek(file: Any, offset: int) -> None:
    """To where sending begins. Up to Python 3.13, 0 stands for where the file is."""
    if offset or (sys.version_info >= (3, 14) and hasattr(file, "seek")):
        file.seek(offset)


def _descriptor(file: Any) -> int | None:
    """The descriptor of a regular file, when reading that is the same as reading the object."""
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO or not raw.readable():
        return None
    file.flush()
    fd = raw.fileno()
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
