"""Datagram endpoints of `taut.Loop`: names to addresses, sockets made, bound and connected.

Orchestration only: lookups, connects and the transport are operations of `taut._core`.
"""

from __future__ import annotations

import asyncio
import socket
import stat
import sys
from collections.abc import Callable
from os import remove  # by name, as in loop.py
from os import stat as stat_of
from typing import TYPE_CHECKING, Any

from asyncio.log import logger

# ((family, protocol), (local address or None, remote address or None))
Choice = tuple[tuple[int, int], tuple[Any, Any]]


class Datagrams:
    """create_datagram_endpoint()."""

    if TYPE_CHECKING:
        create_future: Any
        get_debug: Any
        sock_connect: Any
        _ensure_resolved: Any
        _make_datagram_transport: Any

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[Any, Any]:
        """Open a datagram socket (or take `sock`); (transport, protocol).

        `local_addr` and `remote_addr`: (host, port), or paths with `family=socket.AF_UNIX`; a stale
        socket file at `local_addr` is replaced. With `allow_broadcast` the socket is not connected
        to `remote_addr`, which is only where datagrams go.
        Raises OSError when no address could be used (the first attempt's), ValueError or TypeError
        for arguments that do not fit.
        """
        address = None
        if sock is not None:
            _check_socket(sock, {
                "local_addr": local_addr, "remote_addr": remote_addr, "family": family,
                "proto": proto, "flags": flags, "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            })  # fmt: skip
            sock.setblocking(False)
        else:
            choices = await self._datagram_choices(local_addr, remote_addr, family, proto, flags)
            sock, address = await self._datagram_socket(
                choices, bool(local_addr), bool(remote_addr), reuse_port, allow_broadcast
            )
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, address, waiter)
        if self.get_debug():
            if local_addr:
                logger.info("Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                            local_addr, remote_addr, transport, protocol)
            else:
                logger.debug("Datagram endpoint remote_addr=%r created: (%r, %r)",
                             remote_addr, transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            waiter = None  # which holds the exception, whose traceback holds this frame
            raise
        return transport, protocol

    async def _datagram_choices(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[Choice]:
        """Every combination of family and protocol to be tried, in order."""
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [((family, proto), (None, None))]
        if family == socket.AF_UNIX:
            for path in (local_addr, remote_addr):
                if path is not None and not isinstance(path, str):
                    raise TypeError("string is expected")
            if local_addr and local_addr[0] != "\x00":  # not an abstract name
                _remove_stale(local_addr)
            return [((family, proto), (local_addr, remote_addr))]
        found: dict[tuple[int, int], list[Any]] = {}
        for index, addr in enumerate((local_addr, remote_addr)):
            if addr is None:
                continue
            if not (isinstance(addr, tuple) and len(addr) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._ensure_resolved(
                addr, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for found_family, _, found_proto, _, address in infos:
                found.setdefault((found_family, found_proto), [None, None])[index] = address
        choices = [
            (key, (local, remote))
            for key, (local, remote) in found.items()
            if not ((local_addr and local is None) or (remote_addr and remote is None))
        ]
        if not choices:
            raise ValueError("can not get address information")
        return choices

    async def _datagram_socket(
        self,
        choices: list[Choice],
        bind: bool,
        connect: bool,
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> tuple[socket.socket, Any]:
        """The first socket that could be set up, and the remote address."""
        errors: list[OSError] = []
        try:
            for (family, proto), (local, remote) in choices:
                sock = None
                try:
                    sock = socket.socket(family, socket.SOCK_DGRAM, proto)
                    if reuse_port:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if bind:
                        sock.bind(local)
                    if connect and not allow_broadcast:
                        await self.sock_connect(sock, remote)
                    return sock, remote if connect else None
                except OSError as exc:
                    if sock is not None:
                        sock.close()
                    errors.append(exc)
                except BaseException:
                    if sock is not None:
                        sock.close()
                    raise
            raise errors[0]
        finally:
            errors.clear()  # their tracebacks refer to this frame


def _check_socket(sock: socket.socket, options: dict[str, Any]) -> None:
    if sys.version_info >= (3, 13):
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
    elif sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    if problems:
        raise ValueError(
            f"socket modifier keyword arguments can not be used when sock is specified. "
            f"({problems})"
        )


def _remove_stale(path: str) -> None:
    try:
        if stat.S_ISSOCK(stat_of(path).st_mode):
            remove(path)
    except FileNotFoundError:
        pass
    except OSError as exc:  # a directory that lets sockets be made, and nothing removed
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
