#!/usr/bin/env python3
"""`make fuzz`: builds the fuzz targets of tests/fuzz for libFuzzer with ASan and UBSan, and runs
each for FUZZ_SECONDS (60). Started by .venv's Python after tools/bootstrap.sh.

    python tools/fuzz.py                every target
    python tools/fuzz.py tls            some of them
    python tools/fuzz.py tls --replay build/fuzz-failures/tls-crash-...    one input again

What a target has learnt stays in build/fuzz-corpus/NAME, where the next run goes on; inputs that
made it fail go to build/fuzz-failures/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"
CORPUS = ROOT / "build" / "fuzz-corpus"
FAILURES = ROOT / "build" / "fuzz-failures"
INPUT_BYTES_MAX = 512
INPUT_SECONDS_MAX = 20
OPTIONS = [
    "-Dfuzz=true", "-Dextension=false", "-Dbuildtype=debugoptimized", "-Db_lundef=false",
    "-Db_sanitize=address,undefined", "-Dc_args=-fsanitize=fuzzer-no-link",
]  # fmt: skip
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    "CC": "clang",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def build() -> dict[str, Path]:
    """The executables by the names of their targets."""
    stamp, text = BUILD / "options.stamp", " ".join(OPTIONS)
    if not stamp.exists() or stamp.read_text() != text:
        shutil.rmtree(BUILD, ignore_errors=True)
        call("meson", "setup", str(BUILD), *OPTIONS)
        stamp.write_text(text)
    call("ninja", "-C", str(BUILD))
    found = (BUILD / "tests" / "fuzz").glob("fuzz_*")
    return {p.name.removeprefix("fuzz_"): p for p in sorted(found) if p.is_file()}


def call(*command: str) -> None:
    """Runs a step of the build; what it prints shows only when it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}taut: failed: {' '.join(command)}")


def run(name: str, program: Path, seconds: int) -> bool:
    """Fuzzes one target; whether no input made it fail."""
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    FAILURES.mkdir(parents=True, exist_ok=True)
    command = [
        str(program), f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}", f"-artifact_prefix={FAILURES}/{name}-",
        "-print_final_stats=1", "-verbosity=0", str(corpus),
    ]  # fmt: skip
    print(f"== fuzz {name}, {seconds} s", flush=True)
    failed = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL).returncode
    print(f"== fuzz {name} {'FAILED' if failed else 'ok'}", flush=True)
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description="fuzz taut's C core")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only these (default: all)")
    parser.add_argument("--replay", metavar="FILE", help="run the one target on this input alone")
    args = parser.parse_args()
    seconds = int(os.environ.get("FUZZ_SECONDS") or 60)
    built = build()
    names = args.targets or list(built)
    if unknown := set(names) - set(built):
        parser.error(f"no such target: {', '.join(sorted(unknown))} (there are {', '.join(built)})")
    if args.replay:
        if len(names) != 1:
            parser.error("--replay wants one target")
        command = [str(built[names[0]]), args.replay]
        return subprocess.run(command, env=ENVIRONMENT, check=False).returncode
    failed = [name for name in names if not run(name, built[name], seconds)]
    if failed:
        print(f"taut: failed: {', '.join(failed)}; the inputs are in build/fuzz-failures/")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
