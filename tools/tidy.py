#!/usr/bin/env python3
"""Checks the rules of the tree that no compiler checks: who may include whom, sizes, banned calls,
guards, and that the docs know every directory.

    python3 tools/tidy.py [ROOT]

Prints one line per breach, `FILE:LINE: rule: what`; exit status 1 when there is any. Needs nothing
but the standard library. Each rule has a test in tests/py/test_tidy.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE_LINES_MAX = 600
HEADER_LINES_MAX = 150
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100

# Layer -> the layers whose headers it may include. Nobody includes upwards.
INCLUDES: dict[str, set[str]] = {
    "base": {"base"},
    "proto": {"base", "proto"},
    "io": {"base", "proto", "io"},
    "binding": {"base", "proto", "io", "binding"},
}
# base and proto are pure: of the system only these headers.
PURE_HEADERS = {
    "errno.h", "inttypes.h", "limits.h", "malloc.h", "stdalign.h", "stdarg.h", "stdatomic.h",
    "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h", "time.h",
}  # fmt: skip

BANNED = {
    "strcpy": "no bound",
    "strcat": "no bound",
    "sprintf": "no bound",
    "vsprintf": "no bound",
    "gets": "no bound",
    "strtok": "hidden state",
    "alloca": "unbounded stack",
    "assert": "NDEBUG disables it: use taut_assert",
}
ALLOCATION = {"malloc", "calloc", "realloc", "free", "strdup", "strndup", "reallocarray"}
SYSTEM_CALLS = {
    "socket", "socketpair", "accept", "accept4", "connect", "bind", "listen", "shutdown",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
    "eventfd", "send", "sendto", "sendmsg", "recv", "recvfrom", "recvmsg", "read", "write", "readv",
    "writev", "close", "poll", "select", "syscall", "clock_gettime", "nanosleep", "usleep", "sleep",
    "open", "pread", "pwrite", "dup", "dup2", "fcntl", "ioctl", "getsockopt", "setsockopt",
    "taut_clock_now_ns",
}  # fmt: skip

# (rule, path below the root) -> why that file may.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("allocation", "src/base/mem.c"): "the one place that allocates",
    ("system-call", "src/io/sys_linux.h"): "the seam itself",
    ("system-call", "src/io/sys_direct.h"): "part of the seam",
    ("system-call", "src/io/sys_file.h"): "a part of the seam",
    ("system-call", "src/io/sys_pipe.h"): "a part of the seam",
    ("system-call", "src/io/loan.c"): "blocking modes, once per pipe transport: never simulated",
    ("system-call", "src/io/pulse.h"): "the futex that unparks the watchdog: never simulated",
    ("system-call", "src/io/watchdog.c"): "its own thread watches real time: never simulated",
    ("system-call", "src/io/private_fds.c"): "for the watchdog's thread: never simulated",
    ("system-call", "src/io/console.c"): "a thread beside the loop: never simulated",
    ("system-call", "src/io/console_place.c"): "for that thread: never simulated",
    ("errno", "src/io/console.c"): "of its poll: never simulated",
    ("system-call", "src/io/journal.c"): "a file beside the loop's work: never simulated",
    ("system-call", "src/io/thread_stat.c"): "reads /proc, for the watchdog: never simulated",
    ("system-call", "src/io/threadpool.c"): "native threads: never simulated",
    ("system-call", "src/io/peek.c"): "reads the own memory, for the watchdog: never simulated",
    ("system-call", "src/io/process.c"): "makes real processes: never simulated",
    ("system-call", "src/io/child.c"): "awaits real processes: never simulated",
    ("errno", "src/io/process.c"): "of the new process: never simulated",
    ("errno", "src/io/child.c"): "of waitid and pidfds: never simulated",
    ("errno", "src/io/wakeup.c"): "async-signal-safe: gives the interrupted code its errno back",
    ("errno", "src/io/watchdog.c"): "its futex wait: never simulated",
    ("errno", "src/io/private_fds.c"): "how the kernel refuses: never simulated",
    ("errno", "src/io/peek.c"): "EFAULT is its answer: never simulated",
    ("errno", "src/io/resolver.c"): "what libc's EAI_SYSTEM means; on its own threads",
    ("errno", "src/io/sys_linux.h"): "where errno becomes a negative return value",
}

SUFFIXES = {".c", ".h", ".py", ".pyi", ".md", ".sh", ".toml", ".build", ".options", ".txt"}
SKIPPED_DIRS = {".git", "build", "dist", "__pycache__", "results"}
# Spelled so that this file does not break its own rule.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")


class Breach(NamedTuple):
    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


class Source(NamedTuple):
    path: str  # below the root, with slashes
    text: str
    lines: list[str]

    @property
    def layer(self) -> str:
        parts = self.path.split("/")
        return parts[1] if parts[0] == "src" and len(parts) > 2 else ""

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix


Rule = Callable[[Source], Iterator[Breach]]


def blank(match: re.Match[str]) -> str:
    """The match as blanks of the same shape, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", match.group(0))


