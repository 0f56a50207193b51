"""Starting child processes: what runs once for each.

Options are checked by the running CPython's own `subprocess.Popen`, so that every version's rules
and messages are its own; `taut._core.spawn` starts the program, and `SubprocessTransport` does the
rest.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import os
import subprocess
import types
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncio.log import logger

from . import _core
from ._pipes import Pipes

_Base: Any = asyncio.base_events.BaseEventLoop
_Popen: Any = subprocess.Popen

#: Popen's step from checked options to a running child, which is ours where it has this form: what
#: _core.spawn() takes.
_EXECUTE_CHILD = (
    "self", "args", "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env",
    "startupinfo", "creationflags", "shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite",
    "errread", "errwrite", "restore_signals", "gid", "gids", "uid", "umask", "start_new_session",
    "process_group",
)  # fmt: skip
_PREEXEC_FN = _EXECUTE_CHILD.index("preexec_fn") - 1


@types.coroutine
def _one_turn() -> Generator[None, None, None]:
    """What is queued already runs first."""
    yield


def _is_known(popen: Any) -> bool:
    code = getattr(getattr(popen, "_execute_child", None), "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount] == _EXECUTE_CHILD


_KNOWN = _is_known(_Popen)


class Popen(_Popen):  # type: ignore[misc]
    """A `subprocess.Popen` whose child a taut loop reaps.

    Asking it (`poll()`, `wait()`, `send_signal()`) and the loop's own notice share one
    `taut._core.Child`: neither takes the exit code away from the other, and no signal goes to a
    process that has got the number of a child that is gone.
    """

    _child: _core.Child | None = None
    pid: int
    returncode: int | None

    def _execute_child(self, *options: Any) -> None:
        if options[_PREEXEC_FN] is not None:
            # Python code between fork and exec: only CPython's own fork can run it.
            super()._execute_child(*options)
            self._child = _core.Child(self.pid)
            return
        child = self._child = _core.spawn(options)  # and closes the child's ends of pipes
        self.pid = child.pid
        self._child_created = self._closed_child_pipe_fds = True
        if "_devnull" in vars(self):
            os.close(self._devnull)

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        child = self._child
        if self.returncode is None and child is not None and child.poll() is not None:
            if not child.lost:
                self.returncode = child.poll()
            else:  # as Popen has it
                self.returncode = 0 if _deadstate is None else _deadstate
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        assert self._child is not None
        if not wait_flags & os.WNOHANG:
            try:  # without reaping: that is the Child's
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass
        code = self._child.poll()
        if code is None:
            return 0, 0
        if self._child.lost:
            return self.pid, 0
        return self.pid, -code if code < 0 else code << 8

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the child has ended."""
        if self._child is not None and self.returncode is None:
            self._child.send_signal(sig)


class Subprocesses:
    """Subprocess calls of `taut.Loop`."""

    if TYPE_CHECKING:
        connect_read_pipe: Any
        connect_write_pipe: Any
        _make_read_pipe_transport: Any
        _make_write_pipe_transport: Any
        create_future: Any
        create_task: Any
        get_debug: Any

    subprocess_shell = _Base.subprocess_shell
    subprocess_exec = _Base.subprocess_exec
    _log_subprocess = _Base._log_subprocess

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> _core.SubprocessTransport:
        # What a program has put in Popen's place is used, as asyncio would.
        popen = subprocess.Popen if subprocess.Popen is not _Popen or not _KNOWN else Popen
        proc: Any = popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr,
            universal_newlines=False, bufsize=bufsize, **kwargs,
        )  # fmt: skip
        child = proc._child if type(proc) is Popen else _core.Child(proc.pid)
        transport = _core.SubprocessTransport(self, protocol, proc, child, extra)
        if self.get_debug():
            logger.debug(
                "process %r created: pid %s",
                args if isinstance(args, (bytes, str)) else args[0],
                proc.pid,
            )
        try:
            if proc.stdin is proc.stdout is proc.stderr is None:
                transport._connected()
                await _one_turn()
            else:
                await self._connect_pipes(transport, proc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    async def _connect_pipes(self, transport: _core.SubprocessTransport, proc: Any) -> None:
        """Returns when connection_made() has been called."""
        if self._pipes_are_watched():
            waiter = self.create_future()
            self.create_task(self._connect_pipes_task(transport, proc, waiter))
            await waiter
        else:
            self._make_pipes(transport, proc)
            transport._connected()
            await _one_turn()

    def _make_pipes(self, transport: _core.SubprocessTransport, proc: Any) -> None:
        try:
            if proc.stdin is not None:
                self._make_write_pipe_transport(proc.stdin, transport._pipe(0))
            if proc.stdout is not None:
                self._make_read_pipe_transport(proc.stdout, transport._pipe(1))
            if proc.stderr is not None:
                self._make_read_pipe_transport(proc.stderr, transport._pipe(2))
        except BaseException:
            _abandon(transport, proc)
            raise

    def _pipes_are_watched(self) -> bool:
        """Whether somebody wants to see connect_*_pipe() being called: a subclass, a program that
        has replaced it, or the log of the debug mode."""
        own, kind = vars(self), type(self)
        return (
            self.get_debug()
            or "connect_read_pipe" in own
            or "connect_write_pipe" in own
            or kind.connect_read_pipe is not Pipes.connect_read_pipe
            or kind.connect_write_pipe is not Pipes.connect_write_pipe
        )

    async def _connect_pipes_task(
        self, transport: _core.SubprocessTransport, proc: Any, waiter: asyncio.Future[None]
    ) -> None:
        try:
            if proc.stdin is not None:
                await self.connect_write_pipe(partial(transport._pipe, 0), proc.stdin)
            if proc.stdout is not None:
                await self.connect_read_pipe(partial(transport._pipe, 1), proc.stdout)
            if proc.stderr is not None:
                await self.connect_read_pipe(partial(transport._pipe, 2), proc.stderr)
            transport._connected()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            _abandon(transport, proc)
            if not waiter.cancelled():
                waiter.set_exception(exc)
        else:
            if not waiter.cancelled():
                waiter.set_result(None)


def _abandon(transport: _core.SubprocessTransport, proc: Any) -> None:
    """The pipes cannot be connected: the protocol hears nothing, what is open is closed."""
    transport._abandon()
    for fd, file in enumerate((proc.stdin, proc.stdout, proc.stderr)):
        if file is not None and transport.get_pipe_transport(fd) is None:
            file.close()
