"""`taut.Loop`: the C loop with the methods that only orchestrate.

Per event, per byte and per callback everything runs in `taut._core`; what is here runs once per
run, per connection attempt or per server.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import errno
import gc
import os
import socket
import stat
import sys
import threading
import warnings
import weakref
from collections.abc import Callable

# By name: what forbids blocking calls in coroutines (blockbuster) replaces them in the module, and
# makes exceptions for asyncio only.
from os import remove, unlink
from os import stat as stat_of
from typing import Any

from asyncio import format_helpers
from asyncio.log import logger

from . import _core, _notices, _tasks
from ._connect import Connect
from ._datagram import Datagrams
from ._debug import Debug
from ._pipes import Pipes
from ._sendfile import Sendfile
from ._signals import Signals
from ._subprocess import Subprocesses
from ._tls import Tls
from .server import Server

_Base: Any = asyncio.base_events.BaseEventLoop


class Loop(  # type: ignore[misc]  # typeshed: reuse_address, which CPython 3.11 has removed
    _core.Loop, Connect, Datagrams, Debug, Pipes, Sendfile, Signals, Subprocesses, Tls,
    asyncio.AbstractEventLoop,
):
    """An asyncio event loop in C.

    Made by `taut.new_event_loop()`. Every method behaves as the running CPython's
    `asyncio.SelectorEventLoop` has it, unless its docstring says otherwise. In addition:
    `stall_threshold` (seconds, None for off) is how long one callback may run before the line that
    it runs is reported on stderr.
    """

    def __init__(self) -> None:
        self._coroutine_origin_tracking_enabled = False
        self._coroutine_origin_tracking_saved_depth: int | None = None
        self._exception_handler: Any = None
        self._default_executor: Any = None
        self._executor_shutdown_called = False
        self._asyncgens: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asyncgens_shutdown_called = False
        self._signal_handlers: dict[int, asyncio.Handle] = {}
        self._signals_lent: tuple[int, int, int] | None = None
        self._unix_server_sockets: dict[socket.socket, int] = {}
        self._clock_resolution = 1e-9
        if sys.flags.dev_mode or (
            not sys.flags.ignore_environment and os.environ.get("PYTHONASYNCIODEBUG")
        ):
            self.set_debug(True)
        self._made_at: Any = None
        if self.get_debug():
            self._made_at = format_helpers.extract_stack()
            del self._made_at[-1]  # this frame

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self.is_closed():
            return
        message = f"unclosed event loop {self!r}"
        if self._made_at:
            stack = "".join(self._made_at.format()).rstrip()
            message += f", created at (most recent call last):\n{stack}"
        _warn(message, ResourceWarning, source=self)
        if not self.is_running():
            self.close()

    def __repr__(self) -> str:
        return (
            f"<{self.__class__.__name__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # ---- running --------------------------------------------------------------------------

    run_until_complete = _Base.run_until_complete
    shutdown_asyncgens = _Base.shutdown_asyncgens
    shutdown_default_executor = _Base.shutdown_default_executor
    _do_shutdown = _Base._do_shutdown
    _asyncgen_firstiter_hook = _Base._asyncgen_firstiter_hook
    _asyncgen_finalizer_hook = _Base._asyncgen_finalizer_hook
    _set_coroutine_origin_tracking = _Base._set_coroutine_origin_tracking

    def run_forever(self) -> None:
        """Run until `stop()`.

        Raises RuntimeError when closed, already running, or when another loop runs in this thread.
        """
        self._check_closed()
        self._check_running()
        old_hooks = sys.get_asyncgen_hooks()
        old_wakeup_fd = self._take_signals()
        self._set_coroutine_origin_tracking(self.get_debug())
        watch = _notices.shutdown_watch(self)
        try:
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            # Looked up in the module at each run: programs replace it there.
            asyncio.events._set_running_loop(self)
            self._run()
        finally:
            asyncio.events._set_running_loop(None)
            if watch is not None:
                watch.end()
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)
            self._return_signals(old_wakeup_fd)

    def _profiled(self) -> None:
        """The core calls this between callbacks and waits while a profile function is set."""

    def _check_running(self) -> None:
        if self.is_running():
            if asyncio._get_running_loop() is self:
                _notices.notice("nested_run", "Running a loop")
            raise RuntimeError(f"This event loop is already running{self._of_parent()}")
        if asyncio._get_running_loop() is not None:
            _notices.notice("nested_run", "Running a loop")
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def _of_parent(self) -> str:
        if self._runs_in_parent():
            return " (it runs in the parent of this forked process: make a new one here)"
        return ""

    def close(self) -> None:
        """Close the loop; RuntimeError while it runs. Idempotent."""
        if self.is_running():
            raise RuntimeError(f"Cannot close a running event loop{self._of_parent()}")
        if self.is_closed():
            return
        if self.get_debug():
            logger.debug("Close %r", self)
        try:
            self._drop_signal_handlers()
        finally:
            self._signal_handlers.clear()
            self._close()
            self._executor_shutdown_called = True
            executor, self._default_executor = self._default_executor, None
            if executor is not None:
                executor.shutdown(wait=False)

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode (slow callbacks, wrong-thread checks, coroutine origins)."""
        self._debug = bool(enabled)
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    # ---- callbacks that failed or were slow --------------------------------------------------

    get_exception_handler = _Base.get_exception_handler
    set_exception_handler = _Base.set_exception_handler
    default_exception_handler = _Base.default_exception_handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Give `context` to the exception handler, in no context or in that of its task."""
        self._release_context()
        _notices.exception_context(context)
        _Base.call_exception_handler(self, context)

    _check_callback = _Base._check_callback

    def _create_task(
        self, coro: Any, *, name: object = None, context: Any = None, **kwargs: Any
    ) -> Any:
        """create_task() with keywords that only some versions know, or with wrong arguments."""
        task: Any = asyncio.Task(coro, loop=self, name=name, context=context, **kwargs)  # type: ignore[arg-type]
        if task._source_traceback:
            del task._source_traceback[-1]  # this frame
        return task

    # ---- executors -----------------------------------------------------------------------------

    _run_in_executor = _Base.run_in_executor
    set_default_executor = _Base.set_default_executor
    _check_default_executor = _Base._check_default_executor

    def _wrap_future(self, source: Any) -> Any:
        """What an executor's submit() has returned, if that is no plain future."""
        return asyncio.wrap_future(source, loop=self)

    # ---- servers ---------------------------------------------------------------------------------

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Any:
        """Listen on host (a name, an address, or several; None for every interface) and port.

        As asyncio's create_server, with `keep_alive` (SO_KEEPALIVE) on every version. Returns an
        `asyncio.AbstractServer`.
        """
        _check_ssl(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            asyncio.base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await self._listen_addresses(host, port, family, flags)
            sockets = _bind_all(
                infos, True if reuse_address is None else reuse_address, reuse_port, keep_alive,
                self.get_debug(),
            )
        else:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            if sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            sockets = [sock]
        server = await self._serve(
            protocol_factory, sockets, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout,
            start_serving, sock is None,
        )
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _listen_addresses(self, host: Any, port: Any, family: int, flags: int) -> list[Any]:
        hosts: list[Any]
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not hasattr(host, "__iter__"):
            hosts = [host]
        else:
            hosts = list(host)
        infos: dict[Any, None] = {}
        for found in await asyncio.gather(
            *[
                self._ensure_resolved(
                    (name, port), family=family, type=socket.SOCK_STREAM, flags=flags, loop=self
                )
                for name in hosts
            ]
        ):
            if not found:
                raise OSError("getaddrinfo() returned empty list")
            infos.update(dict.fromkeys(found))
        return list(infos)

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = sys.version_info >= (3, 13),
    ) -> Any:
        """Listen on a Unix socket: a path, or a bound socket.

        A stale socket file at `path` is replaced. `cleanup_socket` removes the file when the
        server closes (default as in the running Python: from 3.13 on).
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        _check_ssl(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = _bind_unix(os.fspath(path))
        else:
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
        if cleanup_socket:
            name = sock.getsockname()
            if name and name[0] not in (0, "\x00"):
                self._unix_server_sockets[sock] = stat_of(name).st_ino
        return await self._serve(
            protocol_factory, [sock], ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout,
            start_serving, path is not None,
        )

    async def _serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sockets: list[socket.socket],
        ssl: Any,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
        start_serving: bool,
        made: bool,
    ) -> Any:
        for sock in sockets:
            sock.setblocking(False)
        server = Server(
            self, sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        server._made_sockets = made
        if start_serving:
            server._start_serving()
            # One turn of the loop, so that every address accepts before the caller goes on.
            await asyncio.sleep(0)
        return server

    def _stop_serving(self, sock: socket.socket) -> None:
        """A server lets go of a listening socket: close it, and remove a Unix socket's file."""
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else None
        sock.close()
        if path is None:
            return
        try:
            if stat_of(path).st_ino == inode:
                unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error(
                "Unable to clean up listening UNIX socket %r after server closing: %s", path, exc
            )


