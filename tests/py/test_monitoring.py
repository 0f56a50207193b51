"""examples/monitoring and the text that Prometheus reads: its form, and that dashboard and alerts
ask only for what is there."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from programs import Service, free_port

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "examples" / "monitoring"
ALERTS = MONITORING / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
TABLES = (ROOT / "docs" / "METRICS.md").read_text("utf-8").split("## OpenTelemetry")[0]
DOCUMENTED = dict(re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", TABLES, re.M))

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is missing"
)

#: Two loops, and something of each kind: tasks, calls, lookups, collections, stalls, findings, and
#: requests of which one holds up the others.
PROGRAM = """\
import asyncio, gc, threading, time, taut
from taut import _core, doctor

stalled = asyncio.Event()

@doctor.asgi
async def app(scope, receive, send):
    if scope["path_template"] == "/stalls":
        await asyncio.sleep(0)
        time.sleep(0.2)  # blocks: the stall of a request
        stalled.set()
    while scope["path_template"] == "/waits" and not stalled.is_set():
        await asyncio.sleep(0)
    if scope["path_template"] == "/stays":
        await forever()

def request(route):
    return app({"type": "http", "method": "GET", "path": route, "path_template": route}, None, None)

async def forever():
    await asyncio.get_running_loop().create_future()

async def main():
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(forever()) for _ in range(3)]
    tasks.append(asyncio.create_task(request("/stays")))
    await asyncio.gather(request("/waits"), request("/stalls"))
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(3)))
    await loop.getaddrinfo("localhost", 80)
    gc.collect()
    while not _core.findings():
        time.sleep(0.2)  # blocks: the stall
        await asyncio.sleep(0.01)
    while not _core.loop_vitals(loop)["examinations"]:
        await asyncio.sleep(0.01)
    print("ready")
    await asyncio.gather(*tasks)

threading.Thread(target=taut.run, args=(forever(),), daemon=True).start()
taut.run(main())
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a process in which each metric has a value gives to Prometheus."""
    port = str(free_port())
    env = {"TAUT_METRICS_PORT": port, "TAUT_STALL": "50ms"}
    with Service("-c", PROGRAM, cwd=tmp_path_factory.mktemp("metrics"), **env) as service:
        service.wait_for(lambda out: "ready\n" in out, "something of each kind")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            body: str = answer.read().decode()
    return body


# ---- the form ----

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\d+(?:\.\d+)?)")
Series = tuple[str, frozenset[str]]


def parse(text: str) -> dict[str, tuple[str, dict[Series, float]]]:
    """The families of the text format, version 0.0.4: their types and samples. AssertionError
    where it is not as strict as a reader may be."""
    families: dict[str, tuple[str, dict[Series, float]]] = {}
    lines = text.split("\n")
    assert lines.pop() == "", "the last line ends"
    helped = name = ""
    for line in lines:
        if line.startswith("# HELP "):
            helped, _, says = line[7:].partition(" ")
            assert re.fullmatch(NAME, helped) and says, line
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == helped and name not in families, line
            assert kind in {"counter", "gauge", "histogram"}, line
            families[name] = kind, {}
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            kind, samples = families[name]
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert match[1] in {name + suffix for suffix in suffixes}, line
            series = match[1], frozenset(re.findall(LABEL, match[2]))
            assert series not in samples, line
            samples[series] = float(match[3])
    return families


def bound_of(labels: frozenset[str]) -> float:
    (edge,) = [label[4:-1] for label in labels if label.startswith('le="')]
    return math.inf if edge == "+Inf" else float(edge)


def test_the_text_is_in_the_format_of_prometheus(text: str) -> None:
    for name, (kind, samples) in parse(text).items():
        assert samples, name
        assert (kind == "counter") == name.endswith("_total"), name
        if kind != "histogram":
            continue
        rest = {labels for part, labels in samples if part == name + "_count"}
        assert len(rest) == 2, "two loops"
        for labels in rest:
            buckets = sorted(
                (bound_of(of), count)
                for (part, of), count in samples.items()
                if part == name + "_bucket" and labels < of
            )
            assert len(buckets) > 10 and buckets[-1][0] == math.inf
            counts = [count for _, count in buckets]
            assert counts == sorted(counts) and counts[-1] == samples[name + "_count", labels]
            assert samples[name + "_sum", labels] >= 0


def test_what_is_documented_is_there_with_a_value(text: str) -> None:
    families = parse(text)
    assert {name: kind for name, (kind, _) in families.items()} == DOCUMENTED
    may_be_zero = re.compile(r"_queued|_running|_depth|lookups_pending|uncollectable|collected")
    zero = {name for name, (_, samples) in families.items() if not any(samples.values())}
    assert not {name for name in zero if not may_be_zero.search(name)}


@needs_promtool
def test_promtool_takes_the_text(text: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- dashboard and alerts ----

#: What stands in our expressions beside names of metrics.
WORDS = {
    "and", "or", "unless", "ignoring", "offset", "by", "sum", "max", "rate", "increase", "delta",
    "histogram_quantile", "min_over_time",
}  # fmt: skip
LABELS = {"job", "instance", "loop", "le", "code", "generation", "state", "method", "route"}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for; AssertionError for labels that there are not."""
    for matcher in re.findall(r"\{(.*?)\}", expression):
        used = re.findall(r"(\w+) *(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", matcher))
        assert set(used) <= LABELS, expression
    rest = re.sub(r"\{.*?\}|\[.*?\]|\boffset \w+", " ", expression)
    for grouped in re.findall(r"\b(?:by|ignoring) \((.*?)\)", rest):
        assert set(re.split(r", *", grouped)) <= LABELS, expression
    rest = re.sub(r"\b(by|ignoring) \(.*?\)", " ", rest)
    return {word for word in re.findall(r"\b[a-z_][a-z_0-9]*", rest) if word not in WORDS}


