"""The taut command: programs run as under python itself, on taut's loop, and say so."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
from programs import Python, Service, python  # noqa: F401

import taut

ON_TAUT = f"taut: running on taut {taut.__version__} (Python {platform.python_version()})"
KIND = "type(asyncio.get_running_loop()).__module__"
SHOW = f"import asyncio\nasync def main(): print({KIND})\n"


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.run(main())",
        "with asyncio.Runner() as runner: runner.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        "import taut; taut.run(main())",
        "from asyncio import run; run(main())",
    ],
)
def test_asyncios_own_functions_give_taut_loops(python: Python, tmp_path: Path, call: str) -> None:
    (tmp_path / "app.py").write_text(f"{SHOW}{call}\n")
    done = python("-m", "taut", "run", "app.py")
    assert (done.status, done.out, done.err) == (0, "taut.loop\n", ON_TAUT + "\n")


def test_the_line_is_written_once_and_only_when_a_loop_runs(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        SHOW + "import sys\n"
        "asyncio.new_event_loop().close()\n"
        "print('before', file=sys.stderr)\n"
        "asyncio.run(main()); asyncio.run(main())\n"
    )
    done = python("-m", "taut", "run", "app.py")
    assert done.err == f"before\n{ON_TAUT}\n"


def test_another_loop_is_called_by_its_name(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        SHOW + "with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:\n"
        "    runner.run(main())\n"
    )
    done = python("-m", "taut", "run", "app.py")
    assert done.out == "asyncio.unix_events\n"
    assert done.err == (
        "taut: running on asyncio.unix_events._UnixSelectorEventLoop, not on taut "
        f"(Python {platform.python_version()})\n"
    )


def test_uvloop_is_called_by_its_name(python: Python, tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    (tmp_path / "app.py").write_text(SHOW + "import uvloop\nuvloop.run(main())\n")
    done = python("-m", "taut", "run", "app.py")
    assert done.out == "uvloop\n"
    assert done.err.startswith("taut: running on uvloop.Loop, not on taut ")
    assert done.err.count("\n") == 1


STATE = """\
import json, os, sys
main = sys.modules["__main__"]
spec = main.__spec__
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "file": __file__, "name": __name__,
    "package": __package__, "spec": spec and spec.name, "doc": __doc__,
    "loader": type(__loader__).__name__, "globals": sorted(globals()), "cwd": os.getcwd(),
    "main": main.__dict__ is globals(), "builtins": str(__builtins__), "cached": __cached__,
}))
"""


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="__cached__ and __package__ go away")
@pytest.mark.parametrize(
    "args",
    [
        ["app.py", "--flag", "run", "-m"],
        ["./sub/../app.py"],
        ["sub/deep.py", "a b"],
        ["link.py"],
        ["noext"],
        ["app.pyc", "x"],
        ["bundle.zip", "x"],
        ["pkg", "x"],
        ["-m", "app", "--help"],
        ["-m", "pkg", "x"],
        ["-m", "pkg.inner", "-m"],
        ["-mapp", "x"],
        ["-P", "app.py"],
        ["-P", "sub/deep.py"],
    ],
)
def test_a_program_sees_what_it_sees_under_python(
    python: Python, tmp_path: Path, args: list[str]
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "pkg").mkdir()
    for name in ("app.py", "sub/deep.py", "noext", "pkg/__main__.py", "pkg/inner.py"):
        (tmp_path / name).write_text(STATE)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "link.py").symlink_to("sub/deep.py")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as bundle:
        bundle.writestr("__main__.py", STATE)
    compile_it = "import py_compile; py_compile.compile('app.py', cfile='app.pyc')"
    assert python("-c", compile_it).status == 0

    # -P is the interpreter's own option: sys.path gets no entry for the program.
    options = ["-P"] if args[0] == "-P" else []
    program = args[len(options) :]
    expected = python(*options, *program)
    seen = python(*options, "-m", "taut", "run", *program)
    assert expected.status == 0, expected
    assert seen.out == expected.out
    assert (seen.status, seen.err) == (0, "")


@pytest.mark.parametrize(
    "end",
    [
        "",
        "raise SystemExit",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('bad luck')",
        "import sys; sys.exit(True)",
        "1 / 0",
        "raise KeyboardInterrupt",
        "import os; os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        "def f(:",
        "import gone",
        "raise ValueError('a') from KeyError('b')",
        "import atexit, sys; atexit.register(print, 'bye'); name = 1; "
        "atexit.register(lambda: print(name, sys.modules['__main__'].name)); 1 / 0",
        "import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__); 1 / 0",
        "import threading; threading.Timer(0.05, print, ['late']).start()",
    ],
)
@pytest.mark.parametrize("args", [["app.py"], ["-m", "app"]])
def test_a_program_ends_as_it_ends_under_python(
    python: Python, tmp_path: Path, end: str, args: list[str]
) -> None:
    (tmp_path / "app.py").write_text(f"print('started', flush=True)\n{end}\n")
    expected = python(*args)
    seen = python("-m", "taut", "run", *args)
    assert (seen.status, seen.out) == (expected.status, expected.out)
    if args[0] != "-m":
        assert seen.err == expected.err
        return
    # There python shows its own frames, in runpy; we show nothing of ours.
    ours, its = (
        [x for x in text.splitlines() if "<frozen " not in x and not x.startswith("Traceback")]
        for text in (seen.err, expected.err)
    )
    assert ours == its


def test_a_coroutine_function_of_a_module(python: Python, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "import asyncio, sys\n"
        "class Api:\n"
        "    @staticmethod\n"
        f"    async def main(level=1): print({KIND}, level, sys.argv[1:], __name__)\n"
    )
    done = python("-m", "taut", "run", "service:Api.main", "--x", "1")
    assert (done.status, done.err) == (0, ON_TAUT + "\n")
    assert done.out == "taut.loop 1 ['--x', '1'] service\n"


def test_a_coroutine_function_that_fails(python: Python, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "async def main():\n    raise ValueError('no')\n"
        "async def leave():\n    raise SystemExit(5)\n"
    )
    done = python("-m", "taut", "run", "service:main")
    assert done.status == 1
    assert done.err.splitlines()[-1] == "ValueError: no"
    assert done.err.count("Traceback") == 1
    assert python("-m", "taut", "run", "service:leave").status == 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to do; see taut --help"),
        (["walk"], "unknown command 'walk'; see taut --help"),
        (["--fast"], "unknown command '--fast'; see taut --help"),
        (["run"], "nothing to run: name a script, module:function or -m module"),
        (["run", "--"], "nothing to run: name a script, module:function or -m module"),
        (["run", "gone.py"], "can't open 'gone.py': No such file or directory"),
        (["run", "gone/"], "can't open 'gone/': No such file or directory"),
        (["run", "empty"], "can't find '__main__.py' in 'empty'"),
        (["run", "-m"], "option -m needs a value"),
        (["run", "-m", "gone"], "no module named 'gone'"),
        (["run", "-m", "gone.deep"], "no module named 'gone.deep'"),
        (["run", "-m", "app.deep"], "no module named 'app.deep'"),
        (["run", "-m", ".app"], "not a module name: '.app'"),
        (["run", "-m", "json.decoder."], "not a module name: 'json.decoder.'"),
        (["run", "-m", "encodings"], "package 'encodings' cannot be run: it has no __main__"),
        (["run", "-m", "math"], "module 'math' cannot be run: it has no code"),
        (["run", "gone:main"], "no module named 'gone'"),
        (["run", "app:gone"], "module 'app' has no attribute 'gone'"),
        (["run", "app:main.gone"], "module 'app' has no attribute 'main.gone'"),
        (["run", "app:plain"], "'app:plain' is not a coroutine function"),
        (["run", "app:number"], "'app:number' is not a coroutine function"),
        (
            ["run", "app:hungry"],
            "'app:hungry' cannot be called without arguments: missing a required argument: 'x'",
        ),
        (["run", "--fast", "app.py"], "unknown option '--fast'; see taut run --help"),
        (["run", "--stall"], "option --stall needs a value"),
        *(
            (
                ["run", "--stall", bad, "app.py"],
                f"--stall {bad!r}: not a time above zero such as 20ms, 0.5s or 800us, nor off",
            )
            for bad in ("", "fast", "-1ms", "20 min", "nan", "0", "0.0ms", "1e3", "٣ms", "20ms!")
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    python: Python, tmp_path: Path, args: list[str], message: str
) -> None:
    (tmp_path / "app.py").write_text(
        "async def main(): pass\nasync def hungry(x): pass\ndef plain(): pass\nnumber = 1\n"
    )
    (tmp_path / "empty").mkdir()
    done = python("-m", "taut", *args)
    assert (done.status, done.out, done.err) == (2, "", f"taut: {message}\n")


@pytest.mark.parametrize("args", [["-m", "app"], ["app:main"], ["-m", "pkg.app"]])
def test_a_broken_import_inside_the_program_is_its_own(
    python: Python, tmp_path: Path, args: list[str]
) -> None:
    (tmp_path / "pkg").mkdir()
    for name in ("app.py", "pkg/__init__.py"):
        (tmp_path / name).write_text("import missing_dependency\nasync def main(): pass\n")
    done = python("-m", "taut", "run", *args)
    assert done.status == 1
    assert done.err.splitlines()[0] == "Traceback (most recent call last):"
    assert done.err.splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'missing_dependency'"
    )
    assert "_program.py" not in done.err


@pytest.mark.parametrize("value", ["20ms", "0.5s", "800us", ".25", "1", "off", " 20MS "])
@pytest.mark.parametrize("form", ["two", "one"])
def test_stall_is_handed_on(python: Python, tmp_path: Path, value: str, form: str) -> None:
    (tmp_path / "app.py").write_text("import os; print(os.environ['TAUT_STALL'])")
    option = ["--stall", value] if form == "two" else [f"--stall={value}"]
    done = python("-m", "taut", "run", *option, "app.py", TAUT_STALL="7s")
    assert (done.status, done.out, done.err) == (0, value.strip().lower() + "\n", "")


def test_the_environments_stall_is_kept(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os; print(os.environ.get('TAUT_STALL'))")
    assert python("-m", "taut", "run", "app.py", TAUT_STALL="7s").out == "7s\n"
    assert python("-m", "taut", "run", "app.py").out == "off\n"  # as programs.py has it


def test_help_and_version(python: Python) -> None:
    for args in (["--help"], ["-h"], ["run", "--help"], ["run", "-h"]):
        done = python("-m", "taut", *args)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("usage: taut run") and "--stall TIME" in done.out
    for option in ("--version", "-V"):
        done = python("-m", "taut", option)
        assert (done.status, done.err) == (0, "")
        assert done.out == f"taut {taut.__version__} (Python {platform.python_version()})\n"


def test_ctrl_c_ends_a_script_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    print('ready', flush=True)\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "asyncio.run(main())\n"
    )
    with Service("-m", "taut", "run", "app.py", cwd=tmp_path) as service:
        service.wait_for(lambda text: "ready\n" in text, "ready")
        assert service.stop(signal.SIGINT) == -signal.SIGINT
    assert "cleaned up\n" in service.text
    assert service.text.endswith("\nKeyboardInterrupt\n")
    assert "_program.py" not in service.text


CHILD = "import asyncio; print('child', asyncio.run(kind()))"
SPAWN = f"""\
import asyncio, multiprocessing, os, sys

