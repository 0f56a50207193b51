#!/usr/bin/env python3
"""`make test`: runs every check, says what it is doing and how long it took, goes on after a
failure, and ends with one line that counts. Started by .venv's Python after tools/bootstrap.sh.

    python tools/check.py            every check that takes minutes, under ten in all
    python tools/check.py --full     all that CI runs, under thirty
    python tools/check.py --lint     only what reads the sources
    python tools/check.py --format   rewrite the sources in the house style
    python tools/check.py --only pytest c-tests   some checks by name

What a check prints goes to build/logs/NAME.log and is shown when the check failed; test runners
print their progress as they go.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
VERSION = "%d.%d.%d" % sys.version_info[:3]
JOBS = str(max(2, len(os.sched_getaffinity(0))))
SOURCE_TESTS = ("typing", "tidy", "symbols", "bootstrap")
C_DIRECTORIES = ("src", "tests/c", "tests/fuzz", "bench/c")
SANITIZE = "-Db_sanitize=address,undefined"
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


class CheckFailed(Exception):
    """A check failed; the text says what the log does not."""


@dataclass
class Check:
    """A running check: its log, and how it starts commands."""

    name: str
    shown: bool = False
    notes: list[str] = field(default_factory=list)
    summary: str = ""  # what to show of the log when all went well

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    def run(
        self, *command: str | Path, limit_s: float = 900, env: dict[str, str] | None = None
    ) -> None:
        """Runs a command to its end from the root; CheckFailed unless it exits with 0 in time."""
        words = [str(word) for word in command]
        with self.log.open("ab") as log:
            log.write(("$ " + " ".join(words) + "\n").encode())
            log.flush()
            out = None if self.shown else log
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            try:
                done = subprocess.run(
                    words,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT if out else None,
                    env={**os.environ, "PATH": path, **(env or {})},
                    timeout=limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise CheckFailed(f"took longer than {limit_s:.0f} s: {' '.join(words)}") from None
        if done.returncode:
            raise CheckFailed(f"exit status {done.returncode}: {' '.join(words)}")

    def text(self) -> str:
        """What the check printed, as far as it went to the log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def note(self, text: str) -> None:
        """Something that the reader of the result must know, such as what was not there."""
        self.notes.append(text)

    def meson(self, directory: Path, *options: str, env: dict[str, str] | None = None) -> None:
        """Configures (once) and builds; a directory that no longer configures is made anew."""
        command = ["meson", "setup", str(directory), *options]
        stamp = directory / "options.stamp"
        text = " ".join([sys.executable, VERSION, *options, *(env or {}).values()])
        if not stamp.exists() or stamp.read_text() != text:
            shutil.rmtree(directory, ignore_errors=True)
            self.run(*command, env=env)
            stamp.write_text(text)
        self.run("ninja", "-C", directory, "-j", JOBS, env=env)


def tidy(check: Check) -> None:
    check.run(sys.executable, "tools/tidy.py")


def ruff(check: Check) -> None:
    check.run("ruff", "check", ".")


def clang_format(check: Check) -> None:
    if not shutil.which("clang-format"):
        check.note("clang-format is not installed: layout of C not checked")
        return
    files = c_files()
    check.run("clang-format", "--dry-run", "--Werror", *files)


def mypy(check: Check) -> None:
    check.run(sys.executable, "-m", "mypy", "--strict", "-p", "taut", limit_s=300)
    check.run(
        sys.executable, "-m", "mypy", "--strict", *sorted(ROOT.glob("tools/*.py")),
        limit_s=300, env={"MYPYPATH": "bench/py:examples/incidents"},
    )  # fmt: skip


def stubtest(check: Check) -> None:
    if not (ROOT / "python" / "taut" / "_core.pyi").exists():
        raise CheckFailed("python/taut/_core.pyi is missing")
    check.run(sys.executable, "-m", "mypy.stubtest", "taut",
              "--allowlist=tests/stubtest_allow.txt", limit_s=300)  # fmt: skip


def symbols(check: Check) -> None:
    check.run(sys.executable, "tools/symbols.py", BUILD / f"py-{VERSION}")


