#!/usr/bin/env python3
"""Checks what the compiled parts of taut define and need, so that the layers stay apart:

    python3 tools/symbols.py BUILD_DIR

- the core (src/base, src/proto, src/io) needs no Python symbol, and was compiled without Python's
  include path;
- the binding makes no system call on sockets or epoll itself;
- every global symbol of an object file starts with taut_ (or is the module's PyInit function);
- the shared object's dynamic table offers PyInit__core alone, and asks for no symbol of ours.

Needs `nm` (binutils) and a build without link-time optimisation. Exit status 1 on any breach.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Whatever moves bytes over sockets or waits for events is the core's. write() is not here: the
# watchdog's reports go to stderr by it.
BINDING_BANNED = re.compile(
    r"(socket|socketpair|accept4?|connect|send|sendto|sendmsg|recv|recvfrom|recvmsg|eventfd"
    r"|epoll_\w+|poll|select|readv|writev)$"
)
PYTHON_SYMBOL = re.compile(r"_?Py[A-Z_]")
OURS = re.compile(r"(taut_|PyInit__core$)")
# What sanitizers and the compiler add.
FOREIGN = re.compile(r"(__asan_|__odr_asan|__ubsan_|__gcov_|_GLOBAL_|DW\.ref\.|__x86\.)")


def nm(path: Path, *options: str) -> Iterator[str]:
    """The symbol names that `nm OPTIONS path` prints, without their versions."""
    done = subprocess.run(
        ["nm", "--format=posix", *options, str(path)], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        if line and not line.endswith(":"):
            yield line.split()[0].split("@")[0]


def core_breaches(objects: list[Path]) -> Iterator[str]:
    for path in objects:
        for name in nm(path, "--undefined-only"):
            if PYTHON_SYMBOL.match(name):
                yield f"{path.name}: the core needs {name}"


def binding_breaches(objects: list[Path]) -> Iterator[str]:
    for path in objects:
        for name in nm(path, "--undefined-only"):
            if BINDING_BANNED.match(name):
                yield f"{path.name}: the binding calls {name}() past the core"


def name_breaches(objects: list[Path]) -> Iterator[str]:
    for path in objects:
        for name in nm(path, "--extern-only", "--defined-only"):
            if not OURS.match(name) and not FOREIGN.match(name):
                yield f"{path.name}: global symbol {name} does not start with taut_"


def export_breaches(extensions: list[Path]) -> Iterator[str]:
    for path in extensions:
        exported = {n for n in nm(path, "-D", "--defined-only") if not FOREIGN.match(n)}
        for name in sorted(exported - {"PyInit__core"}):
            yield f"{path.name}: exports {name}"
        if "PyInit__core" not in exported:
            yield f"{path.name}: does not export PyInit__core"


def undefined_breaches(extensions: list[Path]) -> Iterator[str]:
    for path in extensions:
        for name in nm(path, "-D", "--undefined-only"):
            if OURS.match(name):
                yield f"{path.name}: {name} is defined nowhere"


def include_breaches(commands: list[dict[str, str]], python_include: str) -> Iterator[str]:
    for command in commands:
        source = command["file"].replace("\\", "/")
        if re.search(r"(^|/)src/(base|proto|io)/", source) and python_include in command["command"]:
            yield f"{source}: compiled with Python's include path"


def breaches(build: Path) -> list[str]:
    """Every breach in a meson build directory; a part that is not there is a breach too."""
    core = sorted(build.glob("src/*/libtaut_*.a.p/*.o"))
    binding = sorted(build.glob("src/binding/_core*.so.p/*.o"))
    extensions = sorted(build.glob("src/binding/_core*.so"))
    found = [f"{build}: no {what} found" for what, parts in
             (("core object", core), ("binding object", binding), ("extension", extensions))
             if not parts]  # fmt: skip
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    found += core_breaches(core)
    found += binding_breaches(binding)
    found += name_breaches([*core, *binding])
    found += export_breaches(extensions)
    found += undefined_breaches(extensions)
    found += include_breaches(commands, sysconfig.get_path("include"))
    return found


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = breaches(Path(argv[1]))
    for breach in found:
        print(breach)
    print(f"symbols: {len(found)} breaches" if found else "symbols: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
