"""Requests by route with the real servers and frameworks, as `taut run` has them counted."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from programs import Python, python  # noqa: F401

for _name in ("aiohttp", "fastapi", "starlette", "uvicorn"):
    pytest.importorskip(_name, reason="needs tests/requirements.txt")

#: A client, and how a program ends: it prints the routes.
CLIENT = """
import asyncio, json, sys, time
import taut
from taut import doctor

async def get(port, path, method="GET"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])

async def all_of(port, *paths):
    return await asyncio.gather(*(get(port, path) for path in paths))

async def show():
    assert isinstance(asyncio.get_running_loop(), taut.Loop)
    while any(row["in_flight"] for row in doctor.metrics()["routes"]):
        await asyncio.sleep(0.01)  # they have answered, but are not over
    print(json.dumps(doctor.metrics()["routes"]))
"""
UVICORN = (
    CLIENT
    + """
import socket, uvicorn

async def serve(app, client, **options):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", **options))
        task = asyncio.create_task(server.serve([sock]))
        while not server.started:
            await asyncio.sleep(0.01)
        await client(sock.getsockname()[1])
        await show()
        server.should_exit = True
        await task
"""
)
FASTAPI = (
    UVICORN
    + """
import fastapi

app = fastapi.FastAPI()
router = fastapi.APIRouter(prefix="/v1")
within = fastapi.APIRouter(prefix="/deep")
mounted = fastapi.FastAPI()

@app.middleware("http")
async def between(request, call_next):
    return await call_next(request)

@app.get("/slow/{number}")
async def slow(number: int):
    await asyncio.sleep(0.02)
    time.sleep(0.2)  # blocks: the case

@router.get("/items/{item_id}")
async def item(item_id: int):
    await asyncio.sleep(0.1)

@within.get("/{name}")
def in_a_thread(name: str):
    return name

@mounted.get("/things/{thing}")
async def thing(thing: str):
    return thing

@app.get("/fails")
async def fails():
    raise ZeroDivisionError

router.include_router(within)
app.include_router(router)
app.include_router(router, prefix="/again")
app.mount("/sub/{tenant}", mounted)

async def client(port):
    await get(port, "/v1/items/0")
    await all_of(port, "/slow/1", *(f"/v1/items/{i}" for i in range(4)), "/again/v1/items/7")
    assert await all_of(
        port, "/v1/deep/x", "/sub/acme/things/3", "/nothing/5", "/fails"
    ) == [200, 200, 404, 500]
    assert await get(port, "/v1/items/1", "DELETE") == 405

asyncio.run(serve(app, client))
"""
)
STARLETTE = (
    UVICORN
    + """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

started = []

async def user(request):
    return PlainTextResponse("ok")

async def chat(websocket):
    await websocket.accept()
    await websocket.close()

async def lifespan(app):
    started.append("up")
    yield
    started.append("down")

import contextlib
app = Starlette(routes=[
    Route("/users/{name}", user),
    WebSocketRoute("/chat/{room}", chat),
    Mount("/api", routes=[Mount("/{version}", routes=[Route("/users/{name}", user)])]),
    Mount("/static", StaticFiles(directory=".")),
], lifespan=contextlib.asynccontextmanager(lifespan))

async def client(port):
    assert await all_of(port, "/users/a", "/users/b", "/api/v2/users/c") == [200] * 3
    assert await get(port, "/static/script.py") == 200
    if USE_WEBSOCKET:
        import websockets
        async with websockets.connect(f"ws://127.0.0.1:{port}/chat/9") as peer:
            await peer.wait_closed()

asyncio.run(serve(app, client))
assert started == ["up", "down"]
"""
)
AIOHTTP = (
    CLIENT
    + """
from aiohttp import web

async def slow(request):
    time.sleep(0.2)  # blocks: the case
    return web.Response()

async def item(request):
    await asyncio.sleep(0.1)
    return web.Response(text=request.match_info["id"])

async def fails(request):
    raise web.HTTPConflict()

