"""tools/tidy.py: each rule catches a tiny tree that breaks it, and leaves a clean one alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIDY = ROOT / "tools" / "tidy.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tidy", TIDY)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["tidy"] = module
    spec.loader.exec_module(module)
    return module


tidy = load()


def guarded(layer: str, stem: str, body: str = "") -> str:
    name = f"TAUT_{layer}_{stem}_H".upper()
    return f"#ifndef {name}\n#define {name}\n\n{body}\n#endif\n"


CLEAN = {
    "src/base/mem.c": '#include <stdlib.h>\n#include "base/mem.h"\n\n'
    "void *taut_malloc(size_t n) {\n    return malloc(n);\n}\n",
    "src/base/mem.h": guarded("base", "mem", "#include <stddef.h>\nvoid *taut_malloc(size_t n);\n"),
    "src/base/meson.build": "sources = ['mem.c']\n",
    "src/io/sys_linux.h": guarded(
        "io",
        "sys_linux",
        "#include <errno.h>\n#include <unistd.h>\n"
        "static inline int taut_sys_close(int fd) { return close(fd) < 0 ? -errno : 0; }\n",
    ),
    "src/binding/state.h": guarded(
        "binding", "state", '#include <Python.h>\n#include "io/sys.h"\n'
    ),
    "python/taut/loop.py": "X = 1\n",
    "python/taut/meson.build": "py.install_sources(['loop.py'])\n",
    "tests/py/test_it.py": "time.sleep(9)  # blocks: the stall under test\n",
    "Makefile": "all:\n\techo\n",
    "docs/ARCHITECTURE.md": "src/base/ src/io/ src/binding/ python/taut/ tests/py/ docs/\n",
}


def breaches(root: Path, **changes: str | None) -> set[tuple[str, str]]:
    """The (rule, path) pairs found in the clean tree with some files replaced; None removes one."""
    for path, text in {**CLEAN, **{k.replace("|", "/"): v for k, v in changes.items()}}.items():
        if text is not None:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return {(b.rule, b.path) for b in tidy.breaches(root)}


def test_clean_tree_has_no_breach(tmp_path: Path) -> None:
    assert breaches(tmp_path) == set()


LONG_FUNCTION = "int taut_f(int x) {\n" + "    x++;\n" * 69 + "    return x;\n}\n"
C_BREACHES = [
    # rule, path, what it holds
    ("include", "src/base/mem.h", guarded("base", "mem", '#include "io/loop.h"\n')),
    ("include", "src/base/mem.h", guarded("base", "mem", "#include <sys/socket.h>\n")),
    ("include", "src/base/mem.h", guarded("base", "mem", "#include <Python.h>\n")),
    ("include", "src/base/mem.h", guarded("base", "mem", '#include "mem.h"\n')),
    ("include", "src/io/sys_linux.h", guarded("io", "sys_linux", "#include <Python.h>\n")),
    ("include", "src/io/sys_linux.h", guarded("io", "sys_linux", '#include "binding/state.h"\n')),
    ("include", "src/io/sys_linux.h", guarded("io", "sys_linux", "#include <cpython/code.h>\n")),
    ("include", "src/io/x.h", guarded("io", "x", '#include "internal/pycore_frame.h"\n')),
    ("include", "src/other/x.h", guarded("other", "x")),
    ("include-guard", "src/base/mem.h", "void taut_f(void);\n"),
    ("include-guard", "src/base/mem.h", guarded("io", "mem")),
    ("file-size", "src/base/mem.h", guarded("base", "mem", "\n" * 150)),
    ("file-size", "src/base/mem.c", "int x;\n" * 601),
    ("file-size", "python/taut/loop.py", "x = 1\n" * 601),
    ("function-size", "src/base/mem.c", LONG_FUNCTION),
    ("banned", "src/base/mem.c", "void taut_f(char *a) {\n    strcpy(a, a);\n}\n"),
    ("banned", "src/base/mem.c", "void taut_f(char *a) {\n    sprintf(a, a);\n}\n"),
    ("banned", "src/base/mem.c", "void taut_f(char *a) {\n    gets(a);\n}\n"),
    ("banned", "src/base/mem.c", "void taut_f(char *a) {\n    strtok(a, a);\n}\n"),
    ("banned", "src/base/mem.c", "void taut_f(int n) {\n    alloca(n);\n}\n"),
    ("banned", "src/base/mem.c", "void taut_f(int n) {\n    assert(n);\n}\n"),
    ("allocation", "src/binding/state.h", guarded("binding", "state", "int x = malloc(1);\n")),
    ("allocation", "src/io/x.h", guarded("io", "x", "int x = (free (1), 0);\n")),
    ("system-call", "src/io/x.h", guarded("io", "x", "int x = close(1);\n")),
    ("system-call", "src/io/x.h", guarded("io", "x", "int x = epoll_ctl(1);\n")),
    ("system-call", "src/io/x.h", guarded("io", "x", "int x = clock_gettime(1);\n")),
    ("system-call", "src/io/x.h", guarded("io", "x", "int x = taut_clock_now_ns();\n")),
    ("errno", "src/io/x.h", guarded("io", "x", "int x = -errno;\n")),
    ("unbuilt", "src/base/extra.c", "int taut_extra;\n"),
    ("unbuilt", "python/taut/extra.py", "X = 1\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), C_BREACHES)
def test_breach_in_c(tmp_path: Path, rule: str, path: str, text: str) -> None:
    assert (rule, path) in breaches(tmp_path, **{path: text})


TEXT_BREACHES = [
    ("tab", "python/taut/loop.py", "if X:\n\tpass\n"),
    ("trailing-blank", "python/taut/loop.py", "X = 1 \n"),
    ("unfinished", "python/taut/loop.py", "# TO" + "DO: later\n"),
    ("unfinished", "docs/page.md", "FIX" + "ME\n"),
    ("columns", "python/taut/loop.py", "X = " + "1" * 97 + "\n"),
    ("last-line", "python/taut/loop.py", "X = 1"),
    ("sleep", "tests/py/test_it.py", "import time\ntime.sleep(1)\n"),
    ("sleep", "tests/py/test_it.py", "time.sleep(1)  # blocks:\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), TEXT_BREACHES)
def test_breach_in_text(tmp_path: Path, rule: str, path: str, text: str) -> None:
    assert (rule, path) in breaches(tmp_path, **{path: text})


def test_docs_name_every_directory(tmp_path: Path) -> None:
    found = breaches(tmp_path, **{"tools/x.py": "X = 1\n"})
    assert found == {("docs", "docs/ARCHITECTURE.md")}
    page = CLEAN["docs/ARCHITECTURE.md"].replace("docs/", "docs/ tools/")
    assert breaches(tmp_path, **{"docs/ARCHITECTURE.md": page}) == set()


def test_docs_must_exist(tmp_path: Path) -> None:
    assert ("docs", "docs/ARCHITECTURE.md") in breaches(tmp_path, **{"docs/ARCHITECTURE.md": None})


LIMITS = [
    ("src/base/mem.c", "int x;\n" * 600),
    ("src/base/mem.c", LONG_FUNCTION.replace("    x++;\n", "", 2)),
    ("src/base/mem.c", "static const int table[] = {\n" + "    1,\n" * 200 + "};\n"),
    ("src/base/mem.c", '/* strcpy(a, b) */ // gets(x)\nconst char *s = "sprintf(";\n'),
    ("src/base/mem.c", "int x = taut_assert(1) + a->free(1) + a.read(2);\n"),
    ("python/taut/loop.py", "X = " + "1" * 96 + "\n"),
    ("python/taut/loop.py", "X = " + "1" * 90 + "  # type: ignore[assignment]\n"),
    ("tests/py/test_it.py", 'SCRIPT = "time.sleep(1)"\n'),
]


@pytest.mark.parametrize(("path", "text"), LIMITS)
def test_what_is_allowed_stays_allowed(tmp_path: Path, path: str, text: str) -> None:
    assert breaches(tmp_path, **{path: text}) == set()


def test_every_exception_gives_its_reason() -> None:
    for (rule, path), reason in tidy.EXCEPTIONS.items():
        assert len(reason.split()) >= 3, (rule, path)


def test_message_names_file_line_and_rule(tmp_path: Path) -> None:
    breaches(tmp_path, **{"python/taut/loop.py": "X = 1\nY = 2 \n"})
    done = subprocess.run([sys.executable, TIDY, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "python/taut/loop.py:2: trailing-blank: " in done.stdout
