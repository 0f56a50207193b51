"""Runs tests of one class of ``test.test_asyncio`` against a given loop, in this process.

Writes one JSON object a line to ``--out``: first ``{"start": name}``, then
``{"name", "outcome", "seconds", "loops", "detail"}``, so that the parent knows which test was
running when this process dies or hangs. ``loops`` counts the event loops that the test made.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.futures
import asyncio.tasks
import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import types
import unittest
import unittest.mock
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import plan
from substitute import Counter, install, load_factory


def patch_utilities() -> None:
    """``close_loop`` of the suites looks into a private attribute that only asyncio has."""
    from test.test_asyncio import utils

    original = utils.TestCase.close_loop

    def close_loop(loop: Any) -> None:
        if hasattr(loop, "_default_executor"):
            original(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


#: What the suites mock inside asyncio, and where taut has the same thing.
MOCKED = {
    "asyncio.unix_events.signal": "taut._signals.signal",
    "asyncio.unix_events.socket": "taut.loop.socket",
    "asyncio.unix_events.sys": "taut._signals.sys",
    "asyncio.base_events.BaseEventLoop.call_exception_handler":
        "taut.loop.Loop.call_exception_handler",
}


def redirect_mocks() -> None:
    """mock.patch() of a part of asyncio's loop goes to the same part of taut's."""
    original: Any = unittest.mock.patch

    def patch(target: str, *args: Any, **kwargs: Any) -> Any:
        return original(MOCKED.get(target, target), *args, **kwargs)

    vars(patch).update(vars(original))  # patch.object, patch.dict
    unittest.mock.patch = patch


def patch_gather(module: types.ModuleType) -> None:
    """The gather tests turn the loop by its private queue; a few public turns do the same."""
    base: Any = getattr(module, "GatherTestsBase", None)
    if base is None:
        return
    original = base._run_loop

    def run_loop(self: Any, loop: Any) -> None:
        if hasattr(loop, "_ready"):
            original(self, loop)
            return
        for _ in range(20):
            loop.call_soon(loop.stop)
            loop.run_forever()

    base._run_loop = run_loop


def use_real_loop(case: type, counter: Counter) -> None:
    """``new_test_loop()`` of this class gives a real loop unless a clock is asked for."""
    original = case.new_test_loop  # type: ignore[attr-defined]

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        if gen is not None:
            return original(self, gen)
        loop = counter()
        self.set_event_loop(loop)
        return loop

    case.new_test_loop = new_test_loop  # type: ignore[attr-defined]


def use_own_tasks() -> None:
    """The C classes that the suites pair are those that our loops make."""
    from taut import _core

    if _core.tasks_known():
        vars(asyncio.tasks)["_CTask"] = _core.Task
        vars(asyncio.futures)["_CFuture"] = _core.Future


class Report(unittest.TestResult):
    """Writes each outcome as it comes."""

    def __init__(self, out: TextIO, counter: Counter) -> None:
        super().__init__()
        self.out = out
        self.counter = counter
        self.outcome = "ok"
        self.detail = ""
        self.began = 0.0

    def emit(self, record: dict[str, Any]) -> None:
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.detail = "ok", ""
        self.counter.made = 0
        self.began = time.monotonic()
        self.emit({"start": test._testMethodName})

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.emit(
            {
                "name": test._testMethodName,
                "outcome": self.outcome,
                "seconds": round(time.monotonic() - self.began, 3),
                "loops": self.counter.made,
                "detail": self.detail[-4000:],
            }
        )

    def fail_with(self, test: unittest.TestCase, err: Any) -> None:
        self.outcome = "fail"
        self.detail += self._exc_info_to_string(err, test)  # type: ignore[attr-defined]

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        if isinstance(test, unittest.TestCase):
            self.fail_with(test, err)
        else:  # setUpClass or tearDownModule
            self.emit({"name": str(test), "outcome": "fail", "seconds": 0, "loops": 0,
                       "detail": self._exc_info_to_string(err, test)})  # type: ignore[attr-defined]

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.fail_with(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.outcome, self.detail = "skip", reason
        if not isinstance(test, unittest.TestCase):
            self.emit({"name": str(test), "outcome": "skip", "seconds": 0, "loops": 0,
                       "detail": reason})

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.outcome = "ok"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.outcome, self.detail = "fail", "unexpected success"


def cases(module: types.ModuleType) -> Iterator[type[unittest.TestCase]]:
    """The concrete test classes that the module itself defines."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            if value.__module__ == module.__name__:
                yield value


def listing() -> dict[str, dict[str, list[str]]]:
    """{module: {class: [test]}} of this Python, without the classes that the plan skips."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in plan.MODULES:
        try:
            module = importlib.import_module("test.test_asyncio." + entry.name)
        except ModuleNotFoundError:
            continue  # not in this version
        except unittest.SkipTest:
            continue
        classes: dict[str, list[str]] = {}
        for case in cases(module):
            names = unittest.defaultTestLoader.getTestCaseNames(case)
            if case.__name__ in entry.skip_classes or not names:
                continue
            if entry.only_classes and case.__name__ not in entry.only_classes:
                continue
            classes[case.__name__] = list(names)
        found[entry.name] = classes
    return found


def run(args: argparse.Namespace) -> None:
    from test import support

    # No test may leave this machine.
    support.use_resources = ["cpu", "subprocess", "walltime", "curses"]
    counter = Counter(load_factory(args.loop))
    install(counter)
    patch_utilities()
    if args.loop.startswith("taut:"):
        redirect_mocks()
        if plan.BY_NAME[args.module].own_tasks:
            use_own_tasks()
    module = importlib.import_module("test.test_asyncio." + args.module)
    patch_gather(module)
    case: type[unittest.TestCase] = getattr(module, args.case)
    if args.case in plan.BY_NAME[args.module].real_loop:
        use_real_loop(case, counter)
    names = args.tests.split(",")
    suite = unittest.TestSuite(case(name) for name in names)
    with open(args.out, "a", encoding="utf-8") as out:
        report = Report(out, counter)
        suite.run(report)
        gc.collect()  # a crash in a finalizer belongs to this class
        report.emit({"end": True})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--module")
    parser.add_argument("--case")
    parser.add_argument("--tests")
    parser.add_argument("--out")
    args = parser.parse_args()
    faulthandler.enable()
    if args.list:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            json.dump(listing(), sys.stdout)
        return
    faulthandler.register(10, all_threads=True)  # SIGUSR1: the parent asks where we hang
    run(args)
    sys.stdout.flush()
    # Threads that a broken test left behind must not hold the process.
    os._exit(0)


if __name__ == "__main__":
    main()
