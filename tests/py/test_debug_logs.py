"""Debug mode tells what asyncio's tells: the same log lines at the same levels, on both loops.

Each scenario runs on both; the lines are compared after names of classes, numbers of descriptors,
ports, times and addresses are replaced. What is not compared and why:

- "Using selector": there is no selector.
- "Fail to write a null byte into the self-pipe": waking up is a write to an eventfd, which cannot
  be full.
- Child watchers' lines: there are none, see test_subprocess*.py for what replaces them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import loops
import pytest
from loops import Factory, run, serve, until
from tls_certs import Certs

Scenario = Callable[[asyncio.AbstractEventLoop], Awaitable[None]]

RULES = [
    (r"<SSLTransport[^<>]*(<[^<>]*>)?>|<asyncio\.sslproto\.\w+ object at 0x[0-9a-f]+>", "<TLS>"),
    (r"_Unix(Read|Write)(PipeTransport)|_Selector(Datagram)(Transport)", r"\1\2\3\4"),
    (r"_SelectorSocketTransport|SSLTransport|_UnixSelectorEventLoop", "Transport"),
    (r"<Loop ", "<Transport "),
    (r" (closing|open) fd=", " fd="),
    (r"read=\w+", "read="),
    (r"\bfd=\d+", "fd="),
    (r"0x[0-9a-f]+", "0x"),
    (r"(127\.0\.0\.1'?[,:] ?)\d+", r"\1PORT"),
    (r"\d+\.\d+ ?(ms|s)", r"TIME\1"),
]


def plain(text: str) -> str:
    """A log line without what differs from run to run, and from loop to loop."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


class Lines(logging.Handler):
    """Keeps asyncio's log as (level, first line of the text, whether it has a traceback)."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[str, str, bool]] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text)
        if not text.startswith("Using selector"):
            line = plain(text.split("\n")[0])
            self.lines.append((record.levelname, line, bool(record.exc_info)))


@pytest.fixture
def log() -> Iterator[Lines]:
    """asyncio's log of this test."""
    logger = logging.getLogger("asyncio")
    handler, level = Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


class Echo(asyncio.Protocol):
    """Fails, dawdles or answers, as it is told."""

    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"fail":
            raise ZeroDivisionError
        if data == b"dawdle":
            time.sleep(0.06)  # blocks: the slow callback under test
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None


async def turns(count: int = 5) -> None:
    """Lets callbacks that are due run, and what they queue."""
    for _ in range(count):
        await asyncio.sleep(0.001)


def compare(log: Lines, scenario: Scenario, at_least: int = 1) -> list[str]:
    """Runs it on both loops; the lines must be the same. Returns taut's whole texts."""
    found = []
    for name in ("asyncio", "taut"):
        log.lines.clear()
        log.texts.clear()
        loop = loops.factory(name)()
        loop.set_debug(True)
        loop.slow_callback_duration = 3600.0  # however busy the machine is
        try:
            loop.run_until_complete(asyncio.wait_for(scenario(loop), loops.DEADLINE_S))
        finally:
            loop.close()
        found.append(list(log.lines))
    expected, got = found
    assert got == expected
    assert len(got) > at_least  # "Close" comes always
    return list(log.texts)


async def connection(
    loop: asyncio.AbstractEventLoop, made: list[Echo]
) -> tuple[asyncio.Server, Any]:
    """A server of Echoes, and a transport to it that both sides know of."""

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    server, address = await serve(make)
    transport, _ = await loop.create_connection(asyncio.Protocol, *address)
    await until(lambda: made and made[-1].transport is not None, "the connection")
    await turns()
    return server, transport


async def ended(server: asyncio.Server, transport: Any, made: list[Echo]) -> None:
    """Closes both ends, and waits for it."""
    transport.close()
    await until(lambda: all(echo.transport is None for echo in made), "the end")
    server.close()
    await turns()


