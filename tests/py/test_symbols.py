"""tools/symbols.py: each check catches an object file that breaks it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "symbols.py"

pytestmark = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("nm")), reason="needs gcc and nm"
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("symbols", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


symbols = load()


def compiled(directory: Path, source: str, *options: str) -> list[Path]:
    out = directory / ("_core.so" if "-shared" in options else "x.o")
    subprocess.run(
        ["gcc", *(options or ("-c",)), "-fPIC", "-x", "c", "-", "-o", out],
        input=source,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    return [out]


def test_core_needs_python(tmp_path: Path) -> None:
    bad = compiled(tmp_path, "int PyList_New(int); int taut_f(void) { return PyList_New(0); }")
    assert list(symbols.core_breaches(bad)) == ["x.o: the core needs PyList_New"]
    bad = compiled(tmp_path, "extern int _PyRuntime; int taut_f(void) { return _PyRuntime; }")
    assert list(symbols.core_breaches(bad)) == ["x.o: the core needs _PyRuntime"]


@pytest.mark.parametrize("call", ["socket", "epoll_ctl", "send", "recvmsg", "epoll_wait"])
def test_binding_calls_past_the_core(tmp_path: Path, call: str) -> None:
    bad = compiled(tmp_path, f"int {call}(int); int taut_f(void) {{ return {call}(0); }}")
    assert list(symbols.binding_breaches(bad)) == [f"x.o: the binding calls {call}() past the core"]


def test_global_name_without_prefix(tmp_path: Path) -> None:
    source = (
        "int helper(void) { return 1; } int taut_x; static int own; int *p(void) { return &own; }"
    )
    bad = compiled(tmp_path, source)
    assert sorted(symbols.name_breaches(bad)) == [
        "x.o: global symbol helper does not start with taut_",
        "x.o: global symbol p does not start with taut_",
    ]


def test_exports(tmp_path: Path) -> None:
    good = 'int taut_x; __attribute__((visibility("default"))) void *PyInit__core(void) {return 0;}'
    hidden = ("-shared", "-fvisibility=hidden")
    assert list(symbols.export_breaches(compiled(tmp_path, good, *hidden))) == []
    found = list(symbols.export_breaches(compiled(tmp_path, good, "-shared")))
    assert found == ["_core.so: exports taut_x"]
    found = list(symbols.export_breaches(compiled(tmp_path, "int taut_x;", *hidden)))
    assert found == ["_core.so: does not export PyInit__core"]


def test_a_symbol_of_ours_that_is_defined_nowhere(tmp_path: Path) -> None:
    source = "int taut_lost(void); int taut_f(void) { return taut_lost(); }"
    bad = compiled(tmp_path, source, "-shared")
    assert list(symbols.undefined_breaches(bad)) == ["_core.so: taut_lost is defined nowhere"]


def test_core_compiled_with_pythons_include_path() -> None:
    entry = {"file": "../src/io/loop.c", "command": "cc -I/opt/py/include/python3.11 -c loop.c"}
    assert list(symbols.include_breaches([entry], "/opt/py/include/python3.11"))
    binding = {**entry, "file": "../src/binding/module.c"}
    assert not list(symbols.include_breaches([binding], "/opt/py/include/python3.11"))


def test_an_empty_build_directory_is_a_breach(tmp_path: Path) -> None:
    (tmp_path / "compile_commands.json").write_text("[]")
    assert len(symbols.breaches(tmp_path)) == 3
    done = subprocess.run([sys.executable, TOOL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
