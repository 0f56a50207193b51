"""The benchmark suite: every row's program runs on taut and on asyncio, and the figures are made
as they should be. How fast anything is does not matter here."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "py"
LIMIT_S = 60
LOOPS = ("taut", "taut-stdlib", "asyncio")
both = pytest.mark.parametrize("loop", ["taut", "asyncio"])

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures on Linux")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Modules of the suite, imported beside the tests' own of the same names."""
    names = {path.stem for path in BENCH.glob("*.py")} | {"suite_servers"}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    path = list(sys.path)
    sys.path.insert(0, str(BENCH))
    try:
        wanted = ("stats", "targets", "compare", "summary", "run", "plan", "report", "host")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in wanted})
    finally:
        sys.path[:] = path
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def python(*arguments: object) -> Any:
    """The JSON that a program of the suite prints last."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=BENCH,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), *sys.path])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def server(kind: str, loop: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a server of the suite."""
    with subprocess.Popen(
        [sys.executable, str(BENCH / "servers.py"), kind, loop],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = re.match(r"ready (\d+)", process.stdout.readline())
            assert ready is not None
            yield int(ready.group(1)), process.pid
        finally:
            process.terminate()
    assert process.returncode == 0


# ---- programs ----


@pytest.mark.parametrize("loop", LOOPS)
def test_scheduling_rows_run(loop: str) -> None:
    program = (
        "import json, micro, workloads\n"
        f"print(json.dumps({{row: micro.run({loop!r}, row, 1) for row in workloads.WORKLOADS}}))"
    )
    rows = python("-c", program)
    assert len(rows) == 16
    for got in rows.values():
        assert got["operations"] >= 100
        assert 0 < got["ns"] < 100_000_000 and 0 < got["wall_ns"] < 100_000_000


def test_the_floor_needs_no_loop() -> None:
    assert 0 < python("micro.py", "by-hand", "sleep0", 1)["ns"] < 1_000_000


@both
def test_rows_are_done_as_often_as_counted(loop: str) -> None:
    """What instructions are divided by."""
    program = (
        "import json, counting\n"
        "seen = []\n"
        f"counting.counted({loop!r}, ['spawn'], lambda row, body: seen.append((row, body(100))))\n"
        "print(json.dumps([seen, counting.fewer('sleep0', 500), counting.fewer('connect', 500)]))"
    )
    assert python("-c", program) == [[["spawn", None]], 500, 133]


@both
@pytest.mark.parametrize("kind", ["tasks", "timers"])
def test_pending_things_come_and_go(loop: str, kind: str) -> None:
    got = python("pending.py", loop, kind, 3000, *(["gc-off"] if kind == "timers" else []))
    assert 0 < got["create_ns"] < 10_000_000 and 0 < got["teardown_ns"] < 10_000_000
    assert got["both_ns"] == pytest.approx(got["create_ns"] + got["teardown_ns"])
    assert got["bytes"] < 100_000


@both
@pytest.mark.parametrize("kind", ["protocol", "streams", "sock"])
def test_echo_servers_echo(loop: str, kind: str) -> None:
    message = os.urandom(100_000)
    with server(kind, loop) as (port, _), socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(LIMIT_S)
        sock.sendall(message)
        got = b""
        while len(got) < len(message):
            got += sock.recv(1 << 20) or pytest.fail("closed early")
    assert got == message


@both
@pytest.mark.parametrize(
    ("kind", "path", "answer"),
    [
        ("uvicorn", "/", b"hello, world\n"),
        ("aiohttp", "/", b"hello, world\n"),
        ("fastapi", "/items/7?q=loop", b'"name":"item 7"'),
    ],
)
def test_http_servers_answer(loop: str, kind: str, path: str, answer: bytes) -> None:
    pytest.importorskip(kind)
    with server(kind, loop) as (port, _), socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(LIMIT_S)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = b""
        while answer not in got:
            got += sock.recv(65536) or pytest.fail(f"closed after {got!r}")
    assert got.startswith(b"HTTP/1.1 200")


@both
def test_websockets_are_driven(loop: str) -> None:
    pytest.importorskip("websockets")
    with server("websockets", loop) as (port, pid):
        got = python("wsload.py", port, pid, 0.05, 4, 200)
    assert got["rps"] > 1 and got["cpu_us"] > 0


@both
@pytest.mark.parametrize(
    ("program", "kind", "package"),
    [("aiohttp_client", "http", "aiohttp"), ("crawl", "site", "asyncio")],
)
def test_clients_run(loop: str, program: str, kind: str, package: str) -> None:
    pytest.importorskip(package)
    with server(kind, "asyncio") as (port, _):
        got = python("clients.py", program, loop, port, 0.05)
    assert got["requests"] >= 1 and got["rps"] > 0 and got["cpu_us"] > 0


# ---- figures ----


def test_ratios_are_of_pairs(bench: SimpleNamespace) -> None:
    """Each round has a noise of its own, which is the same for both sides of a pair."""
    noise = [1.0, 30.0, 2.0, 7.0, 4.0]
    got = bench.stats.ratio([3 * n for n in noise], [2 * n for n in noise])
    assert got == pytest.approx((1.5, 1.5, 1.5))


def test_an_interval_holds_what_is_true(bench: SimpleNamespace) -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(100):
        ours = [5 * rng.lognormvariate(0, 0.1) for _ in range(9)]
        theirs = [4 * rng.lognormvariate(0, 0.1) for _ in range(9)]
        got = bench.stats.ratio(ours, theirs)
        assert got.low <= got.value <= got.high
        held += got.low <= 1.25 <= got.high
    assert held >= 88  # of the median of nine, resampled: a little less than 95


def test_a_higher_level_is_a_wider_interval(bench: SimpleNamespace) -> None:
    rng = random.Random(3)
    ours, theirs = ([rng.uniform(1, 2) for _ in range(15)] for _ in range(2))
    narrow = bench.stats.ratio(ours, theirs, 0.8)
    wide = bench.stats.ratio(ours, theirs, 0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_geometric_means(bench: SimpleNamespace) -> None:
    assert bench.stats.geometric_mean([2, 8]) == pytest.approx(4)
    rows = [([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]), ([8.0] * 3, [1.0] * 3)]
    assert bench.stats.geometric_ratio(rows) == pytest.approx((4, 4, 4))


def test_the_same_samples_give_the_same_interval(bench: SimpleNamespace) -> None:
    ours, theirs = [1.0, 2.0, 4.0], [3.0, 1.0, 2.0]
    assert bench.stats.ratio(ours, theirs) == bench.stats.ratio(ours, theirs)


@pytest.mark.parametrize(
    ("at_most", "level", "ratio", "verdict"),
    [
        (True, False, (1.0, 0.9, 1.05), "yes"),
        (True, False, (1.0, 0.9, 1.2), "yes, within the noise"),
        (True, False, (1.2, 1.0, 1.3), "no, within the noise"),
        (True, False, (1.2, 1.15, 1.3), "no"),
        (False, False, (1.2, 1.15, 1.3), "yes"),
        (False, True, (1.0, 0.9, 1.2), "yes"),
        (False, True, (1.0, 0.9, 1.05), "no"),
    ],
)
def test_verdicts(
    bench: SimpleNamespace,
    at_most: bool,
    level: bool,
    ratio: tuple[float, float, float],
    verdict: str,
) -> None:
    target = bench.targets.Target("row", 1.1, at_most, lambda _: None, level)
    assert target.verdict(bench.stats.Ratio(*ratio)) == verdict


def samples(rounds: int = 9) -> dict[str, Any]:
    """Scheduling samples in which taut takes a quarter of uvloop's time and half of rloop's."""
    rng = random.Random(1)
    noise = [rng.uniform(1, 1.1) for _ in range(rounds)]
    of = {"asyncio": 900, "uvloop": 400, "rloop": 200, "taut": 100, "by-hand": 90}
    row = {"ns": {name: [ns * n for n in noise] for name, ns in of.items()}}
    return {"sleep0": row, "spawn": row, "connect": row}


def test_the_numbers_to_reach_are_found(bench: SimpleNamespace) -> None:
    got = {t.what: t.find(samples()) for t in bench.targets.targets("3.11.2")}
    found = {what: value for what, value in got.items() if value is not None}
    by_hand, over_uvloop, over_best, *rows = found.values()
    assert by_hand == pytest.approx((100 / 90,) * 3)
    assert over_uvloop == pytest.approx((4,) * 3)
    assert over_best == pytest.approx((2,) * 3)
    assert len(rows) == 3 and rows[0] == pytest.approx((2,) * 3)


@pytest.mark.parametrize(("python", "asked"), [("3.14.10", 3.0), ("3.11.2", 4.0), ("3.13.0", 4.0)])
def test_the_numbers_to_reach_are_those_of_the_python_measured(
    bench: SimpleNamespace, python: str, asked: float
) -> None:
    (means,) = (t for t in bench.targets.targets(python) if "mean: times as fast as uv" in t.what)
    assert means.bound == asked


def test_the_summary_shows_what_was_measured(bench: SimpleNamespace, tmp_path: Path) -> None:
    result = bench.report.Result("sched", "Scheduling")
    result.samples = samples()
    result.fail("spawn", "rsloop", "it has none", essential=False)
    result.write(tmp_path, "a note")
    plot, page = bench.summary.write(tmp_path)
    text = page.read_text()
    assert "| sleep0 " in text and "4.000 [4.000, 4.000]" in text
    assert "- spawn, rsloop: it has none" in text and "a note" in text
    assert "kernel" not in (tmp_path / "sched.json").read_text()
    picture = ElementTree.parse(plot).getroot()
    titles = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert "sleep0, taut: 4.000 [4.000, 4.000]" in titles


def test_a_rival_that_fails_is_left_out(bench: SimpleNamespace) -> None:
    result = bench.report.Result("x", "x")
    calls = []

    def once(name: str, number: int) -> dict[str, Any]:
        calls.append((number, name))
        if name == "rloop" and number == 1:
            raise bench.host.Failure("rloop:\nNotImplementedError: no")
        return {"ns": len(calls)}

    runs = bench.plan.interleave(result, "row", ["taut", "uvloop", "rloop"], 3, once)
    assert sorted(runs) == ["taut", "uvloop"] and all(len(each) == 3 for each in runs.values())
    assert [name for number, name in calls if number == 1] == ["uvloop", "rloop", "taut"]
    (failure,) = result.failures
    assert failure == {
        "row": "row", "name": "rloop", "why": "NotImplementedError: no", "essential": False,
    }  # fmt: skip


# ---- comparing commits ----


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [(1.2, 0.02, "worse by more than 5%"), (1.03, 0.01, "worse"), (1.0, 0.1, ""),
     (0.8, 0.02, "better")],
)  # fmt: skip
def test_rows_that_differ(
    bench: SimpleNamespace, factor: float, spread: float, verdict: str
) -> None:
    rng = random.Random(5)
    base = [100 * rng.lognormvariate(0, spread) for _ in range(12)]
    present = [100 * factor * rng.lognormvariate(0, spread) for _ in range(12)]
    measured = {"spawn": {"ns": {"base": base, "present": present}}}
    (row,) = bench.compare.rows_of(measured)
    assert row.base == statistics.median(base)
    assert row.verdict(0.05) == verdict
    assert row.regressed(0.05) == (factor == 1.2)


@pytest.mark.parametrize("second", [1.2, 1.0])
def test_what_got_worse_is_measured_once_more(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second: float
) -> None:
    measured = []

    def measure(plan: Any, results: Path) -> dict[str, Any]:
        measured.append(plan.only)
        factors = {"spawn": second if len(measured) > 1 else 1.2, "queue": 0.7}
        return {
            row: {"ns": {"base": [100.0] * 5, "present": [100.0 * factor] * 5}}
            for row, factor in factors.items()
        }

    monkeypatch.setattr(bench.compare, "measure", measure)
    plan = bench.plan.Plan([], Path(), 1, 1, 1.0, 1.0, only=("sched",))
    assert bench.compare.compare(plan, 0.05, tmp_path) == (second == 1.0)
    assert measured == [("sched",), ("spawn",)]


def test_parts_and_rows_are_chosen_by_name(bench: SimpleNamespace) -> None:
    plan = bench.plan.Plan([], Path(), 1, 1, 1.0, 1.0, only=("sched", "protocol_64_*"))
    assert bench.run.wanted_parts(plan) == ["sched", "echo"]
    assert plan.wants("sched", "spawn") and plan.wants("echo", "protocol_64_x10")
    assert not plan.wants("echo", "protocol_1024_x10")
    names = [row for part in bench.run.PARTS.values() for row in part.rows]
    assert len(names) == len(set(names))


def test_short_and_partial_runs_do_not_touch_the_kept_results(bench: SimpleNamespace) -> None:
    kept = "/bench/results/%d.%d" % sys.version_info[:2]
    parse = bench.run.parse_arguments
    assert str(parse([]).results).endswith(kept)
    assert not str(parse(["--quick"]).results).endswith(kept)
    assert not str(parse(["--only", "sched"]).results).endswith(kept)
