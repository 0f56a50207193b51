"""TLS of `taut.Loop`: which implementation serves a connection, `start_tls`, and trust stores.

`taut._core.SSLTransport` serves every connection on a socket: with direct access to OpenSSL where
the context is proven to be the ssl module's own, else (a class that wraps a context, a Python whose
libssl cannot be reached, TAUT_TLS=memory in the environment) through ssl.MemoryBIO. TLS over a
transport of another kind, as TLS in TLS, runs asyncio's SSLProtocol.
`transport.get_extra_info("tls_path")` says which: "direct", "memory" or "asyncio".
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from . import _core

try:
    import ssl
except ImportError:  # a Python built without OpenSSL: as in asyncio, everything but TLS works
    ssl = None  # type: ignore[assignment]

_HANDSHAKE = b"\x16"  # the content type of a handshake record
_SSLProtocol: Any = asyncio.sslproto.SSLProtocol


class Tls:
    """The part of `taut.Loop` that makes TLS transports."""

    if TYPE_CHECKING:
        _make_socket_transport: Any
        _make_tls: Any
        call_soon: Any
        create_future: Any
        run_in_executor: Any

    def _tls_protocol(
        self,
        protocol: Any,
        sslcontext: Any,
        waiter: Any,
        server_side: bool,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        call_connection_made: bool,
        over: type = _core.Transport,
    ) -> tuple[Any, Any]:
        """(protocol for the socket's transport, transport for the user), not yet connected."""
        timeouts = {
            "ssl_handshake_timeout": handshake_timeout,
            "ssl_shutdown_timeout": shutdown_timeout,
        }
        if not sslcontext and not server_side:
            sslcontext = default_context(bool(server_hostname))
        # isinstance: what is none fails in SSLProtocol as it does in asyncio
        if over is _core.Transport and ssl is not None and isinstance(sslcontext, ssl.SSLContext):
            tls = self._make_tls(
                protocol, sslcontext, waiter, server_side=server_side,
                server_hostname=server_hostname, call_connection_made=call_connection_made,
                **timeouts,
            )
            return tls, tls
        foreign = _SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname,
            call_connection_made, **timeouts,
        )
        foreign._extra["tls_path"] = "asyncio"
        return foreign, foreign._app_transport

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
    ) -> Any:
        tls, transport = self._tls_protocol(
            protocol, sslcontext, waiter, server_side, server_hostname, ssl_handshake_timeout,
            ssl_shutdown_timeout, call_connection_made,
        )
        self._make_socket_transport(rawsock, tls, extra=extra, server=server)
        return transport

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Speak TLS on an open connection; the transport that `protocol` is to use from now on.

        A client's handshake that a server's StreamReader has buffered already is used. Raises
        TypeError for a context or a transport that does not fit, ssl.SSLError or
        ConnectionError when the handshake fails; the connection is closed then. None, as from
        asyncio, when the transport had been closed before.
        """
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls, secured = self._tls_protocol(
            protocol, sslcontext, waiter, server_side, server_hostname, ssl_handshake_timeout,
            ssl_shutdown_timeout, False, type(transport),
        )
        # Paused: nothing may reach `tls` before its connection_made().
        transport.pause_reading()
        transport.set_protocol(tls)
        begun: list[bool] = []
        made = self.call_soon(
            _connected, tls, transport, protocol if server_side else None, waiter, begun
        )
        resume = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resume.cancel()
            waiter = None  # which holds the exception, whose traceback holds this frame
            raise
        return secured if begun else None

    async def _resolve_context(self, context: Any, server_hostname: str | None) -> Any:
        """`ssl=True` as a context, whose trust store is read off the loop, and once."""
        if context is not True:
            return context
        check = bool(server_hostname)
        known = _defaults.get(_key(check))
        return known or await self.run_in_executor(None, default_context, check)


def _connected(
    tls: Any, transport: Any, protocol: Any, waiter: asyncio.Future[None], begun: list[bool]
) -> None:
    """Begins the handshake; `protocol`: whose StreamReader may have taken the client's first
    message for its own, because it came in one read with the last plain line."""
    if waiter.done():  # the connection is lost already
        return
    begun.append(True)
    tls.connection_made(transport)
    if not isinstance(protocol, asyncio.StreamReaderProtocol):
        return
    reader: Any = protocol._stream_reader  # type: ignore[attr-defined]
    # RFC 8446, 5.1 starts a record so. Plain text that nobody has read yet stays where it is, but
    # from 3.14 on, where asyncio takes it for the handshake, which fails.
    if reader is not None and (
        reader._buffer[:1] == _HANDSHAKE or (reader._buffer and sys.version_info >= (3, 14))
    ):
        early = bytes(reader._buffer)
        reader._buffer.clear()
        if isinstance(tls, _core.SSLTransport):
            tls._data_early(early)
        else:
            _feed(tls, early)


def _feed(tls: Any, data: bytes) -> None:
    """What get_buffer() and buffer_updated() do, for any size."""
    while data:
        room = tls.get_buffer(len(data))
        size = min(len(room), len(data))
        room[:size] = data[:size]
        tls.buffer_updated(size)
        data = data[size:]


_defaults: dict[tuple[Any, ...], Any] = {}
_lock = threading.Lock()


def _key(check_hostname: bool) -> tuple[Any, ...]:
    """What a default context depends on: the two variables that
    SSL_CTX_set_default_verify_paths(3) reads, and what truststore and tests put in place of ssl's.
    """
    files = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return check_hostname, *files, ssl.create_default_context, ssl.SSLContext


def default_context(check_hostname: bool = True) -> Any:
    """The context of `ssl=True`: ssl.create_default_context(), made once per process.

    Reading the system's trust store takes milliseconds: call it before the loop runs, or use
    `taut.ssl_context`.
    """
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    key = _key(check_hostname)
    with _lock:
        if key not in _defaults:
            context = ssl.create_default_context()
            if not check_hostname:
                context.check_hostname = False
            _defaults[key] = context
        return _defaults[key]


async def ssl_context(
    purpose: Any = None,
    *,
    cafile: str | None = None,
    capath: str | None = None,
    cadata: str | bytes | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    password: Any = None,
) -> Any:
    """An ssl.SSLContext made in a thread: reading certificates and keys does not stall the loop.

    `purpose`, `cafile`, `capath` and `cadata` are those of ssl.create_default_context() (default:
    a client's context with the system's trust store, which is shared: do not change it);
    `certfile`, `keyfile` and `password` those of SSLContext.load_cert_chain(). Raises what these
    two raise: ssl.SSLError, OSError (FileNotFoundError for a missing file).
    """
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    loop = asyncio.get_running_loop()
    plain = purpose in (None, ssl.Purpose.SERVER_AUTH)
    if plain and all(value is None for value in (cafile, capath, cadata, certfile)):
        return await loop.run_in_executor(None, default_context, True)

    def make() -> Any:
        context = ssl.create_default_context(
            purpose or ssl.Purpose.SERVER_AUTH, cafile=cafile, capath=capath, cadata=cadata
        )
        if certfile is not None:
            context.load_cert_chain(certfile, keyfile, password)
        return context

    return await loop.run_in_executor(None, make)
