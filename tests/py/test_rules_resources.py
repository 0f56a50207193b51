"""Rules about what a program uses up, each with a program that is well and must not be accused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
from taut import _connections, _core, doctor
from taut.doctor import _rules, _rules_resources

import taut

LIMIT_S = 30


#: Of these rules; a machine that is busy, and what earlier tests have left behind, give others.
CODES = {"fd-exhaustion", "client-per-request", "retry-storm", "queue-growth", "cleanup-slow"}


def own_findings():
    return [finding for finding in doctor.findings() if finding.code in CODES]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    _core.findings_clear()
    _connections.made.clear()
    monkeypatch.setattr(_rules, "EVENT_S", 0.5)
    monkeypatch.setattr(_rules_resources, "TREND_S", 1.0)
    monkeypatch.setattr(_rules_resources, "QUEUE_MIN", 50)
    monkeypatch.setattr(_rules_resources, "CONNECTS_WINDOW_S", 1.5)
    monkeypatch.setattr(_rules_resources, "CONNECTS_MIN", 20)
    monkeypatch.setattr(_rules_resources, "_fds_last", [0.0, 0.0])
    for lasting in ("_fds", "_client", "_retry", "_queue", "_cleanup"):
        code = getattr(_rules_resources, lasting).code
        monkeypatch.setattr(_rules_resources, lasting, _rules.Lasting(code))


async def found(code):
    """The first finding of this code."""
    end = time.monotonic() + LIMIT_S
    while not doctor.findings(code):
        assert time.monotonic() < end, doctor.findings()
        await asyncio.sleep(0.01)
    return doctor.findings(code)[0]


async def examined(count=4):
    """So many examinations have passed."""
    seen = []

    def see(record):
        seen.append(record)

    _rules.rule(see)
    try:
        end = time.monotonic() + LIMIT_S
        while len(seen) < count:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
    finally:
        _rules._rules.remove(see)


def line_of(text):
    with open(__file__, encoding="utf-8") as file:
        return next(n for n, line in enumerate(file, 1) if text in line and "line_of" not in line)


# ---- descriptors ----


def test_nearly_all_descriptors(monkeypatch):
    open_now = _rules_resources._fd_count()
    monkeypatch.setattr(_rules_resources, "_fd_limit", lambda: open_now + 3)

    async def main():
        finding = await found("fd-exhaustion")
        assert f"of the {open_now + 3} file descriptors" in finding.cause

    taut.run(main())


def test_no_descriptor_left_to_count_them(monkeypatch):
    monkeypatch.setattr(_rules_resources, "_fd_count", lambda: None)
    monkeypatch.setattr(_rules_resources, "_fd_limit", lambda: 64)

    async def main():
        assert (await found("fd-exhaustion")).cause.startswith("All of the 64 file descriptors")

    taut.run(main())


def test_who_has_most_connections_open_is_to_blame(monkeypatch):
    monkeypatch.setattr(_rules_resources, "_fd_limit", lambda: 20)

    async def main():
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]  # all kept
        finding = await found("fd-exhaustion")
        assert (finding.file, finding.line) == (__file__, line_of("# all kept"))
        assert f"12 connections to 127.0.0.1:{port} are open" in finding.evidence
        for _, writer in kept:
            writer.close()
        server.close()

    taut.run(main())


def test_enough_descriptors():
    async def main():
        await examined(2)
        assert doctor.findings("fd-exhaustion") == []

    taut.run(main())


# ---- connections ----


@contextlib.asynccontextmanager
async def echo_server():
    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def ask(reader, writer):
    writer.write(b"question\n")
    assert await reader.readline() == b"question\n"


def test_a_connection_for_each_request():
    async def main():
        async with echo_server() as port:
            done = asyncio.Event()

            async def requests():
                while not done.is_set():
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # each time
                    await ask(reader, writer)
                    writer.close()
                    await asyncio.sleep(0.005)

            client = asyncio.create_task(requests())
            finding = await found("client-per-request")
            done.set()
            await client
            assert (finding.file, finding.line) == (__file__, line_of("# each time"))
            assert f"connections to 127.0.0.1:{port} were made" in finding.cause

    taut.run(main())


def test_connections_that_are_kept():
    async def main():
        async with echo_server() as port:
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
            done = asyncio.Event()

            async def requests(connection):
                while not done.is_set():
                    await ask(*connection)
                    await asyncio.sleep(0.02)

            async with asyncio.TaskGroup() as group:
                for connection in kept:
                    group.create_task(requests(connection))
                await examined()
                done.set()
            for _, writer in kept:
                writer.close()
            assert own_findings() == []

    taut.run(main())


def test_attempts_that_fail_again_and_again():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

        async def main():
            done = asyncio.Event()

            async def tries():
                while not done.is_set():
                    with contextlib.suppress(OSError):
                        await asyncio.open_connection("127.0.0.1", port)  # refused
                    await asyncio.sleep(0.005)

            client = asyncio.create_task(tries())
            finding = await found("retry-storm")
            done.set()
            await client
            assert (finding.file, finding.line) == (__file__, line_of("# refused"))

        taut.run(main())


def test_a_few_attempts_with_pauses():
    async def main():
        for _ in range(100):
            with contextlib.suppress(OSError):
                await asyncio.open_connection("127.0.0.1", 1)
        await examined()
        assert doctor.findings("retry-storm") == []

    taut.run(main())


# ---- queues ----


class Worker:
    def __init__(self, maxsize=0):
        self.queue = asyncio.Queue(maxsize)

    async def work(self, pause):
        while True:
            await self.queue.get()
            await asyncio.sleep(pause)  # works


async def consume(queue, pause):
    while True:
        await queue.get()
        await asyncio.sleep(pause)


@pytest.mark.parametrize("kind", ["field", "variable"])
def test_a_queue_that_grows(kind):
    async def main():
        worker = Worker()
        run = worker.work(0.1) if kind == "field" else consume(worker.queue, 0.1)
        task = asyncio.create_task(run)

        async def fill():
            while True:
                for _ in range(5):
                    worker.queue.put_nowait(0)  # without a bound
                await asyncio.sleep(0.01)

        filler = asyncio.create_task(fill())
        finding = await found("queue-growth")
        assert (finding.file, finding.line) == (__file__, line_of("# without a bound"))
        assert "A queue without a bound has grown from" in finding.cause
        for one in (task, filler):
            one.cancel()
        await asyncio.wait([task, filler])

    taut.run(main())


def test_queues_that_are_bounded_or_emptied():
    async def main():
        bounded, emptied = Worker(100), Worker()
        tasks = [asyncio.create_task(bounded.work(0.1)), asyncio.create_task(emptied.work(0))]

        async def fill():
            while True:
                for _ in range(200):
                    emptied.queue.put_nowait(0)
                await asyncio.sleep(0.3)

        async def fill_bounded():
            while True:
                await bounded.queue.put(0)

        tasks += [asyncio.create_task(fill()), asyncio.create_task(fill_bounded())]
        await examined()
        assert own_findings() == []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    taut.run(main())


# ---- cleaning up ----


class Slow:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        await asyncio.sleep(LIMIT_S)  # the clean-up


@contextlib.asynccontextmanager
async def managed():
    yield
    await asyncio.sleep(LIMIT_S)  # the end


@pytest.mark.parametrize(("make", "where"), [(Slow, "# the clean-up"), (managed, "# the end")])
def test_a_clean_up_that_hangs(make, where):
    async def main():
        async def uses():
            async with make():
                pass

        task = asyncio.create_task(uses())
        finding = await found("cleanup-slow")
        assert (finding.file, finding.line) == (__file__, line_of(where))
        task.cancel()
        await asyncio.wait([task])

    taut.run(main())


def test_groups_that_wait_for_their_tasks():
    async def main():
        async def group():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(LIMIT_S))

        async def body():
            async with managed():
                await asyncio.sleep(LIMIT_S)

        tasks = [asyncio.create_task(group()), asyncio.create_task(body())]
        await examined(2)
        assert own_findings() == []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    taut.run(main())