def alert_expressions() -> list[str]:
    """Read without a YAML parser, which the tests do not have: `expr:` and its indented lines."""
    found = re.findall(r"^( +)expr:(.*\n(?:\1 +\S.*\n)*)", ALERTS.read_text("utf-8"), re.M)
    return [text.replace("|\n", "").strip() for _, text in found]


def dashboard_expressions() -> list[str]:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return found + [note["expr"] for note in DASHBOARD["annotations"]["list"]]


def test_they_ask_for_what_is_there(text: str) -> None:
    there = {series[0] for _, samples in parse(text).values() for series in samples}
    for expression in alert_expressions() + dashboard_expressions():
        names = names_in(expression)
        assert names and names <= there, expression


def test_the_dashboard_shows_all_but_the_second_name_of_the_lag() -> None:
    shown = {name for expression in dashboard_expressions() for name in names_in(expression)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert families == set(DOCUMENTED) - {"asyncio_eventloop_delay_seconds"}


def test_each_alert_is_described_and_played() -> None:
    names = re.findall(r"- alert: (\w+)$", ALERTS.read_text("utf-8"), re.M)
    assert len(names) == len(set(names)) == len(alert_expressions()) > 5
    readme = (MONITORING / "README.md").read_text("utf-8")
    assert re.findall(r"^\| `(Taut\w+)` \|", readme, re.M) == names
    played = (MONITORING / "alerts_test.yml").read_text("utf-8")
    assert set(re.findall(r"alertname: (\w+)", played)) == set(names)


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(DASHBOARD)))
    assert used - {"__rate_interval", "__all"} == variables


def promtool(*args: str, cwd: Path = MONITORING) -> None:
    done = subprocess.run(["promtool", *args], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_plays_the_alerts() -> None:
    promtool("check", "rules", ALERTS.name)
    promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "1m")}
        for n, expression in enumerate(dashboard_expressions())
    ]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", cwd=tmp_path)
