"""Answers of a console, and the journal, as text for people."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["finding_lines", "log_lines", "stack_lines", "task_lines"]

Json = dict[str, Any]

_LIBRARY = re.compile(r"/(?:site|dist)-packages/|/lib(?:64)?/python3\.\d+/|^<frozen ")
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/|.*/lib(?:64)?/python3\.\d+/")
_ALIKE_SHOWN = 3  # of tasks that differ in their names only


def _path(file: str, cwd: str) -> str:
    if cwd and file.startswith(cwd.rstrip("/") + "/"):
        return os.path.relpath(file, cwd)
    return _PACKAGES.sub("", file)


def _place(frame: Json | None, cwd: str) -> str:
    if frame is None:
        return "-"
    return f"{_path(frame['file'], cwd)}:{frame['line']} in {frame['function']}"


def _duration(seconds: float) -> str:
    for limit, unit, size in ((1, "ms", 0.001), (120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


# ---- tasks ----


def _waits(task: Json, cwd: str) -> str:
    """Where: the innermost line of the user's own, then what that has called."""
    frames = task["frames"]
    own = next((f for f in reversed(frames) if not _LIBRARY.search(f["file"])), None)
    inner = frames[-1] if frames else None
    text = _place(own or inner, cwd)
    if own is not None and inner is not own and inner is not None:
        text += f" > {inner['function']}"
    return text


def _state(task: Json) -> str:
    text: str = task["state"]
    if task.get("since") is not None:
        text += f" {_duration(task['since'])}"
    if task["cancelling"]:
        text += ", cancelling"
    return text


def _object(thing: Json | None) -> str:
    return "" if thing is None else thing["type"].rpartition(".")[2]


def _line(task: Json, cwd: str) -> str:
    parts = [_state(task), f"at {_waits(task, cwd)}"]
    if task["on"] is not None and _object(task["on"]):
        parts.append(f"for {_object(task['on'])} {task['on']['id']}")
    if task.get("request") is not None:
        parts.append(f"request {task['request']}")
    if task["created"] is not None:
        parts.append(f"made at {_place(task['created'], cwd)}")
    if task.get("age") is not None:
        parts.append(f"{_duration(task['age'])} ago")
    return "; ".join(parts)


def _children(tasks: list[Json]) -> dict[str, list[Json]]:
    """By the id of the task that waits for them; "" has those for whom nobody waits."""
    waiting: dict[str, Json] = {}
    for task in tasks:
        for thing in (task["on"], task["awaits"]):
            if thing is not None:
                waiting.setdefault(thing["id"], task)
    for task in tasks:
        waiting[task["id"]] = task
    children: dict[str, list[Json]] = {}
    for task in tasks:
        parents = (waiting.get(woken) for woken in task["wakes"])
        parent = next((p for p in parents if p is not None and p is not task), None)
        children.setdefault("" if parent is None else parent["id"], []).append(task)
    return children


class _Tree:
    def __init__(self, tasks: list[Json], cwd: str, every: bool) -> None:
        self._children = _children(tasks)
        self._cwd = cwd
        self._every = every
        self._shown: set[str] = set()

    def _alike(self, tasks: list[Json]) -> Iterator[tuple[Json, int]]:
        """Each task to show, and how many more there are like it and the two before."""
        groups: dict[str, list[Json]] = {}
        for number, task in enumerate(tasks):
            key = _line({**task, "since": None, "age": None}, self._cwd)
            if self._every or task["id"] in self._children or task["state"] == "running":
                key = str(number)
            groups.setdefault(key, []).append(task)
        for group in groups.values():
            shown = group[:_ALIKE_SHOWN] if len(group) > _ALIKE_SHOWN + 1 else group
            for task in shown:
                last = task is shown[-1]
                yield task, len(group) - len(shown) if last else 0

    def lines(self, tasks: list[Json], indent: str = "") -> Iterator[str]:
        for task, more in self._alike(tasks):
            if task["id"] in self._shown:
                continue
            self._shown.add(task["id"])
            yield f"{indent}{task['name'] or '?'} ({task['id']}): {_line(task, self._cwd)}"
            yield from self.lines(self._children.get(task["id"], []), indent + "    ")
            if more:
                yield f"{indent}... and {more} more like it"

    def all(self, tasks: list[Json]) -> Iterator[str]:
        yield from self.lines(self._children.get("", []))
        roots = {task["id"] for task in self._children.get("", [])}
        reached, todo = set(roots), list(roots)
        while todo:
            for child in self._children.get(todo.pop(), []):
                if child["id"] not in reached:
                    reached.add(child["id"])
                    todo.append(child["id"])
        ring = [task for task in tasks if task["id"] not in reached]
        if ring:
            yield "These wait for each other, in a circle:"
            yield from self.lines(ring, "    ")


