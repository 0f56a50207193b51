"""Signal handlers of `taut.Loop`: Python's own C handler writes the number to the loop's fd."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from asyncio.log import logger

from . import _core

_Ts = TypeVarTuple("_Ts")

# From 3.14 on the public one warns.
_iscoroutinefunction: Callable[[object], bool] = (
    getattr(asyncio.coroutines, "_iscoroutinefunction", None) or asyncio.iscoroutinefunction
)


class Signals:
    """add_signal_handler() and its kin."""

    if TYPE_CHECKING:
        _signal_handlers: dict[int, asyncio.Handle]
        _check_closed: Any
        is_running: Any
        _signal_fd: int
        _signals_lent: tuple[int, int, int] | None
        _make_handle: Any
        _queue_handle: Any

    def _take_signals(self) -> int | None:
        """Have the interpreter's signal handler wake this loop; the fd to put back afterwards.

        Without it a signal that the kernel delivers to another thread would not end the wait.
        """
        if threading.current_thread() is not threading.main_thread():
            return None
        try:
            old = _set_wakeup_fd(self._signal_fd)
        except ValueError:  # a thread that threading takes for the main one, but signal does not
            return None
        if old == self._signal_fd:
            old = -1
        self._signals_lent = _identity(old)
        return old

    def _return_signals(self, old_wakeup_fd: int | None) -> None:
        """After the run: what _take_signals() gave, unless handlers still want the signals."""
        if old_wakeup_fd is None:
            return
        self._signals_lent = None
        if not self._signal_handlers:
            now = signal.set_wakeup_fd(old_wakeup_fd, warn_on_full_buffer=False)
            if now != self._signal_fd:  # the program has set its own meanwhile
                signal.set_wakeup_fd(now, warn_on_full_buffer=False)

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> None:
        """Call `callback(*args)` in the loop when `sig` arrives.

        TypeError for a coroutine, ValueError for a number that is no signal, RuntimeError for one
        that cannot be caught or outside the main thread.
        """
        if asyncio.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # Refuses threads other than the main one before anything is changed. From here on the
            # fd stays ours until the last handler is removed: a signal may come between two runs.
            _set_wakeup_fd(self._signal_fd)
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from exc
        replaced = self._signal_handlers.get(sig)
        handle: asyncio.Handle = self._make_handle(callback, *args)
        if handle._source_traceback:  # type: ignore[attr-defined]
            del handle._source_traceback[-1]  # type: ignore[attr-defined]  # this frame
        self._signal_handlers[sig] = handle
        try:
            # A Python-level handler must exist for the C handler to write to the wake-up fd.
            signal.signal(sig, _signal_noop)
            signal.siginterrupt(sig, False)
        except OSError as exc:
            if replaced is None:
                del self._signal_handlers[sig]
                self._give_signals_back()
            else:
                self._signal_handlers[sig] = replaced
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise
        _owners[sig] = self
        _core.stall_signal_handle(sig, handle)

    def remove_signal_handler(self, sig: int) -> bool:
        """Undo add_signal_handler(); whether there was something to undo."""
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        if _owners.get(sig) is self:
            _core.stall_signal_handle(sig, None)
        handler = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, handler)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise
        if _owners.get(sig) is self:
            del _owners[sig]
        self._give_signals_back()
        return True

    def _give_signals_back(self) -> None:
        if self._signal_handlers or self.is_running():
            return
        try:
            now: object = signal.set_wakeup_fd(-1)
            if isinstance(now, int) and now not in (-1, self._signal_fd):  # another loop's
                signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        except (ValueError, OSError) as exc:
            logger.info("set_wakeup_fd(-1) failed: %s", exc)

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _on_signals(self, signums: bytes) -> None:
        foreign = bytearray()
        for signum in signums:
            handle: Any = self._signal_handlers.get(signum)
            owner = _owners.get(signum)
            if handle is None and owner is not None and signum in owner._signal_handlers:
                owner._on_signals(bytes((signum,)))  # idle now: it will run the handler
            elif handle is None:
                foreign.append(signum)
            elif handle.cancelled():
                self.remove_signal_handler(signum)
            else:
                self._queue_handle(handle)
        # Whose fd this loop took for the time of its run gets what is not for the loop.
        lent = self._signals_lent
        if foreign and lent is not None and _identity(lent[0]) == lent:
            try:
                os.write(lent[0], foreign)
            except OSError:
                pass  # full, or without a reader: as when the interpreter writes there

    def _drop_signal_handlers(self) -> None:
        """Part of close(). ValueError outside the main thread, where nobody can remove them."""
        if sys.is_finalizing():
            if self._signal_handlers:
                warnings.warn(
                    f"Closing the loop {self!r} on interpreter shutdown stage, "
                    "skipping signal handlers removal",
                    ResourceWarning,
                    stacklevel=3,  # who called close()
                    source=self,
                )
        else:
            for signum in list(self._signal_handlers):
                self.remove_signal_handler(signum)


_wakeup_fd = -1  # the loop's that was set last
# By signal, the loop that has added a handler last: another one may run when it arrives.
_owners: weakref.WeakValueDictionary[int, Signals] = weakref.WeakValueDictionary()


def _identity(fd: int) -> tuple[int, int, int] | None:
    """An fd and the file behind it; None when there is none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return fd, found.st_dev, found.st_ino


def _set_wakeup_fd(fd: int) -> int:
    global _wakeup_fd
    old = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    _wakeup_fd = fd
    return old


def _forked() -> None:
    # The fd is shared: signals for the child would be handled by the parent.
    fd = signal.set_wakeup_fd(-1)
    if fd != _wakeup_fd:
        signal.set_wakeup_fd(fd)


if sys.version_info < (3, 12):  # from there on asyncio does it, for whatever fd
    os.register_at_fork(after_in_child=_forked)


def _signal_noop(signum: int, frame: Any) -> None:
    """The work is done by the loop, once the wake-up fd tells it."""
