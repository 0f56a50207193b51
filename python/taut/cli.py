"""The ``taut`` command."""

from __future__ import annotations

import os
import platform
import re
import sys

from . import _launch, _program
from ._version import __version__

__all__ = ["main"]

_USAGE = """\
usage: taut run [options] script.py [args ...]
       taut run [options] module:coroutine_function [args ...]
       taut run [options] -m module [args ...]
       taut ps|doctor|stack [PID] [--json]
       taut doctor --log [--since TIME] [--json]
       taut dump [PID] [-o FILE]
       taut cancel PID TASK [--json]
       taut --version | --help

Run a Python program, unchanged, on taut's event loop. What the program starts (uvicorn's workers
and reloader, multiprocessing, other Python processes) runs on it too. One line on stderr says which
loop really runs.

  taut run app.py                      a script, as python app.py
  taut run service:main                a coroutine function of a module
  taut run -m uvicorn app:app          a module, as python -m uvicorn app:app

options of run:
  --stall TIME   report a callback that holds up the loop for longer than this, while it does:
                 20ms, 0.5s, 800us, or off (default: TAUT_STALL of the environment, else 50ms)
  --no-routes    do not count the requests of ASGI and aiohttp.web applications by route
  -m module      run a module or package
  -h, --help     show this help

Ask a running process, also while its loop is blocked; without PID the only one of this user that
runs a taut loop (see taut ps --help, taut doctor --help, ...):

  taut ps        its tasks, as a tree by who waits for whom
  taut doctor    what is wrong in it; exit status 1 if anything is
  taut stack     the Python stacks of all its threads and tasks
  taut dump      what its loops did last, as a trace for ui.perfetto.dev
  taut cancel    ask one of its tasks to cancel
  taut doctor --log   what all processes of this user have found so far
"""

_ASKING = ("ps", "doctor", "stack", "dump", "cancel")
_STALL = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(us|ms|s)?", re.ASCII)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: ``sys.argv[1:]``) and return the exit status.

    A program that ends by SystemExit or any other exception ends this function by it as well.
    Status 2: the arguments are wrong, and one line on stderr says how.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(args)
    except _program.ArgumentError as exc:
        print(f"taut: {exc}", file=sys.stderr)
        return 2


def _main(args: list[str]) -> int:
    if not args:
        raise _program.ArgumentError("nothing to do; see taut --help")
    command = args.pop(0)
    if command in ("-h", "--help"):
        print(_USAGE, end="")
    elif command in ("-V", "--version"):
        print(f"taut {__version__} (Python {platform.python_version()})")
    elif command == "run":
        _run(args)
    elif command in _ASKING:
        from .doctor import _commands

        return _commands.main(command, args)
    else:
        raise _program.ArgumentError(f"unknown command {command!r}; see taut --help")
    return 0


def _run(args: list[str]) -> None:
    module: str | None = None
    while args and args[0].startswith("-") and module is None:
        option = args.pop(0)
        name, equals, value = option.partition("=")
        if option in ("-h", "--help"):
            print(_USAGE, end="")
            return
        if option == "--":
            break
        if name == "--stall":
            os.environ["TAUT_STALL"] = _stall(value if equals else _value(option, args))
        elif option == "--no-routes":
            os.environ["TAUT_ROUTES"] = "0"
        elif option == "-m":
            module = _value(option, args)
        elif option.startswith("-m"):
            module = option[2:]
        else:
            raise _program.ArgumentError(f"unknown option {option!r}; see taut run --help")
    if module is None and not args:
        raise _program.ArgumentError("nothing to run: name a script, module:function or -m module")
    target = "" if module is not None else args.pop(0)
    _launch.export(args)
    _launch.activate()
    if module is not None:
        _program.run_module(module, args)
    elif _program.is_entry_point(target):
        _program.run_entry_point(target, args)
    else:
        _program.run_script(target, args)


def _value(option: str, args: list[str]) -> str:
    if not args:
        raise _program.ArgumentError(f"option {option} needs a value")
    return args.pop(0)


def _stall(text: str) -> str:
    value = text.strip().lower()
    match = _STALL.fullmatch(value)
    if value != "off" and (match is None or float(match[1]) == 0):
        raise _program.ArgumentError(
            f"--stall {text!r}: not a time above zero such as 20ms, 0.5s or 800us, nor off"
        )
    return value
