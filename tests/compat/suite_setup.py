"""Gets a suite of suites.toml ready to run: its source, its environment, its server."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "suites"
USER = "nobody"
PYTHON = "%d.%d.%d" % sys.version_info[:3]


@dataclass(frozen=True)
class Suite:
    """One entry of suites.toml."""

    name: str
    version: str
    requires: tuple[str, ...]  # to be installed beside it, pinned
    keep: tuple[str, ...]  # what of the source distribution is unpacked
    arguments: tuple[str, ...]  # of pytest; {port} is its server's
    environment: dict[str, str]
    limit_s: float  # without news: it hangs
    server: str  # of suite_servers.KINDS, or none
    leaveouts: tuple[dict[str, Any], ...]

    @property
    def source(self) -> Path:
        return BUILD / "source" / f"{self.name}-{self.version}"

    @property
    def venv(self) -> Path:
        return BUILD / f"venv-{PYTHON}" / self.name

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def left_out(self, test: str) -> dict[str, Any] | None:
        """The row that leaves the test out, or None when nothing does."""
        for row in self.leaveouts:
            if row.get("python") and PYTHON.rpartition(".")[0] not in row["python"]:
                continue
            # Brackets are part of a test's name, not of a pattern.
            if any(fnmatch.fnmatchcase(test, p.replace("[", "[[]")) for p in row["tests"]):
                return row
        return None


def load(path: Path = HERE / "suites.toml") -> list[Suite]:
    """All suites. ValueError for unknown keys and for a leave-out without reason."""
    suites = []
    for entry in tomllib.loads(path.read_text("utf-8"))["suite"]:
        unknown = set(entry) - {"name", "version", "requires", "keep", "arguments", "environment",
                                "limit_s", "server", "leaveout"}
        rows = tuple(entry.get("leaveout", ()))
        if unknown or any(not row.get("tests") or not row.get("reason") for row in rows):
            raise ValueError(f"suite {entry.get('name')}: {unknown or 'leave-out without reason'}")
        suites.append(Suite(
            name=entry["name"], version=entry["version"], requires=tuple(entry["requires"]),
            keep=tuple(entry.get("keep", ("tests", "pyproject.toml"))),
            arguments=tuple(entry.get("arguments", ("tests",))),
            environment=dict(entry.get("environment", {})),
            limit_s=float(entry.get("limit_s", 90.0)), server=entry.get("server", ""),
            leaveouts=rows,
        ))
    return suites


def taut_path() -> Path:
    """A directory with nothing but the installed taut, for other environments of this Python."""
    import taut

    target = Path(taut.__file__).absolute().parent
    mark = hashlib.sha256(str(target).encode()).hexdigest()[:8]
    path = BUILD / f"taut-{PYTHON}-{mark}"
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (path / "taut").symlink_to(target)
    return path


def runs_as() -> str | None:
    """Root is spared what it is exempt from (modes of files) or refused (PostgreSQL's servers):
    it runs the suites as this user, where that one can reach them. None for as who we are."""
    needed = [BUILD, Path(sys.executable).resolve(), (taut_path() / "taut").resolve()]
    reachable = all(
        path.stat().st_mode & 0o001 for place in needed for path in [place, *place.parents])
    return USER if os.geteuid() == 0 and reachable else None


def pip(*command: str, python: str | Path = sys.executable) -> None:
    subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=True, timeout=900,
    )


def unpack(suite: Suite) -> None:
    """The part of the source distribution that is asked for, as it is."""
    stamp = suite.source / ".stamp"
    if stamp.exists() and stamp.read_text() == repr(suite.keep):
        return
    shutil.rmtree(suite.source, ignore_errors=True)
    downloads = BUILD / "download" / suite.name
    pip("download", "--quiet", "--no-deps", "--no-binary", suite.name, "--dest", str(downloads),
        f"{suite.name}=={suite.version}")
    (archive,) = downloads.glob(f"*-{suite.version}.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            inside = member.name.partition("/")[2]
            wanted = any(inside == part or inside.startswith(part + "/") for part in suite.keep)
            if wanted and member.isfile() and ".." not in Path(inside).parts:
                target = suite.source / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                target.chmod(member.mode & 0o777)
    if user := runs_as():
        for path in [suite.source, *suite.source.rglob("*")]:
            shutil.chown(path, user)
    stamp.write_text(repr(suite.keep))


def make_venv(suite: Suite) -> None:
    wanted = [f"{suite.name}=={suite.version}", *suite.requires]
    stamp = suite.venv / "suite.stamp"
    now = hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == now:
        return
    shutil.rmtree(suite.venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(suite.venv)], check=True)
    pip("install", "--quiet", "--prefer-binary", *wanted, python=suite.python)
    stamp.write_text(now)


@contextlib.contextmanager
def alone(suite: Suite) -> Iterator[None]:
    """Some suites keep files where their source is: one run of a suite at a time, whatever Python
    it is for. Waits for the other."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / f"{suite.name}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(suite: Suite) -> None:
    """Makes the suite's source and environment ready."""
    unpack(suite)
    make_venv(suite)
