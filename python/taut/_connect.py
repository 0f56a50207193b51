"""Outgoing connections of `taut.Loop`: names to addresses, attempts in turn or in a race.

Orchestration only: each lookup, connect and transport is an operation of `taut._core`.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import itertools
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from asyncio.log import logger

from . import _connections

_base: Any = asyncio.base_events

# (family, type, proto, canonical name, address), as getaddrinfo gives it
AddrInfo = tuple[Any, Any, int, str, Any]


class Connect:
    """create_connection() and its kin."""

    if TYPE_CHECKING:
        create_future: Any
        create_task: Any
        get_debug: Any
        _sock_connect: Any
        _make_socket_transport: Any
        _make_ssl_transport: Any
        _resolve_context: Any

    _ensure_resolved = _base.BaseEventLoop._ensure_resolved

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect a non-blocking socket; host names in `address` are looked up first.

        Raises OSError as connect(2) has it; in debug mode ValueError for a blocking socket.
        """
        asyncio.base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        by = _connections.site()
        try:
            await self._sock_connect(sock, address)
        except OSError as exc:
            _connections.note(address, by, None, exc.errno)
            raise
        _connections.note(address, by, sock)

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[Any, Any]:
        """Connect to host and port (or take the connected `sock`); (transport, protocol).

        As asyncio's, with `all_errors` on every version. `happy_eyeballs_delay` (seconds, RFC 8305
        recommends 0.25) races the addresses; `interleave` mixes the families.
        Raises OSError when no address could be connected (ExceptionGroup with all_errors),
        ValueError for arguments that exclude each other.
        """
        server_hostname = _check_tls_arguments(
            ssl, host, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        if sock is not None:
            _base._check_ssl_socket(sock)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            by = _connections.site()
            infos, local_infos = await self._resolve_both(
                (host, port), local_addr, family, proto, flags
            )
            if happy_eyeballs_delay is not None and interleave is None:
                interleave = 1  # RFC 8305, section 4: alternate the families
            if interleave:
                infos = interleave_families(infos, interleave)
            try:
                sock = await self._connect_any(infos, local_infos, happy_eyeballs_delay, all_errors)
            except OSError as exc:
                _connections.note((host, port), by, None, exc.errno)
                raise
            _connections.note((host, port), by, sock)
        elif sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        else:
            sock.setblocking(False)
        transport, protocol = await self._create_connection_transport(
            sock, protocol_factory, ssl, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            logger.debug("%r connected to %s:%r: (%r, %r)",
                         transport.get_extra_info("socket"), host, port, transport, protocol)
        return transport, protocol

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connect to a Unix socket: its path, or a connected socket; (transport, protocol)."""
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
        else:
            _check_tls_arguments(
                None, None, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("no path and sock were specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
            sock.setblocking(False)
        result: tuple[Any, Any] = await self._create_connection_transport(
            sock, protocol_factory, ssl, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        return result

    async def connect_accepted_socket(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Serve a socket that was accepted elsewhere; (transport, protocol)."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        _check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        _base._check_ssl_socket(sock)
        sock.setblocking(False)
        transport, protocol = await self._create_connection_transport(
            sock, protocol_factory, ssl, "", server_side=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            logger.debug("%r handled: (%r, %r)", transport.get_extra_info("socket"), transport,
                         protocol)
        return transport, protocol

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], Any],
        ssl: Any,
        server_hostname: str | None,
        server_side: bool = False,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """A transport over a connected, non-blocking socket."""
        if ssl is True and not server_side:
            ssl = await self._resolve_context(ssl, server_hostname)
        protocol = protocol_factory()
        waiter = self.create_future()
        if ssl:
            transport = self._make_ssl_transport(
                sock, protocol, None if isinstance(ssl, bool) else ssl, waiter,
                server_side=server_side, server_hostname=server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        else:
            transport = self._make_socket_transport(sock, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            waiter = None  # which holds the exception, whose traceback holds this frame
            raise
        return transport, protocol

    async def _resolve_both(
        self, remote: Any, local: Any, family: int, proto: int, flags: int
    ) -> tuple[list[AddrInfo], list[AddrInfo] | None]:
        infos = await self._ensure_resolved(
            remote, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        if local is None:
            return infos, None
        local_infos = await self._ensure_resolved(
            local, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
        )
        if not local_infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos, local_infos

    async def _connect_any(
        self,
        infos: list[AddrInfo],
        local_infos: list[AddrInfo] | None,
        delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        errors: list[OSError] = []
        try:
            if delay is None:
                for info in infos:
                    sock = await self._try_connect(info, local_infos, errors)
                    if sock is not None:
                        return sock
            else:
                sock = await self._race(infos, local_infos, delay, errors)
                if sock is not None:
                    return sock
            raise _connect_error(errors, all_errors)
        finally:
            errors.clear()  # their tracebacks refer to this frame

    async def _try_connect(
        self, info: AddrInfo, local_infos: list[AddrInfo] | None, errors: list[OSError]
    ) -> socket.socket | None:
        """One attempt: the connected socket, or None with what went wrong added to `errors`."""
        family, kind, proto, _, address = info
        sock = None
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
            if local_infos is not None:
                _bind_local(sock, family, local_infos)
            await self._sock_connect(sock, address)  # resolved already
        except OSError as exc:
            if sock is not None:
                sock.close()
            errors.append(exc)
            return None
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        return sock

    async def _race(
        self,
        infos: list[AddrInfo],
        local_infos: list[AddrInfo] | None,
        delay: float,
        errors: list[OSError],
    ) -> socket.socket | None:
        """RFC 8305, section 5: the next attempt starts when one has failed or `delay` passed."""
        running: set[asyncio.Task[socket.socket | None]] = set()
        left = list(infos)
        winner: socket.socket | None = None
        try:
            while winner is None and (left or running):
                if left:
                    attempt = self._try_connect(left.pop(0), local_infos, errors)
                    running.add(self.create_task(attempt))
                done, running = await asyncio.wait(
                    running, timeout=delay if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    sock = task.result()
                    if winner is None:
                        winner = sock
                    elif sock is not None:
                        sock.close()
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_close_loser)
        return winner


def _close_loser(task: asyncio.Task[socket.socket | None]) -> None:
    if not task.cancelled() and task.exception() is None:
        sock = task.result()
        if sock is not None:
            sock.close()


def _check_tls_timeouts(ssl: Any, handshake: float | None, shutdown: float | None) -> None:
    if not ssl:
        if handshake is not None:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        if shutdown is not None:
            raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _check_tls_arguments(
    ssl: Any, host: Any, server_hostname: str | None, handshake: float | None,
    shutdown: float | None,
) -> str | None:
    """The server_hostname to use; ValueError for TLS arguments that do not fit."""
    if server_hostname is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if server_hostname is None and ssl:
        # The name to verify is the one that was asked for; "" says that there is none.
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        server_hostname = host
    _check_tls_timeouts(ssl, handshake, shutdown)
    return server_hostname


def _bind_local(sock: socket.socket, family: int, local_infos: list[AddrInfo]) -> None:
    errors: list[OSError] = []
    for local_family, _, _, _, address in local_infos:
        if local_family != family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as exc:
            errors.append(OSError(
                exc.errno,
                f"error while attempting to bind on address {address!r}: "
                f"{str(exc.strerror).lower()}",
            ))
    if errors:
        raise errors[-1]
    raise OSError(f"no matching local address with family={family!r} found")


def _connect_error(errors: list[OSError], all_errors: bool) -> BaseException:
    if all_errors:
        return ExceptionGroup("create_connection failed", errors)
    texts = {str(exc) for exc in errors}
    if len(texts) == 1:
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(str(exc) for exc in errors)}")


def interleave_families(infos: Iterable[AddrInfo], first_count: int) -> list[AddrInfo]:
    """The addresses with their families taking turns, `first_count` of the first one ahead."""
    by_family: dict[int, list[AddrInfo]] = {}
    for info in infos:
        by_family.setdefault(info[0], []).append(info)
    families = list(by_family.values())
    ahead = families[0][: first_count - 1]
    del families[0][: first_count - 1]
    rounds = itertools.zip_longest(*families)
    return ahead + [info for turn in rounds for info in turn if info is not None]
