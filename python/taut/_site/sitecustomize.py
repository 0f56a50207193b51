"""Found through PYTHONPATH by every Python process that a program under ``taut run`` starts.

It costs a process that never imports asyncio next to nothing: all it does at start-up is to get out
of the way (its directory leaves sys.path, the sitecustomize that it hides is run) and to wait for
asyncio. It never makes a process fail: where taut cannot be imported, that process runs on asyncio.
"""

import os
import sys
from importlib import machinery, util
from types import ModuleType
from typing import Any


def _activate() -> None:
    try:
        from taut import _launch
    except ModuleNotFoundError as exc:
        if exc.name != "taut":  # else: another Python installation, which has no taut
            print(f"taut: not used in process {os.getpid()}: {exc}", file=sys.stderr)
    except ImportError as exc:
        print(f"taut: not used in process {os.getpid()}: {exc}", file=sys.stderr)
    else:
        _launch.activate(inherited=True)


class _WhenAsyncioIsImported:
    """A finder that lets the others find asyncio, and acts after it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "asyncio":
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_activate(module: ModuleType) -> None:
            exec_module(module)
            _activate()

        spec.loader.exec_module = exec_and_activate  # type: ignore[method-assign]
        return spec


def _run_hidden() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("TAUT_RUN") == "1":
    if "asyncio" in sys.modules:
        _activate()
    else:
        sys.meta_path.insert(0, _WhenAsyncioIsImported())
_run_hidden()
