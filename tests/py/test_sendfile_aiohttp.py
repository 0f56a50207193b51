"""Static files of aiohttp, which sends them by loop.sendfile(): whole, in ranges, given up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, run, until
from tls_certs import Certs

aiohttp = pytest.importorskip("aiohttp", reason="needs tests/requirements.txt")

SIZE = 6 * 2**20 + 3
DATA = os.urandom(SIZE)
OVER = pytest.mark.parametrize("over", ["tcp", "tls"])


class Calls:
    """Notes the results of the running loop's sendfile()."""

    def __init__(self) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.results: list[Any] = []
        self.original = self.loop.sendfile
        self.loop.sendfile = self

    async def __call__(self, *args: Any, **options: Any) -> int:
        try:
            sent: int = await self.original(*args, **options)
        except BaseException as exc:
            self.results.append(exc)
            raise
        self.results.append(sent)
        return sent


@asynccontextmanager
async def site(folder: Path, context: Any) -> AsyncIterator[str]:
    """A server of the folder's files; its URL."""
    from aiohttp import web

    (folder / "file.bin").write_bytes(DATA)
    (folder / "empty.bin").touch()
    app = web.Application()
    app.router.add_static("/", folder)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"http{'s' if context else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@OVER
def test_files_and_ranges(factory: Factory, tmp_path: Path, certs: Certs, over: str) -> None:
    async def main() -> None:
        calls = Calls()
        server, client = (certs.server(), certs.client()) if over == "tls" else (None, False)
        connector = aiohttp.TCPConnector(ssl=client)
        async with site(tmp_path, server) as url, aiohttp.ClientSession(connector=connector) as ask:

            async def get(name: str, asked: str | None, status: int, expected: bytes) -> None:
                headers = {"Range": asked} if asked else {}
                async with ask.get(f"{url}/{name}", headers=headers) as answer:
                    assert answer.status == status
                    assert await answer.read() == expected

            await get("file.bin", None, 200, DATA)
            await get("file.bin", "bytes=0-0", 206, DATA[:1])
            await get("file.bin", "bytes=1000-2000999", 206, DATA[1000:2001000])
            await get("file.bin", "bytes=-17", 206, DATA[-17:])
            await get("empty.bin", None, 200, b"")
            async with ask.head(f"{url}/file.bin") as answer:
                assert answer.content_length == SIZE
            await asyncio.gather(*(get("file.bin", None, 200, DATA) for _ in range(8)))
        assert calls.results.count(SIZE) == 9 and {1, 2_000_000, 17} < set(calls.results)

    run(factory, main())


@OVER
def test_client_goes_away(
    factory: Factory, loop_name: str, tmp_path: Path, certs: Certs, over: str
) -> None:
    async def main() -> None:
        calls = Calls()
        server, client = (certs.server(), certs.client()) if over == "tls" else (None, None)
        async with site(tmp_path, server) as url:
            port = int(url.rpartition(":")[2])
            name = "localhost" if client else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client, server_hostname=name, limit=1000
            )
            writer.write(b"GET /file.bin HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200" in await reader.readline()
            writer.transport.abort()
            await until(lambda: calls.results, "the end of sendfile()")
            if loop_name == "taut":  # asyncio's TLS transport fails in other ways, or not at all
                assert isinstance(calls.results[0], (ConnectionError, asyncio.CancelledError))
            # and the server goes on
            connector = aiohttp.TCPConnector(ssl=client or False)
            async with aiohttp.ClientSession(connector=connector) as ask:
                async with ask.get(f"{url}/file.bin") as answer:
                    assert await answer.read() == DATA

    run(factory, main())
