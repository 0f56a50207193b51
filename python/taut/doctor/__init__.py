"""The doctor: says what is wrong with an event loop and its tasks, while it is wrong.

Every taut loop is watched from the start (see ``TAUT_STALL`` and ``Loop.stall_threshold``).
What the doctor has found out stands in one table for the process: :func:`findings` reads it,
:func:`on_finding` hears of each change, :func:`ignore` (or ``TAUT_IGNORE``) names what is known.
:func:`metrics` and :func:`tasks` say how loops and tasks fare, and requests by route when
``taut run`` or :func:`asgi` tells of them; :func:`dump` says what the loops did last.
:func:`attach` starts the same watchdog on a stock asyncio or uvloop loop; :func:`report_to` and the
``callback`` and ``logger`` of :func:`attach` bring reports of stalls to Python.

A report on stderr is written by a C thread during the stall, without the GIL. A callback or a
logger is Python, so it runs on a helper thread as soon as the GIL can be had: at once when the
stall gave it up (``time.sleep``, a socket), after it when not (``json.loads``, a regex).

Where taut has no extension nothing is watched: the same calls are valid and do nothing, and the
first of them says so on stderr.
"""

from ._asgi import asgi
from ._findings import Finding, FindingCallback, findings, ignore, on_finding
from ._metrics import PrometheusCollector, TaskInfo, metrics, opentelemetry, tasks
from ._stalls import Attachment, Frame, StallReport, attach, detach, report_to
from ._trace import dump
from ._watched import watch

__all__ = [
    "Attachment",
    "Finding",
    "FindingCallback",
    "Frame",
    "PrometheusCollector",
    "StallReport",
    "TaskInfo",
    "asgi",
    "attach",
    "detach",
    "dump",
    "findings",
    "ignore",
    "metrics",
    "on_finding",
    "opentelemetry",
    "report_to",
    "tasks",
    "watch",
]
