"""The pytest plugin of suites.py: writes each outcome as it comes, one JSON object a line.

First ``{"start": id}``, so that the parent knows which test was running when this process dies or
hangs, then ``{"name", "outcome", "seconds", "loops", "detail"}``; last ``{"end": true, ...}``.

Environment: COMPAT_OUT is the file; COMPAT_ONLY and COMPAT_SKIP name files of test ids, one a
line, that alone are run or that are not run.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

loops: Any = sys.modules["compat_substitute"]
assert asyncio.SelectorEventLoop  # importing asyncio is what put the substitute there


def made() -> tuple[int, int]:
    """The loops made in this process so far: ours and asyncio's own."""
    return (loops.ours.made if loops.ours else 0), loops.theirs.made


def lines_of(variable: str) -> set[str] | None:
    path = os.environ.get(variable)
    if not path:
        return None
    with open(path, encoding="utf-8") as stream:
        return {json.loads(line) for line in stream}


class Report:
    def __init__(self, path: str) -> None:
        self.out = open(path, "a", encoding="utf-8")
        self.process = os.getpid()
        self.outcome, self.detail = "ok", ""

    def emit(self, record: dict[str, Any]) -> None:
        if os.getpid() == self.process:  # a test may fork
            self.out.write(json.dumps(record) + "\n")
            self.out.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        only, skip = lines_of("COMPAT_ONLY"), lines_of("COMPAT_SKIP") or set()
        keep = [i for i in items if i.nodeid not in skip and (only is None or i.nodeid in only)]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(keep)])
        items[:] = keep

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[Any]:
        self.outcome, self.detail = "ok", ""
        began, before = time.monotonic(), made()
        self.emit({"start": item.nodeid})
        try:
            return (yield)
        finally:
            ours, theirs = (now - then for now, then in zip(made(), before))
            self.emit({
                "name": item.nodeid, "outcome": self.outcome, "loops": ours, "others": theirs,
                "seconds": round(time.monotonic() - began, 3), "detail": self.detail[-6000:],
            })

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.outcome = "fail"
            self.detail += f"[{report.when}] {report.longreprtext}\n"
            for name, text in report.sections:
                self.detail += f"--- {name}\n{text[-1500:]}\n"
        elif report.skipped and self.outcome == "ok":
            self.outcome, self.detail = "skip", report.longreprtext

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.emit({"name": f"{report.nodeid} (collection)", "outcome": "fail", "loops": 0,
                       "others": 0, "seconds": 0, "detail": report.longreprtext})

    def pytest_unconfigure(self) -> None:
        ours, theirs = made()
        self.emit({"end": True, "loops": ours, "others": theirs})


def pytest_configure(config: Any) -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks where we hang
    config.pluginmanager.register(Report(os.environ["COMPAT_OUT"]), "compat-report")
