"""What README.md promises: the example runs, its mistake is named, the names exist."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import taut
import taut.doctor

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEADLINE_S = 60.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="taut's own loop is for Linux")


def connect(port: int, process: subprocess.Popen[str]) -> socket.socket:
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)  # blocks: until the server listens, with a deadline


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_example_serves_and_its_mistake_is_named(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in example.splitlines() if line.strip()]) == 10
    port = free_port()
    script = tmp_path / "example.py"
    script.write_text(example.replace("8888", str(port)))
    line = next(n for n, text in enumerate(example.splitlines(), 1) if "time.sleep" in text)
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as process:
        try:
            with connect(port, process) as client:
                client.sendall(b"hello\n")
                assert client.makefile("rb").read() == b"hello\n"
        finally:
            process.terminate()
        _, report = process.communicate(timeout=DEADLINE_S)
    assert re.search(rf"example\.py\W+(line )?{line}\b", report), report


def test_names_exist() -> None:
    names = set(re.findall(r"`taut\.(\w+)", README)) - {"doctor"}
    assert {"run", "Runner", "install", "Loop"} <= names
    for name in names:
        assert hasattr(taut, name), name
    assert callable(taut.doctor.attach)


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_targets_and_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = [ROOT / "README.md", ROOT / "docs" / "HACKING.md"]
    for page in pages:
        for target in re.findall(r"\bmake ([a-z]+)\b", page.read_text(encoding="utf-8")):
            if target not in {"targets", "git"}:
                assert re.search(rf"^{target}:", makefile, flags=re.M), f"{page.name}: {target}"
    for script in re.findall(r"(?:\$\(PY\) |@)([a-z]+/[\w/.]+)", makefile):
        assert (ROOT / script).exists(), script