def test_connections(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        made: list[Echo] = []
        server, transport = await connection(loop, made)
        transport.pause_reading()
        transport.resume_reading()
        await ended(server, transport, made)

    texts = compare(log, scenario, 6)
    assert any("got a new connection from" in text for text in texts)
    assert any(" is serving" in text for text in texts)


def test_unix_and_accepted_connections(log: Lines, tmp_path: Path) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        server = await loop.create_unix_server(Echo, str(tmp_path / f"{id(loop)}"))
        server.close()
        one, two = socket.socketpair()
        transport, _ = await loop.connect_accepted_socket(Echo, one)
        two.close()
        await turns()
        transport.close()
        await turns()

    compare(log, scenario, 2)


def test_a_connection_that_is_reset(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        made: list[Echo] = []
        server, transport = await connection(loop, made)
        loops.reset(transport.get_extra_info("socket")._sock.dup())
        transport.abort()
        await until(lambda: made[0].transport is None, "the reset")
        server.close()
        await turns()

    texts = compare(log, scenario, 4)
    assert any("Fatal read error on socket transport" in text for text in texts)


def test_a_fatal_error_of_the_system(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        made: list[Echo] = []
        server, transport = await connection(loop, made)
        transport._fatal_error(OSError(5, "the disk is on fire"), "Fatal error of a test")
        await ended(server, transport, made)

    compare(log, scenario, 5)


def test_tls(log: Lines, certs: Certs) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        made: list[Echo] = []

        def make() -> Echo:
            made.append(Echo())
            return made[-1]

        server, address = await serve(make, ssl=certs.server())
        for how in "close", "abort":
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address, ssl=certs.client(), server_hostname="localhost"
            )
            await until(lambda: made[-1].transport is not None, "the connection")
            await turns()
            getattr(transport, how)()
            await until(lambda: made[-1].transport is None, "the end")
            await turns()
        server.close()

    texts = compare(log, scenario, 10)
    assert any("SSL handshake took" in text for text in texts)
    assert any("<SSLTransport" in text and "received EOF" in text for text in texts)


def test_datagrams(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        one, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        two, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=one.get_extra_info("sockname")
        )
        one.close()
        two.close()
        await turns()

    compare(log, scenario, 2)


def test_factory_that_raises(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        def fail() -> Echo:
            raise ZeroDivisionError

        server, address = await serve(fail)
        with socket.create_connection(address):
            await until(lambda: any("Error on" in text for text in log.texts), "the report")
        server.close()
        await turns()

    compare(log, scenario, 3)


def test_lookups(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        await loop.getaddrinfo("127.0.0.1", 80)
        await loop.getaddrinfo(
            "localhost", 80, family=socket.AF_INET, type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP,
        )
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("127.0.0.300", 80, flags=socket.AI_NUMERICHOST)

    compare(log, scenario, 5)


def test_a_slow_lookup_is_told_at_level_info(log: Lines) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        loop.slow_callback_duration = 0.0
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        loop.slow_callback_duration = 3600.0

    for name in ("asyncio", "taut"):
        run(loops.factory(name), scenario_of(scenario), debug=True)
        levels = [line[0] for line in log.lines if line[1].startswith("Getting address info")]
        assert levels == ["INFO"], name
        log.lines.clear()


async def scenario_of(scenario: Scenario) -> None:
    """A scenario on the running loop."""
    await scenario(asyncio.get_running_loop())


def failing(*args: Any) -> None:
    """A callback."""
    raise ZeroDivisionError


def test_callbacks_that_fail_say_where_they_came_from(factory: Factory, log: Lines) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        loop.call_soon(failing, "call_soon")
        loop.call_soon_threadsafe(failing, "call_soon_threadsafe")
        loop.call_later(0, failing, "call_later")
        loop.call_at(loop.time(), failing, "call_at")
        loop.add_writer(writing, failing, "add_writer")
        loop.add_signal_handler(signal.SIGUSR1, failing, "add_signal_handler")
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: {how(text) for text in log.texts} >= set(ways), "six reports")
        loop.remove_writer(writing)
        loop.remove_signal_handler(signal.SIGUSR1)
        reading.close()
        writing.close()

    ways = ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_writer",
            "add_signal_handler"]

    def how(text: str) -> str:
        found = re.match(r"Exception in callback failing\('(\w+)'\)", text)
        return found.group(1) if found else ""

    run(factory, main(), debug=True)
    for text in log.texts:
        if how(text):
            assert "Object created at (most recent call last):" in text
            assert f"loop.{how(text)}(" in text, text


def test_slow_callbacks(factory: Factory, loop_name: str, log: Lines) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.05
        made: list[Echo] = []
        server, transport = await connection(loop, made)
        log.texts.clear()

        def slow(_: object = None) -> None:
            time.sleep(0.06)  # blocks: the slow callback under test

        async def slow_task() -> None:
            slow()

        async def says(what: str) -> None:
            await until(lambda: any(re.search(what, text) for text in log.texts), what)
            assert len([text for text in log.texts if re.search(what, text)]) == 1
            log.texts.clear()

        loop.call_soon(slow)
        await says(r"Executing <Handle .*slow\(.*\) at .* took 0\.\d{3} seconds")
        loop.call_later(0.001, slow)
        await says(r"Executing <TimerHandle when=\S+ .*slow\(.*\) at .* took 0\.")
        task = asyncio.ensure_future(slow_task())
        await task
        await says(r"Executing <Task finished .*slow_task\(\) done, .* took 0\.")
        transport.write(b"dawdle")
        await says(
            r"Executing .*_read_ready.* took 0\." if loop_name == "asyncio" else
            r"Executing Echo\.data_received\(\) of <Transport fd=\d+ read=polling .* took 0\."
        )
        await ended(server, transport, made)

    # The watchdog's own reports are not wanted on the test's output.
    loop = factory()
    if loop_name == "taut":
        loop.stall_threshold = None  # type: ignore[attr-defined]
    run(lambda: loop, main(), debug=True)


def test_a_slow_call_that_fails_is_both(log: Lines) -> None:
    class Slow(Echo):
        def data_received(self, data: bytes) -> None:
            time.sleep(0.06)  # blocks: the slow callback under test
            raise ZeroDivisionError

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.05
        loop.stall_threshold = None
        faults = loops.Faults(loop)
        one, two = socket.socketpair()
        transport = await loops.connected(loop, one, Slow())
        two.send(b"x")
        await until(lambda: faults.contexts, "the fault")
        assert faults.exceptions() == [ZeroDivisionError]
        transport.close()
        two.close()

    run(loops.factory("taut"), main(), debug=True)
    assert [t for t in log.texts if "Executing " in t and "Slow.data_received() of <Transp" in t]


def test_reprs_of_handles(factory: Factory) -> None:
    loop = factory()
    loop.set_debug(True)
    for handle in loop.call_soon(failing, 1), loop.call_later(1000, failing, 1):
        kind = type(handle).__name__
        when = r"when=\S+ " if kind == "TimerHandle" else ""
        source = r"failing\(1\) at \S+test_debug_logs.py:\d+ created at \S+test_debug_logs.py:\d+>"
        assert re.fullmatch(f"<{kind} {when}{source}", repr(handle)), repr(handle)
        handle.cancel()
        assert re.fullmatch(f"<{kind} cancelled {when}{source}", repr(handle)), repr(handle)
    loop.set_debug(False)
    handle = loop.call_soon(failing, 1)
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"
    loop.close()


def test_never_retrieved_says_where_it_was_made(factory: Factory, log: Lines) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: Any = loop.create_future()
        future.set_exception(ZeroDivisionError())
        del future
        task: Any = loop.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    run(factory, main(), debug=True)
    for what, line in ("Future", "future: Any = loop.create_future()"), (
        "Task", "task: Any = loop.create_task(fail())"
    ):
        (text,) = [t for t in log.texts if t.startswith(f"{what} exception was never retrieved")]
        assert "Object created at (most recent call last):" in text
        assert line in text


def test_never_awaited_says_where_it_was_made(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            loop.sock_recv(sock, 1)
            gc.collect()

    for debug in False, True:
        with pytest.warns(RuntimeWarning, match="was never awaited") as caught:
            run(factory, main(), debug=debug)
        (text,) = {str(one.message) for one in caught if "never awaited" in str(one.message)}
        assert re.match(r"coroutine '(\w+\.)*sock_recv' was never awaited", text)
        assert ("Coroutine created at (most recent call last)" in text) == debug
        assert ("loop.sock_recv(sock, 1)" in text) == debug


def test_a_task_made_with_keywords_has_a_clean_stack() -> None:
    async def nothing() -> None:
        pass

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for task in loop.create_task(nothing()), loop.create_task(nothing(), name="named"):
            assert task._source_traceback[-1].name == "main"
            await task

    run(loops.factory("taut"), main(), debug=True)


def test_switching_while_it_runs(factory: Factory, log: Lines) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0  # every callback is slow
        assert not sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sys.get_coroutine_origin_tracking_depth() > 0
        assert any(text.startswith("Executing ") for text in log.texts)
        loop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not sys.get_coroutine_origin_tracking_depth()
        log.texts.clear()
        await asyncio.sleep(0)
        assert not log.texts

    run(factory, main(), debug=False)
    assert not sys.get_coroutine_origin_tracking_depth()


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, "False 0"),
        (["-X", "dev"], {}, "True 10"),
        ([], {"PYTHONASYNCIODEBUG": "1"}, "True 10"),
        ([], {"PYTHONASYNCIODEBUG": ""}, "False 0"),
        (["-E"], {"PYTHONASYNCIODEBUG": "1"}, "False 0"),
        (["-X", "dev"], {"PYTHONASYNCIODEBUG": ""}, "True 10"),
    ],
)
def test_how_the_process_is_started(
    options: list[str], variables: dict[str, str], expected: str
) -> None:
    code = """
async def main():
    print(asyncio.get_running_loop().get_debug(), sys.get_coroutine_origin_tracking_depth())
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONASYNCIODEBUG"} | variables
    argv = loops.command("taut", code)
    if "-E" in options:  # PYTHONPATH goes with it
        argv[-1] = f"import sys; sys.path[:0] = {sys.path!r}\n" + argv[-1]
    done = loops.subprocess.run(
        [argv[0], *options, *argv[1:]], env=environ, capture_output=True, text=True, timeout=40
    )
    assert loops.ok(done).strip() == expected


def test_thread_checks(factory: Factory) -> None:
    """Every method that asyncio refuses to other threads in debug mode."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        transport = await loops.connected(loop, one, Echo())
        refused: list[str] = []

        def elsewhere() -> None:
            calls: dict[str, Callable[[], Any]] = {
                "call_soon": lambda: loop.call_soon(failing),
                "call_later": lambda: loop.call_later(0, failing),
                "call_at": lambda: loop.call_at(0, failing),
                "create_task": lambda: loop.create_task(turns()),
                "transport.close": transport.close,
                "transport.abort": transport.abort,
            }
            for name, call in calls.items():
                if name == "transport.abort" and transport.is_closing():
                    refused.append(name)  # asyncio's close() has half happened
                    continue
                try:
                    call()
                except RuntimeError as exc:
                    assert "Non-thread-safe operation" in str(exc)
                    refused.append(name)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the coroutine that could not become a task
            await asyncio.to_thread(elsewhere)
            gc.collect()
        assert refused == ["call_soon", "call_later", "call_at", "create_task",
                           "transport.close", "transport.abort"]
        transport._force_close(None) if not transport.is_closing() else None
        two.close()
        one.close()

    run(factory, main(), debug=True)
