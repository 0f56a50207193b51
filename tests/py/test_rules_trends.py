"""Rules about what only grows, and about what the kernel says of this host's connections."""

from __future__ import annotations

import socket

import pytest
from taut import _connections, _core, doctor
from taut.doctor import _rules, _rules_trends


#: Of these rules; a machine that is busy, and what earlier tests have left behind, give others.
CODES = {"memory-growth", "fd-growth", "time-wait", "listen-overflow"}


def own_findings():
    return [finding for finding in doctor.findings() if finding.code in CODES]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    _core.findings_clear()
    _connections.made.clear()
    monkeypatch.setattr(_rules_trends, "TREND_S", 10.0)
    for name in ("_rss", "_open", "_waiting", "_overflows"):
        monkeypatch.setattr(_rules_trends, name, {})
    for lasting in ("_memory", "_fds", "_time_wait", "_overflow"):
        code = getattr(_rules_trends, lasting).code
        monkeypatch.setattr(_rules_trends, lasting, _rules.Lasting(code))


def record(now):
    resolver = _rules.Resolver(0, 0, 0, 0.0)
    return _rules.Record(99, float(now), 7, 0, 0, [], [], resolver, [])


def feed(monkeypatch, reader, rule, values):
    for now, value in enumerate(values):
        monkeypatch.setattr(_rules_trends, reader, lambda *_, value=value: value)
        rule(record(now))


MIB = 1 << 20


def test_memory_that_grows_all_the_time(monkeypatch):
    values = [(100 + 10 * n) * MIB for n in range(12)]
    feed(monkeypatch, "_resident", _rules_trends.memory_growth, values)
    (finding,) = doctor.findings("memory-growth")
    assert "from 100 to 200 MiB within 10.0 s" in finding.cause


@pytest.mark.parametrize(
    "values",
    [
        [100 + min(10 * n, 60) for n in range(20)],  # it fills a cache, and then no more
        [100 + 10 * (n % 6) for n in range(20)],  # up and down
        [1000 + n for n in range(20)],  # by little
    ],
)
def test_memory_that_is_used(monkeypatch, values):
    sizes = [value * MIB for value in values]
    feed(monkeypatch, "_resident", _rules_trends.memory_growth, sizes)
    assert own_findings() == []


def site():
    return _connections.site()


def connect_by(count):
    """So many connections that are open, made at one line of this file."""
    kept = []
    for _ in range(count):
        kept.append(socket.socket())
        _connections.note(("10.0.0.1", 80), site(), kept[-1])
    return kept


def test_connections_that_nobody_closes():
    kept = []
    for now in range(12):
        kept += connect_by(5)
        _rules_trends.fd_growth(record(now))
    (finding,) = doctor.findings("fd-growth")
    assert finding.file == __file__
    assert finding.cause.startswith("55 connections to 10.0.0.1:80 are open, 50 more than")
    for one in kept:
        one.close()
    _rules_trends.fd_growth(record(12))
    assert doctor.findings("fd-growth")[0].state == "over"


def test_connections_that_come_and_go():
    kept = []
    for now in range(12):
        kept += connect_by(10)
        for one in kept[:5]:
            one.close()
        del kept[:5]
        _rules_trends.fd_growth(record(now))
    assert own_findings() == []
    for one in kept:
        one.close()


def test_ports_in_time_wait(monkeypatch):
    for one in connect_by(1500):
        one.close()
    now = _connections.made[-1].at
    monkeypatch.setattr(_rules_trends, "_sockstat", lambda name: 2500)
    _rules_trends.time_wait(record(now)._replace(now=now))
    (finding,) = doctor.findings("time-wait")
    assert finding.file == __file__
    assert "2500 sockets of this host are in TIME_WAIT" in finding.cause


def test_ports_that_others_have_used(monkeypatch):
    for one in connect_by(100):
        one.close()
    now = _connections.made[-1].at
    monkeypatch.setattr(_rules_trends, "_sockstat", lambda name: 9000)
    _rules_trends.time_wait(record(now)._replace(now=now))
    assert own_findings() == []


def test_connections_that_the_kernel_drops(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        counts = [5, 5, 9, 12]
        feed(monkeypatch, "_listen_overflows", _rules_trends.listen_overflow, counts)
        (finding,) = doctor.findings("listen-overflow")
        assert "dropped 7 connections" in finding.cause
        assert any(line.startswith(f"port {port}:") for line in finding.evidence)


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [5, 5, 9, 9]])
def test_no_connection_or_one_moment(monkeypatch, counts):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        feed(monkeypatch, "_listen_overflows", _rules_trends.listen_overflow, counts)
        assert own_findings() == []


def test_what_the_kernel_says_is_read():
    assert _rules_trends._resident() > 1 << 20
    assert _rules_trends._sockstat("tw") is not None
    assert _rules_trends._listen_overflows() is not None
