"""Which parts of CPython's own asyncio suites are run, and how.

The suites build their loops in three ways: through the event loop policy, through
``asyncio.SelectorEventLoop`` and through ``new_test_loop()`` (a loop with an invented clock). The
worker replaces the first two everywhere. The third is replaced only where ``real_loop`` says so,
since a test that turns the invented clock by hand means nothing on a real one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """One module of ``test.test_asyncio``."""

    name: str
    #: Part of the quick run that `make test` does.
    fast: bool = False
    #: Classes left alone because they duplicate another one for this purpose.
    skip_classes: tuple[str, ...] = ()
    #: Only these classes, when not empty.
    only_classes: tuple[str, ...] = ()
    #: In these classes, ``new_test_loop()`` without a clock gives a real loop.
    real_loop: tuple[str, ...] = ()
    #: The quick run takes only these classes, when not empty.
    fast_classes: tuple[str, ...] = ()
    #: Classes that the quick run leaves out because they take long.
    slow_classes: tuple[str, ...] = ()
    #: The classes that the suite pairs as ``_CTask`` and ``_CFuture`` are taut's own.
    own_tasks: bool = False


# The same tests with another selector: our loop has no selector to choose.
_SELECTORS = ("EPollEventLoopTests", "PollEventLoopTests", "KqueueEventLoopTests")

# Of the many pairings of Task and Future, the one that people use.
_REAL_TASKS = (
    "CTask_CFuture_Tests",
    "FutureGatherTests",
    "CoroutineGatherTests",
    "RunCoroutineThreadsafeTests",
    "SleepTests",
)

MODULES = (
    Module("test_events", fast=True, skip_classes=_SELECTORS),
    Module("test_sock_lowlevel", fast=True, skip_classes=_SELECTORS),
    Module("test_server", fast=True),
    Module("test_buffered_proto", fast=True),
    Module("test_streams", fast=True),
    Module("test_unix_events", fast=True),
    Module("test_base_events", only_classes=("RunningLoopTests", "BaseLoopSockSendfileTests")),
    Module("test_sendfile", skip_classes=_SELECTORS),
    Module("test_subprocess"),
    Module("test_ssl"),
    Module("test_sslproto", fast=True),
    Module("test_tasks", fast=True, fast_classes=_REAL_TASKS, real_loop=_REAL_TASKS,
           own_tasks=True),  # fmt: skip
    Module("test_futures", real_loop=("CFutureTests", "CFutureDoneCallbackTests"),
           own_tasks=True),  # fmt: skip
    Module("test_futures2"),
    Module("test_locks", fast=True),
    Module("test_queues"),
    Module("test_taskgroups", fast=True),
    Module("test_timeouts"),
    Module("test_runners", fast=True),
    Module("test_context"),
    Module("test_pep492"),
    Module("test_threads"),
    Module("test_waitfor"),
    Module("test_eager_task_factory", own_tasks=True),
    Module("test_staggered"),
    Module("test_graph", fast=True),
    Module("test_free_threading", own_tasks=True),
)

BY_NAME = {module.name: module for module in MODULES}