def strip_c(text: str) -> str:
    """The text of a C file without comments, strings and characters, line for line."""
    token = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(token, blank, text, flags=re.S)


def is_c(source: Source) -> bool:
    return source.suffix in {".c", ".h"}


def in_src(source: Source) -> bool:
    return is_c(source) and bool(source.layer)


def check_text(source: Source) -> Iterator[Breach]:
    """No tabs (but in a Makefile), no blanks at line ends, no marks of unfinished work."""
    for number, line in enumerate(source.lines, 1):
        if "\t" in line and Path(source.path).name != "Makefile":
            yield Breach(source.path, number, "tab", "use blanks")
        if line != line.rstrip():
            yield Breach(source.path, number, "trailing-blank", "remove it")
        if match := UNFINISHED.search(line):
            yield Breach(source.path, number, "unfinished", f"{match.group(0)} mark")
        width = len(re.sub(r"\s*# (type: ignore|noqa)\b.*", "", line))
        if source.suffix in {".c", ".h", ".py", ".pyi"} and width > COLUMNS_MAX:
            yield Breach(source.path, number, "columns", f"{width} > {COLUMNS_MAX}")
    if source.text and not source.text.endswith("\n"):
        yield Breach(source.path, len(source.lines), "last-line", "end it with a newline")


def check_sizes(source: Source) -> Iterator[Breach]:
    """Files and C functions stay small enough to be read at one go."""
    if source.path.split("/")[0] not in {"src", "python", "tools"}:
        return
    limit = {".h": HEADER_LINES_MAX, ".c": SOURCE_LINES_MAX, ".py": SOURCE_LINES_MAX}
    most = limit.get(source.suffix)
    if most is not None and len(source.lines) > most:
        yield Breach(source.path, most + 1, "file-size", f"{len(source.lines)} lines > {most}")
    if is_c(source):
        yield from check_functions(source)


def check_functions(source: Source) -> Iterator[Breach]:
    start = 0
    for number, line in enumerate(strip_c(source.text).split("\n"), 1):
        if re.match(r"[A-Za-z_].*\(", line):
            start = number
        elif re.match(r"}\s*$", line) and start:
            length = number - start + 1
            if length > FUNCTION_LINES_MAX:
                what = f"{length} lines > {FUNCTION_LINES_MAX}"
                yield Breach(source.path, start, "function-size", what)
            start = 0
        elif re.match(r"}", line):
            start = 0  # a struct or a table


