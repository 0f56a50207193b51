"""aiohttp, httpx and websockets: clients and servers over loopback."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp
import aiohttp.web
import httpx
import pytest
import websockets
import websockets.asyncio.client
import websockets.asyncio.server
from apps import run

from loops import Factory, serve, until

ITEM = os.urandom(1000)


async def handle(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
    """Echoes a body; streams for GET /stream."""
    if request.path == "/stream":
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        for _ in range(500):
            await response.write(ITEM)
        return response
    return aiohttp.web.Response(body=await request.read())


@pytest.mark.parametrize("client", ["aiohttp", "httpx"])
def test_http(factory: Factory, client: str) -> None:
    async def main() -> None:
        app = aiohttp.web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{tail:.*}", handle)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            await (with_aiohttp if client == "aiohttp" else with_httpx)(url)
        finally:
            await runner.cleanup()

    run(factory, main())


async def with_aiohttp(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def echo(n: int) -> None:
            body = os.urandom(n * 3001)
            async with session.post(url, data=body) as answer:
                assert await answer.read() == body

        await asyncio.gather(*map(echo, range(100)))
        async with session.get(f"{url}/stream") as answer:
            assert await answer.read() == ITEM * 500
        async with session.get(f"{url}/stream") as answer:
            assert await answer.content.readexactly(5) == ITEM[:5]  # the rest is thrown away


async def with_httpx(url: str) -> None:
    limits = httpx.Limits(max_connections=10)
    async with httpx.AsyncClient(limits=limits, timeout=20, trust_env=False) as session:

        async def echo(n: int) -> None:
            body = os.urandom(n * 3001)
            assert (await session.post(url, content=body)).content == body

        await asyncio.gather(*map(echo, range(100)))
        async with session.stream("GET", f"{url}/stream") as answer:
            assert b"".join([part async for part in answer.aiter_raw()]) == ITEM * 500
        async with session.stream("GET", f"{url}/stream"):
            pass  # all of it is thrown away
        silent, address = await serve(asyncio.Protocol)
        async with silent:
            with pytest.raises(httpx.ReadTimeout):
                await session.get("http://{}:{}".format(*address), timeout=0.05)


def test_websockets(factory: Factory) -> None:
    async def main() -> None:
        codes: list[Any] = []

        async def upper(ws: websockets.asyncio.server.ServerConnection) -> None:
            try:
                async for message in ws:
                    if message == "bye":
                        await ws.close(4000, "as you wish")
                    await ws.send(message.upper())
            finally:
                await ws.wait_closed()
                codes.append(ws.close_code)

        async with websockets.asyncio.server.serve(upper, "127.0.0.1", 0, max_size=2**24) as server:
            host, port = server.sockets[0].getsockname()[:2]
            url = f"ws://{host}:{port}"

            async def talk(n: int) -> None:
                async with websockets.asyncio.client.connect(url, max_size=2**24) as ws:
                    for size in (0, 10, 1000, 100_000):
                        await ws.send("a" * (n + size))
                        assert await ws.recv() == "A" * (n + size)
                    await ws.send([b"x" * 1000] * 50)  # in fragments
                    assert await ws.recv() == b"X" * 50_000
                    await (await ws.ping())

            await asyncio.gather(*map(talk, range(20)))
            async with websockets.asyncio.client.connect(url) as ws:
                await ws.send("bye")
                with pytest.raises(websockets.exceptions.ConnectionClosedError) as caught:
                    await ws.recv()
                assert caught.value.rcvd is not None and caught.value.rcvd.code == 4000
            cut = await websockets.asyncio.client.connect(url)
            await cut.send("x")
            cut.transport.abort()
            await until(lambda: len(codes) == 22, "every connection's end")
            assert sorted(codes) == [1000] * 20 + [1006, 4000]
            heard: list[asyncio.Task[Any]] = []
            clients = [await websockets.asyncio.client.connect(url) for _ in range(20)]
            heard = [asyncio.create_task(client.recv()) for client in clients]
            websockets.asyncio.server.broadcast(server.connections, "to all")
            assert await asyncio.gather(*heard) == ["to all"] * 20
        for client in clients:
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                await client.recv()

    run(factory, main())
