"""Numbers and tasks, as Python, Prometheus and OpenTelemetry are told of them."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from taut import _core, doctor

import taut

DOCS = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
LIMIT_S = 30


async def waits(future):
    await future  # here


def test_a_loop_in_numbers():
    async def main():
        for _ in range(20):
            await asyncio.sleep(0.001)
        (loop,) = doctor.metrics()["loops"]
        assert loop["iterations"] >= 20
        assert loop["lag"]["count"] >= 20
        assert 0 <= loop["lag"]["p50"] <= loop["lag"]["p99"] <= loop["lag"]["max"]
        assert loop["idle"] > 0.01
        assert loop["active"] > 0
        assert 0 < loop["utilization"] < 1
        assert loop["busy"]["count"] == pytest.approx(loop["iterations"], abs=2)

    taut.run(main())


def test_a_callback_that_hangs_is_counted_while_it_hangs():
    async def main():
        loop = asyncio.get_running_loop()
        gate, seen = threading.Event(), []

        def look():
            end = time.monotonic() + LIMIT_S
            while time.monotonic() < end:
                text = _core.metrics_text()
                seen.append(float(re.search(r'state="active"} ([\d.]+)', text).group(1)))
                if seen[-1] > seen[0] + 0.2:
                    break
            gate.set()

        await asyncio.sleep(0.01)
        thread = threading.Thread(target=look)
        thread.start()
        gate.wait()
        thread.join()
        assert seen == sorted(seen)
        assert seen[-1] > seen[0] + 0.2
        assert _core.loop_vitals(loop)["active"] >= seen[-1] - 0.01

    taut.run(main())


def test_collections_are_counted():
    before = _core.gc_vitals()[2]
    gc.collect()
    after = _core.gc_vitals()[2]
    assert after["count"] == before["count"] + 1
    assert after["pauses"] > before["pauses"]
    assert after["longest"] > 0


def test_executor_calls_and_lookups_are_counted():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(int)
        await asyncio.to_thread(int)
        await loop.getaddrinfo("localhost", 80)
        numbers = _core.loop_vitals(loop)
        assert numbers["executor_calls"] >= 1  # the first makes the default executor
        assert numbers["lookups"] == 1

    taut.run(main())


def names_in(text):
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def test_every_name_is_documented_and_every_documented_name_exists():
    async def main():
        return _core.metrics_text()

    told = names_in(taut.run(main()))
    tables = DOCS.read_text(encoding="utf-8").split("## OpenTelemetry")[0]
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", tables, re.M))
    assert told == documented


def test_the_text_is_in_order():
    async def main():
        return _core.metrics_text()

    seen, name = set(), ""
    for line in taut.run(main()).splitlines():
        if line.startswith("# HELP"):
            name = line.split()[2]
            assert name not in seen
            seen.add(name)
        elif not line.startswith("#"):
            label = r"[a-z]+=\"[^\"]*\""
            assert re.fullmatch(rf"[a-z_]+\{{{label}(,{label})*\}} [\d.]+", line)
            assert line.startswith(name)


def test_loops_have_numbers_of_their_own_and_take_them_along():
    first, second = taut.new_event_loop(), taut.new_event_loop()
    try:
        ids = {_core.loop_vitals(loop)["loop"] for loop in (first, second)}
        assert len(ids) == 2
        text = _core.metrics_text()
        assert all(f'pending_tasks{{loop="{number}"}}' in text for number in ids)
    finally:
        first.close()
        second.close()
    assert not any(f'pending_tasks{{loop="{number}"}}' in _core.metrics_text() for number in ids)


def test_tasks():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = loop.create_task(waits(future), name="the one that waits")
        await asyncio.sleep(0.05)
        fresh = asyncio.create_task(waits(future), name="fresh")
        by_name = {info.name: info for info in doctor.tasks()}
        info = by_name["the one that waits"]
        assert info.state == "waiting"
        assert 0.02 < info.waiting <= info.age < LIMIT_S
        assert info.waits_at == (__file__, waits.__code__.co_firstlineno + 1, "waits")
        assert info.made_at[0] == __file__
        assert by_name["fresh"].state == "ready"
        assert by_name["fresh"].waiting is None
        assert by_name[asyncio.current_task().get_name()].state == "running"
        assert doctor.tasks(loop)[0].age >= info.age
        future.set_result(None)
        await asyncio.gather(task, fresh)

    taut.run(main())


def test_the_collector_of_prometheus(monkeypatch):
    families = []
    parser = types.ModuleType("prometheus_client.parser")
    parser.text_string_to_metric_families = lambda text: families.append(text) or ["family"]
    monkeypatch.setitem(sys.modules, "prometheus_client", types.ModuleType("prometheus_client"))
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", parser)
    collector = doctor.PrometheusCollector()
    assert list(collector.collect()) == ["family"]
    assert "cpython_gc_collections_total" in families[0]
    assert list(collector.describe()) == []


class Meter:
    def __init__(self):
        self.made = {}

    def create_observable_gauge(self, name, callbacks, unit, description):
        self.made[name] = callbacks[0]

    create_observable_counter = create_observable_gauge


def test_the_instruments_of_opentelemetry(monkeypatch):
    api = types.ModuleType("opentelemetry.metrics")
    api.Observation = lambda value, attributes: (value, attributes)
    monkeypatch.setitem(sys.modules, "opentelemetry", types.ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", api)

    async def main():
        await asyncio.sleep(0.01)
        meter = Meter()
        doctor.opentelemetry(meter)
        documented = DOCS.read_text(encoding="utf-8").split("## OpenTelemetry")[1]
        for name, observe in meter.made.items():
            observations = list(observe(None))
            assert observations
            assert all(value >= 0 for value, _ in observations)
            assert name.rpartition(".")[2] in documented
        states = {labels["asyncio.eventloop.state"]
                  for _, labels in meter.made["asyncio.eventloop.time"](None)}  # fmt: skip
        assert states == {"active", "idle"}

    taut.run(main())


def test_what_is_not_a_loop():
    for function in (_core.loop_vitals, _core.examine):
        with pytest.raises(TypeError, match="loop must be a taut loop"):
            function(3)
    assert _core.task_times(3) is None
