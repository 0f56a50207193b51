"""Each kind of stall becomes a finding with its code, its line and a remedy; healthy code none."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from programs import Python, Service, python  # noqa: F401
from stall_findings import blames

SCRIPT = Path(__file__).with_name("stall_findings.py")
# Each case, and what its remedy must mention.
CASES = {
    "sleep": "await asyncio.sleep(",
    "recv": "asyncio.open_connection(",
    "child": "asyncio.create_subprocess_exec(",
    "http": "httpx.AsyncClient(",
    "lock": "asyncio.Lock",
    "take": "asyncio.Queue",
    "fifo": "asyncio.to_thread(",
    "logs": "QueueHandler",
    "loads": "ProcessPoolExecutor(",
    "regex": "backtracks",
    "deep": "dataclasses.replace(",
    "never": "await asyncio.sleep(0)",
    "tight": "await asyncio.sleep(0)",
    "collect": "gc.freeze()",
    "gil": "ProcessPoolExecutor(",
    "handler": "loop.add_signal_handler(",
    "callback": "loop.add_signal_handler(",
}
# What may come along: memory is allocated, or the lock is fought for.
EXTRA = {"deep": ("gc-pause",), "never": ("cpu-bound-step",), "tight": ("cpu-bound-step",)}
HEALTHY = re.findall(r"^async def (healthy_\w+)", SCRIPT.read_text(), flags=re.M)


def found_by(python: Python, *names: str) -> list[dict[str, Any]]:  # noqa: F811
    done = python(str(SCRIPT), *names)
    assert done.status == 0, done
    rows: list[dict[str, Any]] = json.loads(done.out)
    return rows


@pytest.mark.parametrize("case", CASES)
def test_a_stall_is_found(python: Python, case: str) -> None:  # noqa: F811
    rows = found_by(python, case)
    ((code, lines),) = blames(case).items()
    right = [r for r in rows if r["code"] == code and r["line"] in lines]
    assert right, rows
    assert not [r for r in rows if r["code"] not in (code, *EXTRA.get(case, ()))], rows
    row = right[0]
    assert row["file"] == str(SCRIPT) and row["state"] == "over" and row["count"] >= 1
    assert case == "gil" or row["function"].lstrip("_") == case.lstrip("_"), row
    assert row["cause"] and CASES[case] in row["remedy"]
    assert row["evidence"][0].startswith("lasted "), row
    frame = f'  File "{SCRIPT}", line {row["line"]}, in {row["function"]}'
    assert code in ("gc-pause", "never-yields") or frame in row["evidence"], row


def test_healthy_code_has_no_findings(python: Python) -> None:  # noqa: F811
    assert len(HEALTHY) > 5 and found_by(python, *HEALTHY) == []


VICTIMS = """
import asyncio, json, time, taut
from taut import doctor

async def waits(event):
    await event.wait()

async def sleeps():
    await asyncio.sleep(0.02)

async def main():
    asyncio.get_running_loop().stall_threshold = 0.05
    event = asyncio.Event()
    ready = [asyncio.create_task(waits(event), name=f"ready-{i}") for i in range(30)]
    late = asyncio.create_task(sleeps(), name="late")
    far = asyncio.create_task(asyncio.sleep(30), name="far")
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(int)
    event.set()
    time.sleep(0.3)  # blocks: the case
    await asyncio.gather(*ready, late)
    far.cancel()
    while not (found := doctor.findings("blocking-call")) or found[0].state != "over":
        await asyncio.sleep(0.01)
    print(found[0].evidence[2])

taut.run(main())
"""


def test_a_stall_names_whom_it_delays(python: Python, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "app.py").write_text(VICTIMS)
    done = python("app.py")
    assert done.status == 0, done
    line = re.fullmatch(
        r"delayed 31 tasks and 1 other callback by up to (\d+) ms: (.*)\n", done.out
    )
    assert line and int(line[1]) >= 250, done
    ready = [f"ready-{i} (app.py:14)" for i in range(20)]
    assert line[2].split(", ") == ready, done


def test_a_process_that_was_stopped(tmp_path: Path) -> None:
    """Nobody's line is to blame when the host gives no CPU."""
    code = (
        "import asyncio, taut\n"
        "from taut import doctor\n"
        "async def main():\n"
        "    print('runs', flush=True)\n"
        "    while not (found := doctor.findings('host-starved')):\n"
        "        await asyncio.sleep(0.001)\n"
        "    print(found[0].state, repr(found[0].file), found[0].cause, flush=True)\n"
        "taut.run(main())\n"
    )
    with Service("-c", code, cwd=tmp_path, TAUT_STALL="50ms") as service:
        service.wait_for(lambda text: "runs" in text, "its start")
        time.sleep(1.2)  # blocks: it works meanwhile
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(3)  # blocks: for so long it is stopped
        service.process.send_signal(signal.SIGCONT)
        service.wait_for(lambda text: "ongoing '' the host gives" in text, "the finding")
        assert "blocking-call" not in service.text
