#!/usr/bin/env python3
"""Runs real programs, with their real servers, on taut and on asyncio beside it.

    python tests/compat/apps/run.py                        # what `make compat` does
    python tests/compat/apps/run.py -k asyncpg             # arguments go to pytest

The programs are installed, pinned by requirements.txt beside this file, in an environment of their
own under build/, for the Python and with the taut of the environment that this is run from. Which
servers the tests need, and how each is started, is in apps.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
VERSION = "%d.%d.%d" % sys.version_info[:3]
VENV = ROOT / "build" / f"apps-{VERSION}"
PYTHON = VENV / "bin" / "python"
LIMIT_S = 1500


def install() -> None:
    """Makes the environment, unless what is there was made of the same."""
    requirements = HERE / "requirements.txt"
    made_of = sys.version + sys.base_prefix + requirements.read_text("utf-8")
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    stamp = VENV / "apps.stamp"
    if stamp.exists() and stamp.read_text("utf-8") == digest:
        return
    print(f"apps: installing the programs in {VENV.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--no-input", "--only-binary", ":all:", "-r", requirements]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise SystemExit("apps: pip could not install the pinned programs")
    stamp.write_text(digest, "utf-8")


def lend_taut() -> None:
    """The taut of this environment is importable in the other one as well."""
    spec = importlib.util.find_spec("taut")
    if spec is None or spec.origin is None:
        raise SystemExit("apps: taut is not installed here; run make")
    shared = VENV / "taut"
    shared.mkdir(exist_ok=True)
    link = shared / "taut"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(spec.origin).parent, target_is_directory=True)
    scheme = {"base": str(VENV), "platbase": str(VENV)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    (packages / "taut-of-the-tests.pth").write_text(f"{shared}\n", "utf-8")


def main() -> int:
    install()
    lend_taut()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    tests = [str(HERE)] if not any(Path(arg).exists() for arg in sys.argv[1:]) else []
    command = [str(PYTHON), "-m", "pytest", *sys.argv[1:], *tests]
    return subprocess.run(command, cwd=ROOT, env=env, timeout=LIMIT_S).returncode


if __name__ == "__main__":
    sys.exit(main())