async def kind():
    return {KIND}

def child():
    print("child", asyncio.run(kind()), sys.path[0] == {{path0}}, flush=True)

if __name__ == "__main__":
    print("main", asyncio.run(kind()), flush=True)
    context = multiprocessing.get_context(sys.argv[1])
    process = context.Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("how", [["app.py"], ["-m", "app"]])
def test_multiprocessing_children_inherit_the_loop(
    python: Python, tmp_path: Path, method: str, how: list[str]
) -> None:
    (tmp_path / "app.py").write_text(SPAWN.replace("{path0}", repr(str(tmp_path))))
    done = python("-m", "taut", "run", *how, method)
    assert (done.status, done.out) == (0, "main taut.loop\nchild taut.loop True\n"), done
    lines = done.err.splitlines()
    assert lines[0] == ON_TAUT
    assert len(lines) == 2
    assert lines[1].startswith(f"{ON_TAUT}, process ")


SUBPROCESS = f"""\
import os, subprocess, sys
child = '''
import asyncio, sys
async def main(): print({KIND})
print(any(p.endswith("_site") for p in sys.path), sys.modules.get("sitecustomize"))
asyncio.run(main())
'''
sys.exit(subprocess.run([sys.executable, *sys.argv[1:], "-c", child]).returncode)
"""


