"""A stall with a known remedy is reported with it."""

from __future__ import annotations

from pathlib import Path

from programs import Python, python  # noqa: F401
from tls_certs import Certs

SCRIPT = """
import asyncio, ssl, time, taut

async def main():
    await asyncio.sleep(0)
    {what}
    await asyncio.sleep(0)

taut.run(main())
"""
CAUSE = ": an SSLContext reads certificates from disk.\n  Remedy: make it once, with await taut."


def report(python: Python, folder: Path, what: str) -> str:
    (folder / "service.py").write_text(SCRIPT.format(what=what))
    result = python("service.py", TAUT_STALL="50ms")
    assert result.status == 0, result
    assert "service.py:6 in main" in result.err
    return result.err


def test_a_context_made_on_the_loop(python: Python, tmp_path: Path, certs: Certs) -> None:
    ca = Path(certs.path("ca")).read_text()
    (tmp_path / "many.pem").write_text(ca * 20_000)
    said = report(python, tmp_path, "ssl.create_default_context(cafile='many.pem')")
    assert CAUSE in said


def test_a_sleep(python: Python, tmp_path: Path) -> None:
    said = report(python, tmp_path, "time.sleep(0.2)  # blocks: the stall under test")
    assert "  blocking-call: time.sleep() puts " in said
    assert "\n  Remedy: sleep as a task: await asyncio.sleep(seconds).\n" in said
