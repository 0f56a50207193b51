"""getaddrinfo and getnameinfo: results, errors, many at once, cancelling, closing."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import warnings
from typing import Any

import pytest
from loops import Factory, run, until

STREAM = socket.SOCK_STREAM


@pytest.mark.parametrize(
    ("host", "port", "options"),
    [
        ("127.0.0.1", 80, {}),
        ("127.0.0.1", "80", {"type": STREAM}),
        (b"127.0.0.1", b"80", {"type": STREAM}),
        ("127.1", 80, {"type": STREAM}),
        ("::1", 80, {"type": STREAM}),
        ("::1%1", 80, {"type": STREAM}),
        (None, 8080, {"type": STREAM, "flags": socket.AI_PASSIVE}),
        ("127.0.0.1", None, {"type": STREAM, "flags": socket.AI_CANONNAME}),
        ("localhost", 443, {"type": STREAM}),
        ("localhost", "http", {"type": STREAM, "family": socket.AF_INET}),
        ("localhost", 5, {"proto": socket.IPPROTO_UDP}),
    ],
)
def test_same_as_the_socket_module(
    factory: Factory, host: Any, port: Any, options: dict[str, Any]
) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().getaddrinfo(host, port, **options)

    result = run(factory, main())
    expected = socket.getaddrinfo(host, port, **options)
    assert result == expected
    assert [tuple(map(type, item)) for item in result] == [
        tuple(map(type, item)) for item in expected
    ]


@pytest.mark.parametrize(
    ("host", "port", "options"),
    [
        ("127.0.0.1", "no-such-service", {}),
        ("name.invalid", 80, {}),
        (None, None, {}),
        ("127.0.0.1", 80, {"family": socket.AF_INET6}),
        ("127.0.0.1", 80, {"family": 12345}),
        ("::1", 80, {"flags": socket.AI_NUMERICHOST, "family": socket.AF_INET}),
    ],
)
def test_same_errors_as_the_socket_module(
    factory: Factory, host: Any, port: Any, options: dict[str, Any]
) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().getaddrinfo(host, port, **options)

    with pytest.raises(socket.gaierror) as expected:
        socket.getaddrinfo(host, port, **options)
    with pytest.raises(socket.gaierror) as got:
        run(factory, main())
    assert got.value.args == expected.value.args


def test_wrong_arguments(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            await loop.getaddrinfo(5, 80)
        with pytest.raises(OSError):
            await loop.getaddrinfo("127.0.0.1", 8.0)
        with pytest.raises(UnicodeError):
            await loop.getaddrinfo("a" * 100 + ".test", 80)
        with pytest.raises(TypeError):
            await loop.getaddrinfo("127.0.0.1")
        with pytest.raises(TypeError):
            await loop.getaddrinfo("127.0.0.1", 80, colour=1)
        with pytest.raises(TypeError):
            await loop.getnameinfo("127.0.0.1")
        with pytest.raises(OverflowError):
            await loop.getnameinfo(("::1", 80, 0x1FFFFF, 0))
        with pytest.raises(socket.gaierror):
            await loop.getnameinfo(("not numeric", 80))

    run(factory, main())


@pytest.mark.parametrize(
    "flags", [0, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV, socket.NI_NUMERICSERV]
)
@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("::1", 80), ("::1", 80, 0, 0)])
def test_getnameinfo(factory: Factory, flags: int, address: Any) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().getnameinfo(address, flags)

    assert run(factory, main()) == socket.getnameinfo(address, flags)


def test_many_at_once(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = [loop.getaddrinfo("localhost", port, type=STREAM) for port in range(1, 301)]
        for port, infos in enumerate(await asyncio.gather(*calls), 1):
            assert {info[4][1] for info in infos} == {port}

    run(factory, main())


def test_cancelling(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(loop.getaddrinfo("localhost", 80)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, result in enumerate(results):
            # One that came back before it could be cancelled is as good.
            assert isinstance(result, list) or (i % 2 == 0 and isinstance(result, BaseException))

    run(factory, main())


def test_closing_the_loop_with_lookups_under_way(factory: Factory) -> None:
    for _ in range(20):
        loop = factory()
        tasks = [
            loop.create_task(loop.getaddrinfo("localhost", port))  # type: ignore[arg-type]
            for port in range(20)
        ]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del task, tasks, loop
            gc.collect()


def test_a_replaced_function_of_the_socket_module_is_called(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def fake(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return [args]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    monkeypatch.setattr(socket, "getnameinfo", fake)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.getaddrinfo("some", 5, type=STREAM) == [("some", 5, 0, STREAM, 0, 0)]
        assert await loop.getnameinfo(("1.2.3.4", 5)) == [(("1.2.3.4", 5), 0)]
        assert threading.main_thread() not in threads

    run(factory, main())


def test_lookup_of_a_task_that_nobody_holds(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: list[Any] = []

        async def look() -> None:
            got.append(await loop.getaddrinfo("localhost", 80, type=STREAM))

        loop.create_task(look())
        await asyncio.sleep(0)
        gc.collect()
        await until(lambda: got)

    run(factory, main())
