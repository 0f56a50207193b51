"""Where there is no extension taut runs on asyncio and says so; on Linux that is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import Python, python  # noqa: F401

import taut

# Everything that asks for the platform while being imported is imported before it changes.
ELSEWHERE = """
import asyncio, asyncio.sslproto, socket, subprocess, sys
sys.platform = "darwin"
sys.modules["taut._core"] = None
"""
HIDDEN = """
import sys
sys.modules["taut._core"] = None
"""


def test_elsewhere_the_same_program_runs_on_asyncio(python: Python) -> None:
    done = python(
        "-W",
        "error",
        "-c",
        ELSEWHERE + "import taut\n"
        "async def main():\n"
        "    return type(asyncio.get_running_loop()) is asyncio.SelectorEventLoop\n"
        "print(taut.run(main()), taut.run(main()))\n"
        "loop = taut.new_event_loop()\n"
        "print(type(loop) is taut.Loop is asyncio.SelectorEventLoop)\n"
        "loop.close()\n"
        "taut.install()\n"
        "print(asyncio.run(main()))\n"
        "with taut.Runner() as runner:\n"
        "    print(runner.run(main()))\n",
    )
    assert (done.status, done.out) == (0, "True True\nTrue\nTrue\nTrue\n"), done
    assert done.err.startswith("taut: no native loop for darwin on ")
    assert "running on asyncio" in done.err
    assert done.err.count("\n") == 1


def test_elsewhere_taut_run_works_and_says_so_once(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "async def main(): print(type(asyncio.get_running_loop()).__module__)\n"
        "asyncio.run(main())\n"
    )
    done = python("-c", ELSEWHERE + "import taut.cli; taut.cli.main(['run', 'app.py'])")
    assert (done.status, done.out) == (0, "asyncio.unix_events\n"), done
    assert done.err.startswith("taut: no native loop for darwin on ")
    assert done.err.count("\n") == 1


def test_elsewhere_the_doctor_watches_nothing_and_says_so_once(python: Python) -> None:
    done = python(
        "-W",
        "error",
        "-c",
        ELSEWHERE + "import taut\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    with taut.doctor.attach(threshold='20ms', callback=print, logger='x') as attached:\n"
        "        attached.threshold = 0.01\n"
        "        print(attached.threshold, attached.stalls, attached.longest)\n"
        "    attached.detach()\n"
        "    taut.doctor.attach(loop, 0.05)\n"
        "    taut.doctor.detach(loop)\n"
        "    taut.doctor.report_to(print, stderr=False)\n"
        "    print(vars(loop).keys() & {'close'}, vars(loop._selector).keys() & {'select'})\n"
        "asyncio.run(main())\n"
        "try:\n"
        "    taut.doctor.attach()\n"
        "except RuntimeError as exc:\n"
        "    print(exc)\n",
    )
    assert done.status == 0, done
    assert done.out.splitlines() == [
        "None 0 0.0",
        "set() set()",
        "no running event loop: pass the loop to attach()",
    ]
    assert done.err.startswith("taut: no stall reports here: ")
    assert done.err.count("\n") == 1


def test_on_linux_a_missing_extension_is_an_error(python: Python) -> None:
    done = python("-c", HIDDEN + "import taut")
    assert done.status == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("ImportError: taut's extension module (taut._core) for Python ")
    assert "pip install taut" in last


def test_on_linux_a_broken_extension_is_an_error(python: Python, tmp_path: Path) -> None:
    package = tmp_path / "taut"
    package.mkdir()
    for file in Path(taut.__file__).parent.iterdir():
        if not file.name.startswith("_core"):
            (package / file.name).symlink_to(file.resolve())
    (package / "_core.abi3.so").write_bytes(b"\x7fELF and no more")
    done = python("-c", "import taut", PYTHONPATH=str(tmp_path))
    assert done.status == 1
    assert "ImportError" in done.err.splitlines()[-1]
    assert "_core.abi3.so" in done.err.splitlines()[-1]


def test_a_sub_interpreter_is_refused_with_a_clear_message(python: Python) -> None:
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    pytest.importorskip(module)
    done = python(
        "-c",
        f"import os, {module} as sub\n"
        "code = '''\n"
        "try:\n"
        "    import taut\n"
        "except ImportError as exc:\n"
        "    print(exc, flush=True)\n"
        "else:\n"
        "    print('imported', flush=True)\n"
        "'''\n"
        "interpreter = sub.create()\n"
        "sub.run_string(interpreter, code)\n"
        "os._exit(0)\n",  # 3.12.1 crashes at exit once a subinterpreter has imported asyncio
    )
    assert done.status == 0, done
    assert "imported" not in done.out
    assert "subinterpreters" in done.out and "taut" in done.out, done


def test_a_free_threaded_python_is_refused_when_building(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    if shutil.which("meson") is None or not (root / "meson.build").exists():
        pytest.skip("no meson, or not in the source tree")
    (tmp_path / "sitecustomize.py").write_text(  # what such a build says of itself
        "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1\n"
    )
    done = subprocess.run(
        ["meson", "setup", str(tmp_path / "build"), str(root)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 1
    assert "ERROR: Problem encountered: taut does not support free-threaded builds" in done.stdout