def headers(check: Check) -> None:
    """Each header compiles by itself; the core's without Python's include path."""
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    if "clang" not in compilers:
        check.note("clang is not installed: headers compiled by gcc alone")
    python = f"-I{sysconfig.get_path('include')}"
    bad = []
    for compiler in compilers:
        for header in sorted(ROOT.glob("src/**/*.h")):
            more = [python] if header.parent.name == "binding" else []
            command: list[str | Path] = [
                compiler, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers",
                "-fsyntax-only", "-Isrc", *more, "-x", "c", header,
            ]  # fmt: skip
            try:
                check.run(*command)
            except CheckFailed:
                bad.append(f"{header.relative_to(ROOT)} ({compiler})")
    if bad:
        raise CheckFailed("do not compile alone: " + ", ".join(bad))


def c_tests(check: Check) -> None:
    """The C tests under ASan and UBSan."""
    directory = BUILD / "c-sanitized"
    check.meson(directory, "-Dtests=true", "-Dextension=false", "-Dbuildtype=debugoptimized",
                "-Db_lundef=false", "-Dwerror=true", SANITIZE)  # fmt: skip
    meson_test(check, directory, env=SANITIZER_ENV)


def c_tests_valgrind(check: Check) -> None:
    require("valgrind")
    directory = BUILD / "c-plain"
    check.meson(directory, "-Dtests=true", "-Dextension=false", "-Dbuildtype=debugoptimized")
    wrap = (
        "valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite"
        " --trace-children=no --fair-sched=yes"
        f" --suppressions={ROOT / 'tests/c/valgrind.supp'}"
    )
    meson_test(check, directory, "--wrapper", wrap, "--timeout-multiplier", "10")


def c_tests_clang(check: Check) -> None:
    """The same sources through another compiler, warnings as errors, extension included."""
    require("clang")
    directory = BUILD / "clang"
    check.meson(directory, "-Dtests=true", "-Dwerror=true", env={"CC": "clang"})
    meson_test(check, directory)


def meson_test(
    check: Check, directory: Path, *options: str, env: dict[str, str] | None = None
) -> None:
    check.run("meson", "test", "-C", directory, "--no-rebuild", "--print-errorlogs", *options,
              "--num-processes", JOBS, limit_s=1500, env=env)  # fmt: skip
    if "No tests defined" in check.text():
        raise CheckFailed("there is no C test")
    check.summary = r"^(Ok|Fail|Timeout): +\d+"


def pytest(check: Check) -> None:
    check.run(sys.executable, "-m", "pytest", limit_s=900)


