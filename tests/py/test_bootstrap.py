"""tools/bootstrap.sh on machines that lack something, made up by what is on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "bootstrap.sh"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("bash"), reason="for Linux, in bash"
)

TOOLS = ["bash", "dirname", "env", "readlink", "sed", "tr", "nm", "gcc", "as", "ld", "cat"]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(
    tmp_path: Path,
    *,
    without: set[str],
    uid: int,
    programs: dict[str, str] | None = None,
    **env: str,
) -> tuple[int, str, str]:
    """The set-up's system stage for user `uid`, with apt-get only noting how it was called, and
    `programs` (their text by their name) in the place of the machine's."""
    path = tmp_path / "bin"
    path.mkdir()
    for name, text in (programs or {}).items():
        program(path / name, f"#!{path}/bash\n{text}\n")
    for name in TOOLS:
        where = shutil.which(name, path="/usr/bin:/bin")
        if name not in without and where and not (path / name).exists():
            (path / name).symlink_to(where)
    program(path / "id", f"#!{path}/bash\necho {uid}\n")
    program(path / "apt-get", f'#!{path}/bash\necho "apt-get $*" >>{tmp_path}/apt.log\n')
    done = subprocess.run(
        [shutil.which("bash") or "bash", SCRIPT],
        env={"PATH": str(path), "STAGE": "system", "PYTHON": sys.executable, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    log = tmp_path / "apt.log"
    return done.returncode, done.stdout + done.stderr, log.read_text() if log.exists() else ""


def test_nothing_to_do_when_nothing_is_missing(tmp_path: Path) -> None:
    if not os.path.exists("/usr/bin/gcc"):
        pytest.skip("no gcc in /usr/bin")
    status, said, apt = run(tmp_path, without=set(), uid=0)
    assert (status, said, apt) == (0, "", "")


def test_a_user_is_told_the_one_line(tmp_path: Path) -> None:
    status, said, apt = run(tmp_path, without={"gcc", "nm"}, uid=1000)
    assert status == 1
    (line,) = [line.strip() for line in said.splitlines() if "sudo" in line]
    assert line == "sudo apt-get update && sudo apt-get install -y gcc libc6-dev binutils"
    assert apt == ""


def test_root_gets_it_installed_after_an_update(tmp_path: Path) -> None:
    status, said, apt = run(tmp_path, without={"gcc"}, uid=0)
    calls = apt.splitlines()
    assert calls[0].startswith("apt-get update")
    assert calls[1].startswith("apt-get install -y") and calls[1].endswith(" gcc libc6-dev")
    # The made-up apt-get installs nothing, which is noticed.
    assert status == 1
    assert "still missing after the installation: gcc libc6-dev" in said


def test_the_full_run_also_wants_valgrind_and_clang(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, without={"gcc"}, uid=1000, FULL="1")
    assert status == 1
    assert "install -y gcc libc6-dev valgrind clang" in said


def test_the_benchmarks_also_want_openssl_and_servers(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, without={"gcc"}, uid=1000, BENCH="1")
    assert status == 1
    assert "install -y gcc libc6-dev libssl-dev openssl redis-server" in said


def test_the_incidents_also_want_servers(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, without={"gcc"}, uid=1000, INCIDENTS="1")
    assert status == 1
    assert "install -y gcc libc6-dev redis-server" in said
    assert "libssl-dev" not in said and "valgrind" not in said


# A compiler that finds no header, and a clang that comes without its run-time libraries.
# Stand-ins for compilers read their program, as those do: who pipes it in may be told otherwise.
WORKS = "cat >/dev/null"
NO_HEADERS = WORKS + '; case " $* " in *" -E "*) exit 1 ;; esac'
NO_LIBRARIES = WORKS + "; exit 1"


def test_the_tests_also_want_the_headers_of_openssl(tmp_path: Path) -> None:
    gcc = {"gcc": NO_HEADERS}
    status, said, _ = run(tmp_path, without=set(), uid=1000, programs=gcc, TESTS="1")
    assert status == 1
    assert said.rstrip().endswith("install -y libssl-dev")


def test_without_the_tests_nobody_wants_openssl(tmp_path: Path) -> None:
    status, said, apt = run(tmp_path, without=set(), uid=1000, programs={"gcc": NO_HEADERS})
    assert (status, said, apt) == (0, "", "")


def test_fuzzing_wants_clang_with_its_libraries(tmp_path: Path) -> None:
    gcc = {"gcc": NO_HEADERS}
    status, said, _ = run(tmp_path, without=set(), uid=1000, programs=gcc, FUZZ="1")
    assert status == 1
    assert said.rstrip().endswith("install -y libssl-dev clang libclang-rt-dev")


def test_fuzzing_finds_a_clang_that_cannot_fuzz(tmp_path: Path) -> None:
    programs = {"gcc": WORKS, "clang": NO_LIBRARIES}
    status, said, _ = run(tmp_path, without=set(), uid=1000, programs=programs, FUZZ="1")
    assert status == 1
    assert said.rstrip().endswith("install -y libclang-rt-dev")


def test_fuzzing_and_the_full_run_want_clang_once(tmp_path: Path) -> None:
    gcc = {"gcc": NO_HEADERS}
    _, said, _ = run(tmp_path, without=set(), uid=1000, programs=gcc, FUZZ="1", FULL="1")
    assert said.rstrip().endswith("install -y valgrind clang libssl-dev libclang-rt-dev")
