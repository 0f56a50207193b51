"""The commands that ask running processes: ``taut ps``, ``doctor``, ``stack``, ``dump`` and
``cancel``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from .._portable import NATIVE
from .._program import ArgumentError
from . import _client, _show

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["NAMES", "main"]

NAMES = ("ps", "doctor", "stack", "dump", "cancel")
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


class _Choose(Exception):
    """No process was named and it is not clear which one is meant."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}; see {self.prog} --help")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?)(s|min|m|h|d)?", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30min, 2h or 1d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _pid(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a process")
    return int(text)


def _parser(command: str) -> _Parser:
    about = {
        "ps": "List the tasks of a process as a tree by who waits for whom.",
        "doctor": "Say what is wrong in a process. Exit status: 1 if anything is.",
        "stack": "Print the Python stacks of all threads and tasks of a process.",
        "dump": "Write what the loops of a process did last as a trace for ui.perfetto.dev.",
        "cancel": "Ask a task of a process to cancel.",
    }
    parser = _Parser(prog=f"taut {command}", description=about[command], allow_abbrev=False)
    if command == "cancel":
        parser.add_argument("pid", type=_pid, metavar="PID")
        parser.add_argument("task", metavar="TASK", help="its name, or its id as ps gives it")
    else:
        parser.add_argument(
            "pid", type=_pid, nargs="?", metavar="PID",
            help="default: the only process of this user with a taut loop",
        )  # fmt: skip
    if command == "ps":
        parser.add_argument("--all", action="store_true", help="also tasks that are like others")
    if command == "dump":
        parser.add_argument(
            "-o", "--output", metavar="FILE",
            help="default: taut-PID.json in this directory; - is the standard output",
        )  # fmt: skip
    if command == "doctor":
        parser.add_argument(
            "--log", action="store_true",
            help="what all processes of this user have found, from the journal on disk",
        )  # fmt: skip
        parser.add_argument(
            "--since", type=_seconds, metavar="TIME", help="of the log only the last TIME: 2h, 1d"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _choose(pid: int | None) -> _client.Process:
    if pid is not None:
        return _client.find(pid)
    found = _client.processes()
    if len(found) == 1:
        return found[0]
    if not found:
        raise _client.ConsoleError("no process of this user runs a taut loop")
    lines = [f"  {process.pid}  {process.command}" for process in found]
    raise _Choose("several processes have a taut loop; name one:\n" + "\n".join(lines))


def _print(answer: Any, as_json: bool, lines: Iterable[str]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    for line in lines:
        print(line)


# ---- the journal ----


def _entries(path: str) -> Iterator[dict[str, Any]]:
    """Lines of both files, the older first; what was cut off by a full disk is passed over."""
    for name in (f"{path}.1", path):
        try:
            with open(name, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        entry = json.loads(line)
                        if isinstance(entry["finding"]["code"], str):
                            yield entry
                    except (ValueError, KeyError, TypeError):
                        continue
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise _client.ConsoleError(f"{name}: {exc.strerror}") from None


def _log(options: argparse.Namespace) -> int:
    path = _core.journal_path()
    if path is None:
        raise _client.ConsoleError("there is no journal: TAUT_JOURNAL or a missing HOME says so")
    now = time.time()
    since = 0.0 if options.since is None else now - options.since
    found = [
        entry
        for entry in _entries(path)
        if entry["time"] >= since and options.pid in (None, entry["pid"])
    ]
    _print(found, options.json, _show.log_lines(found, now) if found else ["Nothing was found."])
    return 1 if found else 0


# ---- the commands ----


def _ps(options: argparse.Namespace) -> int:
    process = _choose(options.pid)
    answer = _client.ask(process, "ps")
    lines = _show.task_lines(answer, process.command, process.cwd, options.all)
    _print(answer, options.json, lines)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    if options.log:
        return _log(options)
    if options.since is not None:
        raise ArgumentError("--since is for --log; see taut doctor --help")
    process = _choose(options.pid)
    answer = _client.ask(process, "doctor")
    found = answer["findings"]
    lines = _show.finding_lines(found, process.cwd, time.time())
    _print(answer, options.json, lines if found else ["Nothing was found."])
    return 1 if found else 0


def _stack(options: argparse.Namespace) -> int:
    process = _choose(options.pid)
    answer = _client.ask(process, "stack")
    _print(answer, options.json, _show.stack_lines(answer, process.command))
    return 0


def _dump(options: argparse.Namespace) -> int:
    process = _choose(options.pid)
    text, answer = _client.fetch(process, "dump")
    if options.json or options.output == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return 0
    path = options.output or f"taut-{process.pid}.json"
    try:
        with open(path, "wb") as file:
            file.write(text)
    except OSError as exc:
        raise _client.ConsoleError(f"{path}: {exc.strerror}") from None
    if answer["otherData"]["loops"] == 0:
        print(f"{path}: nothing was recorded: TAUT_RECORDER=0, or no loop has run.")
        return 0
    count = sum(event["ph"] != "M" for event in answer["traceEvents"])
    print(f"{path}: {count} events; open it in https://ui.perfetto.dev")
    return 0


def _task(answer: dict[str, Any], wanted: str) -> dict[str, Any]:
    named: list[dict[str, Any]] = [t for t in answer["tasks"] if wanted in (t["name"], t["id"])]
    if not named:
        raise _client.ConsoleError(f"process {answer['pid']} has no task {wanted!r}")
    if len(named) > 1:
        ids = ", ".join(task["id"] for task in named)
        raise _client.ConsoleError(f"several tasks are called {wanted!r}; take an id: {ids}")
    return named[0]


def _cancel(options: argparse.Namespace) -> int:
    process = _client.find(options.pid)
    task = _task(_client.ask(process, "ps"), options.task)
    name = task["name"] if task["name"] and "\n" not in task["name"] else ""
    answer = _client.ask(process, f"cancel {task['id']} {name}".rstrip())
    said = {
        "asked": f"{options.task} was asked to cancel.",
        "queued": f"The loop is blocked; that {options.task} is to cancel is queued on it.",
        "refused": f"{options.task} refused: its cancel() said no, or its loop is closed.",
        "gone": f"{options.task} is over.",
    }
    _print(answer, options.json, [said.get(answer["result"], answer["result"])])
    return 0 if answer["result"] in ("asked", "queued") else 1


def main(command: str, args: list[str]) -> int:
    """Run one of NAMES with these arguments and return the exit status.

    Status 1: something was found, or the process cannot be asked (a line on stderr says why).
    Status 2: the arguments are wrong, or do not say which process is meant.

    Raises:
        ArgumentError: the arguments are wrong.
    """
    options = _parser(command).parse_args(args)
    if not NATIVE:
        raise ArgumentError("the doctor needs taut's extension, which is for Linux")
    run = {"ps": _ps, "doctor": _doctor, "stack": _stack, "dump": _dump, "cancel": _cancel}[command]
    try:
        return run(options)
    except _Choose as exc:
        print(f"taut: {exc}", file=sys.stderr)
        return 2
    except _client.ConsoleError as exc:
        print(f"taut: {exc}", file=sys.stderr)
        return 2 if command == "doctor" else 1
