"""Numbers and tasks, for whoever asks."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._portable import NATIVE, say_once

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["PrometheusCollector", "TaskInfo", "metrics", "opentelemetry", "tasks"]

_UNWATCHED = "no numbers here: the doctor needs taut's extension, which is for Linux"


@dataclass(frozen=True)
class TaskInfo:
    """One task that is not done.

    Attributes:
        name: its name.
        state: ``"waiting"``, ``"ready"`` (about to run) or ``"running"``.
        age: seconds since it was made; None for a task that is not of taut's own.
        waiting: seconds since its coroutine last ran, while it waits; else None.
        waits_at: ``(file, line, function)`` of the program's own innermost line; a library's, when
            none is the program's.
        made_at: ``(file, line, function)`` of who made it, when that is known.
        request: the request it works for, such as ``"GET /items/{id}"``; None: none is known.
    """

    name: str
    state: str
    age: float | None
    waiting: float | None
    waits_at: tuple[str, int, str] | None
    made_at: tuple[str, int, str] | None
    request: str | None = None


def _waits_at(task: asyncio.Task[Any]) -> tuple[str, int, str] | None:
    frames = _core.coroutine_frames(task.get_coro())
    if not frames:
        return None
    own = [frame for frame in frames if _core.code_is_user(frame[0])]
    code, line = (own or frames)[-1]
    return code.co_filename, line, code.co_qualname


def _info(task: asyncio.Task[Any], running: set[asyncio.Task[Any] | None]) -> TaskInfo:
    times = _core.task_times(task)
    waits = times is not None and times[2]
    state = "running" if task in running else "waiting" if waits or times is None else "ready"
    return TaskInfo(
        task.get_name(), state, None if times is None else times[0],
        times[1] if times is not None and waits else None, _waits_at(task),
        _core.task_created_at(task), _core.task_request(task),
    )  # fmt: skip


def tasks(loop: asyncio.AbstractEventLoop | None = None) -> list[TaskInfo]:
    """The tasks that are not done, the oldest first.

    Args:
        loop: only tasks of this one. Default: of all taut loops that run in this process.
    """
    if not NATIVE:
        say_once(_UNWATCHED)
        return []
    from . import _rules  # noqa: F401  # it proves that coroutines can be looked into

    loops = [loop] if loop is not None else _running_loops()
    found: list[TaskInfo] = []
    for one in loops:
        running = {asyncio.current_task(one)}
        found += [_info(task, running) for task in asyncio.all_tasks(one)]
    return sorted(found, key=lambda info: -(info.age or 0.0))


def _running_loops() -> list[Any]:
    from taut import Loop

    # By the type itself: isinstance() asks a weak proxy's object, which may be gone.
    return [one for one in gc.get_objects() if issubclass(type(one), Loop) and one.is_running()]


def metrics() -> dict[str, Any]:
    """Numbers about the loops that run in this process, the garbage collector, the findings and the
    requests by route; times in seconds. docs/METRICS.md says what each one is.

    ``{"loops": [{...}, ...], "gc": [{...}, {...}, {...}], "findings": {code: count},
    "routes": [{...}, ...]}``
    """
    if not NATIVE:
        say_once(_UNWATCHED)
        return {"loops": [], "gc": [], "findings": {}, "routes": []}
    counts: dict[str, int] = {}
    for row in _core.findings():
        counts[row[6]] = counts.get(row[6], 0) + row[2]
    loops = [_core.loop_vitals(loop) for loop in _running_loops()]
    gc_vitals, routes = _core.gc_vitals(), _core.routes()
    return {"loops": loops, "gc": gc_vitals, "findings": counts, "routes": routes}


class PrometheusCollector:
    """For prometheus-client: ``REGISTRY.register(taut.doctor.PrometheusCollector())``."""

    def collect(self) -> Iterator[Any]:
        """Metric families, as prometheus-client wants them."""
        parser = importlib.import_module("prometheus_client.parser")
        yield from parser.text_string_to_metric_families(_core.metrics_text() if NATIVE else "")

    def describe(self) -> Iterable[Any]:
        """Nothing in advance: registering it asks for no numbers."""
        return ()


#: Name, unit, description, what to read from a loop's numbers.
_GAUGES = (
    ("asyncio.eventloop.utilization", "1", "The share of the time the loop was active.",
     lambda v: v["utilization"]),
    ("asyncio.eventloop.delay.max", "s", "How late timers fired, at most.",
     lambda v: v["lag"]["max"]),
    ("asyncio.eventloop.delay.mean", "s", "How late timers fired, on average.",
     lambda v: v["lag"]["sum"] / max(v["lag"]["count"], 1)),
    ("asyncio.eventloop.delay.p50", "s", "How late timers fired, median.",
     lambda v: v["lag"]["p50"]),
    ("asyncio.eventloop.delay.p90", "s", "How late timers fired, 90th percentile.",
     lambda v: v["lag"]["p90"]),
    ("asyncio.eventloop.delay.p99", "s", "How late timers fired, 99th percentile.",
     lambda v: v["lag"]["p99"]),
    ("asyncio.tasks.pending", "{task}", "Tasks that are not done.", lambda v: v["tasks"]),
)  # fmt: skip


def opentelemetry(meter: Any) -> None:
    """Makes instruments of the numbers: names mirror OpenTelemetry's for Node.js.

    Args:
        meter: of OpenTelemetry's metrics API, as ``opentelemetry.metrics.get_meter("taut")``.

    Raises:
        ImportError: the API is not installed.
    """
    Observation = importlib.import_module("opentelemetry.metrics").Observation

    def of_loops(read: Any) -> Any:
        def observe(options: Any) -> Iterator[Any]:
            for loop in metrics()["loops"]:
                yield Observation(read(loop), {"asyncio.eventloop.id": loop["loop"]})

        return observe

    def times(options: Any) -> Iterator[Any]:
        for loop in metrics()["loops"]:
            for state in ("active", "idle"):
                labels = {"asyncio.eventloop.id": loop["loop"], "asyncio.eventloop.state": state}
                yield Observation(loop[state], labels)

    def of_generations(name: str) -> Any:
        def observe(options: Any) -> Iterator[Any]:
            for generation, numbers in enumerate(metrics()["gc"]):
                yield Observation(numbers[name], {"cpython.gc.generation": generation})

        return observe

    for name, unit, description, read in _GAUGES:
        meter.create_observable_gauge(name, [of_loops(read)], unit, description)
    meter.create_observable_counter(
        "asyncio.eventloop.time", [times], "s", "How long the loop has been active and idle."
    )
    meter.create_observable_counter(
        "cpython.gc.collections", [of_generations("count")], "{collection}",
        "Runs of the garbage collector.",
    )  # fmt: skip
    meter.create_observable_counter(
        "cpython.gc.collected_objects", [of_generations("collected")], "{object}",
        "Objects that it has freed.",
    )  # fmt: skip