async def main():
    app, sub = web.Application(), web.Application()
    app.add_routes([web.get("/slow/{n}", slow), web.get("/items/{id}", item)])
    app.add_routes([web.get("/fails", fails)])
    sub.add_routes([web.get("/x/{id}", item)])
    app.add_subapp("/sub", sub)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    await get(port, "/items/0")
    await asyncio.gather(*(get(port, f"/items/{i}") for i in range(3)), later(port, "/slow/1"))
    assert await all_of(port, "/sub/x/4", "/fails", "/nothing/6") == [200, 409, 404]
    await show()
    await runner.cleanup()

async def later(port, path):
    await asyncio.sleep(0.05)
    await get(port, path)

asyncio.run(main())
"""
)


#: Writes the program to a file and becomes `taut run` of it.
WRITER = """
import os, sys
with open("script.py", "w") as file:
    file.write(sys.argv[1])
os.execv(sys.executable, [sys.executable, "-m", "taut", "run", *sys.argv[2:], "script.py"])
"""


def counted(python: Python, program: str, *options: str, **env: str) -> Any:  # noqa: F811
    """The routes that the program prints, by (method, route)."""
    done = python("-c", WRITER, program, *options, **env)
    assert done.status == 0, done
    return {(row["method"], row["route"]): row for row in json.loads(done.out.splitlines()[-1])}


def test_fastapi_on_uvicorn(python: Python) -> None:  # noqa: F811
    routes = counted(python, FASTAPI, TAUT_STALL="50ms")
    numbers = {key: row["requests"] for key, row in routes.items()}
    assert numbers == {
        ("GET", "/slow/{number}"): 1,
        ("GET", "/v1/items/{item_id}"): 5,
        ("GET", "/again/v1/items/{item_id}"): 1,
        ("GET", "/v1/deep/{name}"): 1,
        ("GET", "/sub/{tenant}/things/{thing}"): 1,
        ("GET", "(no route)"): 1,
        ("GET", "/fails"): 1,
        ("DELETE", "/v1/items/{item_id}"): 1,
    }
    slow = routes["GET", "/slow/{number}"]
    # The stall is in a task of the middleware's, whose request it is all the same.
    assert slow["stalls"] >= 1
    assert slow["stall_seconds"] >= 0.2
    assert slow["victims"] >= 5
    assert routes["GET", "/v1/items/{item_id}"]["delayed"] >= 4
    assert routes["GET", "/again/v1/items/{item_id}"]["delayed"] == 1
    assert {row["in_flight"] for row in routes.values()} == {0}


def test_starlette_on_uvicorn(python: Python) -> None:  # noqa: F811
    try:
        import websockets  # noqa: F401

        have_websockets = True
    except ImportError:
        have_websockets = False
    routes = counted(python, f"USE_WEBSOCKET = {have_websockets}\n" + STARLETTE)
    numbers = {key: row["requests"] for key, row in routes.items()}
    expected = {
        ("GET", "/users/{name}"): 2,
        ("GET", "/api/{version}/users/{name}"): 1,
        ("GET", "/static/*"): 1,
    }
    if have_websockets:
        expected["WEBSOCKET", "/chat/{room}"] = 1
    assert numbers == expected


def test_aiohttp_web(python: Python) -> None:  # noqa: F811
    routes = counted(python, AIOHTTP, TAUT_STALL="50ms")
    numbers = {key: row["requests"] for key, row in routes.items()}
    assert numbers == {
        ("GET", "/slow/{n}"): 1,
        ("GET", "/items/{id}"): 4,
        ("GET", "/sub/x/{id}"): 1,
        ("GET", "/fails"): 1,
        ("GET", "(no route)"): 1,
    }
    # From 3.12 on it makes tasks of asyncio's own class, which do not know their request.
    if sys.version_info < (3, 12):
        assert routes["GET", "/slow/{n}"]["stalls"] == 1
        assert routes["GET", "/slow/{n}"]["victims"] >= 3
        assert routes["GET", "/items/{id}"]["delayed"] >= 3


@pytest.mark.parametrize("program", [STARLETTE, AIOHTTP], ids=["uvicorn", "aiohttp"])
def test_they_can_be_left_alone(program: str, python: Python) -> None:  # noqa: F811
    program = "USE_WEBSOCKET = False\n" + program
    assert counted(python, program, "--no-routes") == {}
    assert counted(python, program, TAUT_ROUTES="0") == {}