def check_includes(source: Source) -> Iterator[Breach]:
    """The dependency table: base <- proto <- io <- binding, Python.h in the binding alone."""
    if not in_src(source):
        return
    allowed = INCLUDES.get(source.layer)
    if allowed is None:
        yield Breach(source.path, 1, "include", f"layer {source.layer!r} is not in the table")
        return
    for number, line in enumerate(source.lines, 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if not match:
            continue
        quoted, name = match.group(1) == '"', match.group(2)
        if is_python_header(name):
            if source.layer != "binding":
                yield Breach(source.path, number, "include", f"<{name}> outside src/binding")
        elif not quoted:
            if source.layer in {"base", "proto"} and name not in PURE_HEADERS:
                yield Breach(source.path, number, "include", f"<{name}> in {source.layer}")
        elif "/" not in name:
            yield Breach(source.path, number, "include", f'"{name}": name it from src/')
        elif name.split("/")[0] not in allowed:
            yield Breach(source.path, number, "include", f'"{name}" from {source.layer}')


def is_python_header(name: str) -> bool:
    return name in {"Python.h", "structmember.h", "frameobject.h"} or name.startswith(
        ("internal/pycore", "cpython/", "pycore_")
    )


def check_guard(source: Source) -> Iterator[Breach]:
    """Include guards, named after the path."""
    if source.suffix != ".h":
        return
    name = Path(source.path)
    stem = f"{name.stem}_H".upper()
    pattern = f"TAUT_{source.layer.upper()}_{stem}" if source.layer else rf"TAUT_(?:\w+_)?{stem}"
    if not re.search(rf"^#ifndef ({pattern})\n#define \1$", source.text, flags=re.M):
        what = f"expected #ifndef and #define TAUT_{source.layer.upper() or 'DIRECTORY'}_{stem}"
        yield Breach(source.path, 1, "include-guard", what)


def check_calls(source: Source) -> Iterator[Breach]:
    """Calls that are banned everywhere, or outside the one place that is there for them."""
    if not is_c(source):
        return
    for number, line in enumerate(strip_c(source.text).split("\n"), 1):
        if re.match(r"\s*#\s*include", line):
            continue
        for match in re.finditer(r"(?<![\w.>])([a-z_][a-z0-9_]*)\s*\(", line):
            name = match.group(1)
            if name in BANNED:
                yield Breach(source.path, number, "banned", f"{name}(): {BANNED[name]}")
            elif name in ALLOCATION and in_src(source):
                yield Breach(source.path, number, "allocation", f"{name}(): use base/mem.h")
            elif name in SYSTEM_CALLS and source.layer in {"io", "proto"}:
                what = f"{name}(): use io/sys.h"
                yield Breach(source.path, number, "system-call", what)
        if source.layer in {"base", "proto", "io"} and re.search(r"\berrno\b(?!\.h)", line):
            yield Breach(source.path, number, "errno", "taut_sys_* return it as a negative number")


def check_sleep(source: Source) -> Iterator[Breach]:
    """Tests wait on a state with a deadline. What blocks on purpose says why: `# blocks: ...`."""
    if not (source.path.startswith("tests/") and source.suffix == ".py"):
        return
    for number, line in enumerate(source.lines, 1):
        if not re.search(r"(?<!\w)time\.sleep\(", line) or re.search(r"#.*\bblocks: \S", line):
            continue
        if not in_python_string(line):
            yield Breach(source.path, number, "sleep", "wait on a state, or say why it blocks")


def in_python_string(line: str) -> bool:
    """Whether the call on this line is quoted: the source of another program."""
    return line[: line.index("time.sleep(")].count('"') % 2 == 1


RULES: list[Rule] = [
    check_text, check_sizes, check_includes, check_guard, check_calls, check_sleep,
]  # fmt: skip


def read_tree(root: Path) -> Iterator[Source]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        skipped = SKIPPED_DIRS.intersection(parts) or parts[0].startswith("build")
        if hidden or skipped or not path.is_file():
            continue
        if path.suffix in SUFFIXES or path.name == "Makefile":
            text = path.read_text(encoding="utf-8")
            yield Source("/".join(parts), text, text.splitlines())


def check_registered(sources: list[Source]) -> Iterator[Breach]:
    """Every C file, and every file of the package, is named in its directory's meson.build: nothing
    lies about unbuilt or is missing once installed."""
    builds = {s.path.rpartition("/")[0]: s.text for s in sources if s.path.endswith("meson.build")}
    for source in sources:
        directory, _, name = source.path.rpartition("/")
        if source.suffix != ".c" or not source.path.startswith(("src/", "tests/c/", "bench/c/")):
            continue
        stem = re.escape(name.removesuffix(".c").removeprefix("test_"))
        parents = (directory, directory.rpartition("/")[0])
        texts = [builds.get(parent, "") for parent in parents]
        if not any(re.search(rf"\b{stem}\b", text) for text in texts):
            yield Breach(source.path, 1, "unbuilt", "no meson.build names it")
    for source in sources:
        directory, _, name = source.path.rpartition("/")
        within = source.path.removeprefix("python/taut/")
        if directory in ("python/taut", "python/taut/doctor") and source.suffix in (".py", ".pyi"):
            if f"'{within}'" not in builds.get("python/taut", ""):
                yield Breach(source.path, 1, "unbuilt", "no meson.build installs it")


def check_docs(sources: list[Source]) -> Iterator[Breach]:
    """docs/ARCHITECTURE.md mentions every directory that holds a source file."""
    page = "docs/ARCHITECTURE.md"
    text = next((s.text for s in sources if s.path == page), None)
    if text is None:
        yield Breach(page, 1, "docs", "missing")
        return
    directories = {s.path.rpartition("/")[0] for s in sources} - {""}
    for directory in sorted(directories):
        if not re.search(rf"(?<![\w/]){re.escape(directory)}/", text):
            yield Breach(page, 1, "docs", f"does not mention {directory}/")


def breaches(root: Path) -> list[Breach]:
    """Every breach in the tree below `root`, in the order of paths."""
    sources = list(read_tree(root))
    found = [breach for source in sources for rule in RULES for breach in rule(source)]
    found = [b for b in found if (b.rule, b.path) not in EXCEPTIONS]
    return sorted([*found, *check_registered(sources), *check_docs(sources)])


def main(argv: list[str]) -> int:
    root = Path(argv[1]) if len(argv) > 1 else Path(__file__).resolve().parent.parent
    found = breaches(root)
    for breach in found:
        print(breach)
    print(f"tidy: {len(found)} breaches" if found else "tidy: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