def test_python_subprocesses_inherit_the_loop(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SUBPROCESS)
    done = python("-m", "taut", "run", "app.py")
    assert done.status == 0
    assert done.out.splitlines()[-1] == "taut.loop"
    assert done.out.startswith("False ")
    assert done.err.startswith(f"{ON_TAUT}, process ") and done.err.count("\n") == 1


def test_an_isolated_subprocess_is_left_alone(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SUBPROCESS)
    done = python("-m", "taut", "run", "app.py", "-E")
    assert (done.status, done.out.splitlines()[-1], done.err) == (0, "asyncio.unix_events", "")


def test_a_hidden_sitecustomize_still_runs(python: Python, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import builtins; builtins.customized = 'yes'\n")
    (tmp_path / "app.py").write_text(SUBPROCESS.replace("print(any", "print(customized, any"))
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = python("-m", "taut", "run", "app.py", PYTHONPATH=path)
    assert done.status == 0, done
    assert done.out.startswith(f"yes False <module 'sitecustomize' from '{hidden}")
    assert done.out.splitlines()[-1] == "taut.loop"


def test_a_broken_sitecustomize_is_reported_as_ever(python: Python, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("1 / 0\n")
    (tmp_path / "app.py").write_text(SUBPROCESS)
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = python("-m", "taut", "run", "app.py", PYTHONPATH=path)
    assert done.status == 0, done
    assert done.out.splitlines()[-1] == "taut.loop"
    assert "Error in sitecustomize" in done.err and "ZeroDivisionError" in done.err


def test_a_child_that_cannot_import_taut_runs_on_asyncio(python: Python, tmp_path: Path) -> None:
    site = Path(taut.__file__).parent / "_site"
    copy = tmp_path / "site"
    shutil.copytree(site, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import asyncio\nasync def main(): print({KIND})\nasyncio.run(main())"
    # -S and a path of our own: neither this Python's packages nor the tests' PYTHONPATH.
    done = python(
        "-S", "-c", f"import site, sitecustomize\n{code}", PYTHONPATH=str(copy), TAUT_RUN="1"
    )
    assert (done.status, done.out, done.err) == (0, "asyncio.unix_events\n", ""), done


def test_a_child_whose_taut_is_broken_runs_on_asyncio_and_says_so(
    python: Python, tmp_path: Path
) -> None:
    site = Path(taut.__file__).parent / "_site"
    (tmp_path / "path").mkdir()
    package = tmp_path / "path" / "taut"
    package.mkdir()
    for file in Path(taut.__file__).parent.iterdir():
        if not file.name.startswith("_core"):
            (package / file.name).symlink_to(file.resolve())
    code = f"import asyncio\nasync def main(): print({KIND})\nasyncio.run(main())"
    done = python("-c", code, PYTHONPATH=f"{site}{os.pathsep}{tmp_path / 'path'}", TAUT_RUN="1")
    assert (done.status, done.out) == (0, "asyncio.unix_events\n"), done
    assert done.err.startswith("taut: not used in process ")
    assert "taut._core" in done.err and done.err.count("\n") == 1


def test_asyncio_is_not_imported_into_children_that_do_not_ask(
    python: Python, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import subprocess, sys\n"
        'code = \'import sys; print("asyncio" in sys.modules, "taut" in sys.modules)\'\n'
        "subprocess.run([sys.executable, '-c', code])\n"
    )
    done = python("-m", "taut", "run", "app.py")
    assert (done.status, done.out, done.err) == (0, "False False\n", "")


@pytest.mark.parametrize(
    ("args", "before", "after"),
    [
        ([], None, "taut:new_event_loop"),
        (["--loop", "uvloop"], None, None),
        (["--loop=asyncio"], "none", "none"),
    ],
)
def test_uvicorns_loop_is_chosen_unless_the_user_did(
    python: Python, tmp_path: Path, args: list[str], before: str | None, after: str | None
) -> None:
    (tmp_path / "app.py").write_text("import os; print(os.environ.get('UVICORN_LOOP'))")
    env = {} if before is None else {"UVICORN_LOOP": before}
    done = python("-m", "taut", "run", "app.py", *args, **env)
    assert (done.status, done.out) == (0, f"{after}\n")


@pytest.mark.parametrize(
    ("version", "value"),
    [("0.35.0", "auto"), ("0.36.0", "taut:new_event_loop"), ("1.0", "taut:new_event_loop")],
)
def test_old_uvicorns_get_a_value_that_they_know(
    python: Python, tmp_path: Path, version: str, value: str
) -> None:
    info = tmp_path / "path" / f"uvicorn-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: uvicorn\nVersion: {version}\n")
    (tmp_path / "app.py").write_text("import os; print(os.environ['UVICORN_LOOP'])")
    path = os.pathsep.join(filter(None, [str(info.parent), os.environ.get("PYTHONPATH")]))
    assert python("-m", "taut", "run", "app.py", PYTHONPATH=path).out == f"{value}\n"