def pytest_asan(check: Check) -> None:
    """The Python tests with a sanitized extension. The interpreter itself leaks by design, so
    that leaks are left to the tests which count blocks."""
    directory = BUILD / f"ext-asan-{VERSION}"
    check.meson(directory, "-Dbuildtype=debugoptimized", "-Db_lundef=false", SANITIZE)
    package = directory / "path" / "taut"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "taut", package, ignore=shutil.ignore_patterns("__pycache__"))
    for extension in directory.glob("src/binding/_core*.so"):
        shutil.copy(extension, package)
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True,
                       check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]  # fmt: skip
    env = {
        "PYTHONPATH": str(package.parent),
        "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    # Checks of the sources and of the tools themselves have nothing to gain.
    left_out = [f"--ignore=tests/py/test_{name}.py" for name in SOURCE_TESTS]
    command = [sys.executable, "-m", "pytest", "-m", "not no_asan", *left_out]
    check.run(*command, limit_s=1200, env=env)


def compat(check: Check) -> None:
    compat_on(check, sys.executable)


def compat_on(check: Check, python: str) -> None:
    """The fast part of CPython's own asyncio suites, where the interpreter has them."""
    ask = [python, "-c", "import test.test_asyncio"]
    if subprocess.run(ask, cwd=ROOT, capture_output=True, check=False).returncode:
        check.note(f"{python} comes without CPython's own tests: they were not run")
        return
    check.run(python, "tests/compat/run.py", "--fast", limit_s=900)
    check.summary = r"^Python .* passed"


def other_pythons() -> Iterator[tuple[Path, str]]:
    """Every other Python from 3.11 on: on PATH, and pyenv's, one of each version."""
    names = [f"python3.{minor}" for minor in range(9, 20)]
    found = [Path(where) for name in names if (where := shutil.which(name))]
    found += sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))
    seen = {VERSION}
    for path in found:
        ask = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        done = subprocess.run(
            [path, "-I", "-c", ask],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        version = done.stdout.strip()
        if done.returncode == 0 and version not in seen:
            seen.add(version)
            yield path, version


def on_python(path: Path, version: str) -> list[tuple[str, Callable[[Check], None]]]:
    """The checks that run on another interpreter, each by its name."""
    venv = f".venv-{version}"

    def set_up(check: Check) -> None:
        env = {"PYTHON": str(path), "VENV": venv, "FULL": "", "COMPAT": ""}
        check.run("tools/bootstrap.sh", env=env, limit_s=1200)

    def pytest(check: Check) -> None:
        set_up(check)
        check.run(f"{venv}/bin/python", "-m", "pytest", limit_s=900)
        check.summary = r"^\d+ passed"

    def compat(check: Check) -> None:
        set_up(check)
        compat_on(check, f"{venv}/bin/python")

    return [(f"pytest-{version}", pytest), (f"compat-{version}", compat)]


def require(program: str) -> None:
    if not shutil.which(program):
        raise CheckFailed(f"{program} is not installed")


def c_files() -> list[Path]:
    return [p for d in C_DIRECTORIES for p in sorted(ROOT.glob(f"{d}/**/*.[ch]"))]


LINT: list[Callable[[Check], None]] = [tidy, ruff, clang_format, mypy]
FAST: list[Callable[[Check], None]] = [
    tidy, ruff, headers, symbols, mypy, stubtest, c_tests, pytest, compat,
]  # fmt: skip
FULL: list[Callable[[Check], None]] = [c_tests_valgrind, c_tests_clang, pytest_asan]
SHOWN = {"pytest", "pytest-asan"}


def plan(full: bool) -> list[tuple[str, Callable[[Check], None]]]:
    """The checks in their order, by name."""
    steps = [(name_of(fn), fn) for fn in (FAST + FULL if full else FAST)]
    if full:
        versions = dict.fromkeys(("3.11", "3.12", "3.13", "3.14"), False)
        versions[VERSION.rpartition(".")[0]] = True
        for path, version in other_pythons():
            if tuple(map(int, version.split(".")))[:2] < (3, 11):
                print(f"taut: Python {version} ({path}) is too old for taut: not used")
                continue
            versions[version.rpartition(".")[0]] = True
            steps += on_python(path, version)
        for minor, there in versions.items():
            if not there:
                print(f"taut: no Python {minor} on this machine: not tested with it"
                      + " (tools/py314 makes one)" * (minor == "3.14"))
    return steps


def name_of(fn: Callable[[Check], None]) -> str:
    return fn.__name__.replace("_", "-")


def run_check(name: str, fn: Callable[[Check], None]) -> bool:
    """Runs one check and prints its outcome; whether it passed."""
    check = Check(name, shown=name in SHOWN)
    check.log.unlink(missing_ok=True)
    print(f"== {name}", flush=True)
    start, problem = time.monotonic(), ""
    try:
        fn(check)
    except CheckFailed as failure:
        problem = str(failure)
    seconds = time.monotonic() - start
    for note in check.notes:
        print(f"   note: {note}")
    if check.summary and not problem:
        for line in check.text().splitlines():
            if re.match(check.summary, line):
                print(f"   {line}")
    if problem:
        if not check.shown:
            tail = check.text().splitlines()[-80:]
            print("\n".join(f"   {line}" for line in tail))
        print(f"== {name} FAILED after {seconds:.1f} s: {problem}", flush=True)
    else:
        print(f"== {name} ok, {seconds:.1f} s", flush=True)
    return not problem


def rewrite() -> int:
    """`make format`."""
    subprocess.run([Path(sys.executable).parent / "ruff", "format", "."], cwd=ROOT, check=True)
    if not shutil.which("clang-format"):
        print("clang-format is not installed (apt-get install clang-format)", file=sys.stderr)
        return 1
    return subprocess.run(["clang-format", "-i", *c_files()], cwd=ROOT).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="run taut's checks")
    parser.add_argument("--full", action="store_true", help="all that CI runs")
    parser.add_argument("--lint", action="store_true", help="only what reads the sources")
    parser.add_argument("--format", action="store_true", help="rewrite the sources")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these checks")
    args = parser.parse_args()
    if args.format:
        return rewrite()
    LOGS.mkdir(parents=True, exist_ok=True)
    steps = [(name_of(fn), fn) for fn in LINT] if args.lint else plan(args.full or bool(args.only))
    if args.only:
        steps = [step for step in steps if step[0] in args.only]
        if len(steps) != len(set(args.only)):
            parser.error("no such check among: " + ", ".join(name for name, _ in plan(True)))
    start = time.monotonic()
    failed = [name for name, fn in steps if not run_check(name, fn)]
    print(f"taut: {time.monotonic() - start:.0f} s in all, Python {VERSION}")
    if failed:
        print("taut: failed: " + ", ".join(failed))
    print(f"{len(steps) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