def _check_ssl(ssl: Any, handshake_timeout: float | None, shutdown_timeout: float | None) -> None:
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    if ssl is None:
        if handshake_timeout is not None:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        if shutdown_timeout is not None:
            raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


# What asyncio of this very release does about an address that cannot be bound.
_server_names = _Base.create_server.__code__.co_names
_LEAVES_OUT = "EADDRNOTAVAIL" in _server_names
_TELLS_STRERROR = "strerror" in _server_names


def _bind_all(
    infos: list[Any], reuse_address: bool, reuse_port: bool | None, keep_alive: bool | None,
    debug: bool,
) -> list[socket.socket]:
    """A bound socket for each address; on failure none is left open."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in infos:
            try:
                sock = socket.socket(family, kind, proto)
            except OSError:  # the family is compiled out of the kernel, or switched off
                if debug:
                    logger.warning("create_server() failed to create socket.socket(%r, %r, %r)",
                                   family, kind, proto, exc_info=True)
                continue
            sockets.append(sock)
            if reuse_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
            if reuse_port and family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
            if keep_alive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
            if family == socket.AF_INET6:
                # IPv4 gets a socket of its own.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
            try:
                sock.bind(address)
            except OSError as exc:
                message = (
                    f"error while attempting to bind on address {address!r}: "
                    f"{str(exc.strerror if _TELLS_STRERROR else exc).lower()}"
                )
                if exc.errno == errno.EADDRNOTAVAIL and _LEAVES_OUT:  # of a family that is off
                    sockets.pop()
                    sock.close()
                    if debug:
                        logger.warning(message)
                    continue
                raise OSError(exc.errno, message) from None
        if not sockets and _LEAVES_OUT:
            raise OSError(f"could not bind on any address out of {[i[4] for i in infos]!r}")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_unix(path: Any) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path[0] not in (0, "\x00"):  # not an abstract name
        try:
            if stat.S_ISSOCK(stat_of(path).st_mode):
                remove(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(exc.errno, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _learn_task_callbacks() -> None:
    """Show `_core` what asyncio's C tasks pass to call_soon (see set_task_callbacks there).

    A task is run by hand on a stand-in loop, in a thread of its own: this may be imported while a
    loop runs here.
    """
    seen: list[tuple[Any, ...]] = []

    class Recorder:
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
            seen.append((callback, *args))

        def get_debug(self) -> bool:
            return False

    async def wait_for(future: Any) -> None:
        await future

    def run() -> None:
        recorder: Any = Recorder()
        asyncio._set_running_loop(recorder)
        try:
            future: Any = asyncio.Future(loop=recorder)
            task = asyncio.Task(wait_for(future), loop=recorder, name="what a task looks like")
            step = seen.pop()[0]
            step()
            future.set_result(None)
            wakeup, done = seen.pop()
            wakeup(done)
            if task.done():
                _core.set_task_callbacks(step, wakeup, task)
        finally:
            asyncio._set_running_loop(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


_learn_task_callbacks()
_tasks.enable(Loop.run_forever.__code__)
gc.callbacks.append(_core.gc_event)
_notices.install()
