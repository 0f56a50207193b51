"""Running a program under ``taut run`` as the interpreter would: __main__, argv, path, errors."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import inspect
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Coroutine
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType
from typing import Any, NoReturn

from . import _runner

__all__ = ["ArgumentError", "is_entry_point", "run_entry_point", "run_module", "run_script"]

_HERE = os.path.dirname(os.path.abspath(__file__))


class ArgumentError(Exception):
    """What was asked for cannot be run; the message is one line for the user."""


def run_script(path: str, args: list[str]) -> None:
    """Run a file, or a directory or zip archive with a ``__main__.py``, as ``python path args``.

    Raises ArgumentError when it cannot be read, else whatever the program raises.
    """
    # Absolute but not normalised, which is what the interpreter makes of it.
    file = os.path.join(os.getcwd(), path)
    is_source = path.endswith((".py", ".pyc")) and not os.path.isdir(file)
    importer = None if is_source else pkgutil.get_importer(file)
    if importer is not None:
        sys.argv[:] = [path, *args]
        _set_path0(file)
        spec = importer.find_spec("__main__")
        if spec is None:
            raise ArgumentError(f"can't find '__main__.py' in {path!r}")
        _exec_spec(spec)
        return
    try:
        with io.open_code(file) as stream:
            data = stream.read()
    except OSError as exc:
        raise ArgumentError(f"can't open {path!r}: {exc.strerror or exc}") from None
    sys.argv[:] = [path, *args]
    _set_path0(os.path.dirname(os.path.realpath(path)))
    loader: SourceFileLoader | SourcelessFileLoader
    if path.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", file)
        code = _guard(lambda: loader.get_code("__main__"))
    else:
        loader = SourceFileLoader("__main__", file)
        code = _guard(lambda: compile(data, file, "exec", dont_inherit=True))
    assert code is not None
    _exec_main(code, file=file, loader=loader, spec=None, package=None)


def run_module(name: str, args: list[str]) -> None:
    """Run a module, or a package's ``__main__``, as ``python -m name args``.

    Raises ArgumentError when there is no such module, else whatever the program raises.
    """
    sys.argv[:] = ["-m", *args]
    _set_path0(os.getcwd())
    spec = _find_spec(name)
    if spec.submodule_search_locations is not None:
        try:
            spec = _find_spec(f"{name}.__main__")
        except ArgumentError:
            raise ArgumentError(f"package {name!r} cannot be run: it has no __main__") from None
    sys.argv[0] = spec.origin or name
    _exec_spec(spec)


def is_entry_point(target: str) -> bool:
    """Whether `target` reads as ``module:function`` and is not a file of that name."""
    module, colon, function = target.partition(":")
    dotted = all(part.isidentifier() for name in (module, function) for part in name.split("."))
    return bool(colon) and dotted and not os.path.exists(target)


def run_entry_point(target: str, args: list[str]) -> None:
    """Import the module of ``module:coroutine_function`` and run that function, without arguments.

    Raises ArgumentError when there is no such module or function or it is not a coroutine
    function, else whatever the program raises.
    """
    module_name, _, attribute = target.partition(":")
    _set_path0(os.getcwd())
    spec = _find_spec(module_name)
    sys.argv[:] = [spec.origin or module_name, *args]
    found: Any = _guard(lambda: importlib.import_module(module_name))
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ArgumentError(f"module {module_name!r} has no attribute {attribute!r}") from None
    if not inspect.iscoroutinefunction(found):
        raise ArgumentError(f"{target!r} is not a coroutine function")
    function: Callable[[], Coroutine[Any, Any, object]] = found
    try:
        inspect.signature(function).bind()
    except TypeError as exc:
        raise ArgumentError(f"{target!r} cannot be called without arguments: {exc}") from None
    _guard(lambda: _runner.run(function()))


def _set_path0(entry: str) -> None:
    # With -P or PYTHONSAFEPATH the interpreter put nothing there either.
    if not sys.flags.safe_path:
        sys.path[:1] = [entry]


def _find_spec(name: str) -> ModuleSpec:
    if not all(name.split(".")):
        raise ArgumentError(f"not a module name: {name!r}")
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as exc:
        # A parent of `name` is missing; an import that fails inside of a parent is the program's.
        if exc.name is None or not (name + ".").startswith(exc.name + "."):
            _show_and_reraise(exc)
        spec = None
    except ValueError:  # it is imported already and has no spec
        spec = None
    except Exception as exc:
        _show_and_reraise(exc)
    if spec is None:
        raise ArgumentError(f"no module named {name!r}")
    return spec


def _exec_spec(spec: ModuleSpec) -> None:
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else _guard(lambda: get_code(spec.name))
    if code is None:
        raise ArgumentError(f"module {spec.name!r} cannot be run: it has no code")
    _exec_main(code, file=spec.origin, loader=spec.loader, spec=spec, package=spec.parent)


def _exec_main(
    code: CodeType, *, file: str | None, loader: Any, spec: ModuleSpec | None, package: str | None
) -> None:
    # A fresh __main__ that stays until the end: multiprocessing, pickle, threads and atexit
    # functions look at it, and it must show nothing of ours.
    main = ModuleType("__main__")
    if sys.version_info < (3, 14):
        main.__dict__["__annotations__"] = {}
    main.__dict__.update(
        __builtins__=builtins,
        __cached__=None if spec is None else spec.cached,
        __file__=file,
        __loader__=loader,
        __package__=package,
        __spec__=spec,
    )
    sys.modules["__main__"] = main
    _guard(lambda: exec(code, main.__dict__))


def _guard(call: Callable[[], Any]) -> Any:
    """Call the program; an exception's traceback is shown without the frames that started it."""
    try:
        return call()
    except SystemExit:
        raise
    except BaseException as exc:
        _show_and_reraise(exc)


def _show_and_reraise(exc: BaseException) -> NoReturn:
    # Letting it go on, rather than exiting with 1, leaves to the interpreter what follows from it:
    # a KeyboardInterrupt ends the process by SIGINT, as shells expect.
    tb = exc.__traceback__
    while tb is not None and _is_ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    sys.excepthook(type(exc), exc.with_traceback(tb), tb)
    sys.excepthook = lambda *_: None
    raise exc


def _is_ours(filename: str) -> bool:
    return os.path.dirname(filename) == _HERE or filename.startswith("<frozen importlib")
