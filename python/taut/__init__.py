"""taut: an asyncio runtime in C that names the line that stalled it.

``taut.run(main())`` is ``asyncio.run(main())`` on taut's event loop; `install` switches a whole
program over, and the ``taut run`` command does so without touching its source.
"""

from typing import TYPE_CHECKING, Any

from ._policy import EventLoopPolicy, install
from ._portable import Loop
from ._runner import Runner, new_event_loop, run
from ._version import __version__

if TYPE_CHECKING:
    from . import doctor as doctor
    from ._tls import ssl_context as ssl_context

__all__ = [
    "EventLoopPolicy",
    "Loop",
    "Runner",
    "__version__",
    "doctor",
    "install",
    "new_event_loop",
    "run",
    "ssl_context",
]


def __getattr__(name: str) -> Any:
    # Programs that never ask the doctor anything do not pay for importing it.
    if name == "ssl_context":
        from ._tls import ssl_context

        return ssl_context
    if name == "doctor":
        import importlib

        return importlib.import_module("taut.doctor")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
