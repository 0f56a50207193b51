"""Found through PYTHONPATH by every Python process of a suite that suites.py runs.

Once such a process has imported asyncio, each way of getting a loop gives one of the factory named
in COMPAT_LOOP, and loops are counted. With asyncio's own factory they are counted only.
"""

import importlib.util
import os
import sys
from importlib import machinery, util
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))


def substitute() -> None:
    path = os.path.join(os.path.dirname(HERE), "substitute.py")
    spec: Any = importlib.util.spec_from_file_location("compat_substitute", path)
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["compat_substitute"] = module
    spec.loader.exec_module(module)
    module.theirs = module.AsyncioLoops()
    module.ours = None
    factory = os.environ["COMPAT_LOOP"]
    if not factory.startswith("asyncio:"):
        module.ours = module.Counter(module.load_factory(factory))
        module.install(module.ours)


class WhenAsyncioIsImported:
    """A finder that lets the others find asyncio, and acts after it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "asyncio":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_substitute(module: ModuleType) -> None:
            exec_module(module)
            substitute()

        spec.loader.exec_module = exec_and_substitute  # type: ignore[method-assign]
        return spec


def run_hidden() -> None:
    """The sitecustomize that this one hides."""
    entries = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
    spec = machinery.PathFinder.find_spec("sitecustomize", entries)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(util.module_from_spec(spec))


if "COMPAT_LOOP" in os.environ:
    sys.meta_path.insert(0, WhenAsyncioIsImported())  # type: ignore[arg-type]
run_hidden()