def _head(answer: Json, command: str) -> Iterator[str]:
    yield f"Process {answer['pid']}, Python {answer['python']}: {command}"
    for loop in answer["loops"]:
        yield f"Loop {loop['id']} on thread {loop['thread']}: {loop['state']}"
    if not answer["loops"]:
        yield "No loop runs."
    if answer.get("read_by") == "memory":
        yield "The loop does not answer: what follows was read from the process's memory."
    elif answer.get("read_by") == "none":
        yield "Tasks cannot be read in this process."


def task_lines(answer: Json, command: str, cwd: str, every: bool) -> Iterator[str]:
    """For `taut ps`: a tree by who waits for whom."""
    tasks = answer["tasks"]
    yield from _head(answer, command)
    yield f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}" + (
        "" if answer["complete"] else ", and maybe more that changed meanwhile"
    )
    yield from _Tree(tasks, cwd, every).all(tasks)


# ---- stacks ----


def _frame_lines(frames: Iterable[Json]) -> Iterator[str]:
    for frame in frames:
        yield f'  File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}'


def stack_lines(answer: Json, command: str) -> Iterator[str]:
    """For `taut stack`: every thread, then every task, most recent call last."""
    yield from _head(answer, command)
    loops = {loop["thread"]: loop for loop in answer["loops"]}
    for thread in answer["threads"] or []:
        loop = loops.get(thread["id"])
        about = f", of loop {loop['id']} ({loop['state']})" if loop else ""
        yield ""
        yield f"Thread {thread['id']}{about}:"
        if thread["omitted"]:
            yield f"  ... {thread['omitted']} outer frames"
        yield from _frame_lines(thread["frames"])
        if not thread["exact"]:
            yield "  (about here: bytecode is running)"
    for task in answer["tasks"]:
        yield ""
        thing = task["on"] or task["awaits"]
        waits = f" for {_object(thing)} {thing['id']}" if thing else ""
        yield f"Task {task['name'] or '?'} ({task['id']}), {_state(task)}{waits}:"
        yield from _frame_lines(task["frames"])


# ---- findings ----


def _clock(seconds: float, now: float) -> str:
    day = "%H:%M:%S" if abs(now - seconds) < 43200 else "%Y-%m-%d %H:%M:%S"
    return time.strftime(day, time.localtime(seconds))


def _finding_head(finding: Json, cwd: str) -> str:
    where = ""
    if finding["file"]:
        where = f" at {_place(finding, cwd)}"
    elif finding["function"]:
        where = f" in {finding['function']}"
    return f"{finding['code']}{where}"


def finding_lines(findings: list[Json], cwd: str, now: float) -> Iterator[str]:
    """For `taut doctor`: in plain words, the latest first."""
    for finding in sorted(findings, key=lambda f: -f["last_seen"]):
        times = "once" if finding["count"] == 1 else f"{finding['count']} times"
        first, last = (_clock(finding[key], now) for key in ("first_seen", "last_seen"))
        when = f"at {last}" if first == last else f"from {first} to {last}"
        going = {"ongoing": ", and it goes on", "over": ", and it is over"}.get(
            finding["state"], ""
        )
        yield _finding_head(finding, cwd)
        yield f"  {finding['cause']}"
        yield f"  Seen {times}, {when}{going}."
        if finding["remedy"]:
            yield f"  Remedy: {finding['remedy']}"
        for line in finding["evidence"]:
            yield f"    {line}"


def log_lines(entries: Iterable[Json], now: float) -> Iterator[str]:
    """For `taut doctor --log`: a line per entry, the oldest first."""
    for entry in entries:
        finding = entry["finding"]
        count = f" ({finding['count']} times)" if finding["count"] > 1 else ""
        state = "" if finding["state"] == "seen" else f", {finding['state']}"
        yield (
            f"{_clock(entry['time'], now)} {entry['program']} [{entry['pid']}]: "
            f"{_finding_head(finding, '')}{state}: {finding['cause']}{count}"
        )
        if finding["remedy"] and finding["count"] == 1 and finding["state"] != "over":
            yield f"    Remedy: {finding['remedy']}"
