"""The applications that the servers serve: four times the same, each in its framework.

    GET /       {"loop": "module.Class", "pid": ...}
    POST /      the body
    GET /slow   prints a line, and answers half a second later
    /ws         a WebSocket that answers in capitals

They print a line at start-up and at shutdown.
"""

from __future__ import annotations

__all__ = ["SITES"]

COMMON = """\
import asyncio, json, os

def about():
    loop = type(asyncio.get_running_loop())
    return {"loop": f"{loop.__module__}.{loop.__qualname__}", "pid": os.getpid()}

def say(what):
    print(f"site: {what}", flush=True)

async def slow():
    say("slow began")
    await asyncio.sleep(0.5)
    return {"slow": True}

"""

ASGI = """\
from common import about, json, say, slow

async def lifespan(receive, send):
    await receive()
    say("up")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("down")
    await send({"type": "lifespan.shutdown.complete"})

async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await websocket(receive, send)
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] == "GET":
        body = json.dumps(await slow() if scope["path"] == "/slow" else about()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

FASTAPI = """\
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
import common

@asynccontextmanager
async def lifespan(app):
    common.say("up")
    yield
    common.say("down")

app = FastAPI(lifespan=lifespan)

@app.get("/")
async def about() -> dict:
    return common.about()

@app.get("/slow")
async def slow() -> dict:
    return await common.slow()

@app.post("/")
async def echo(request: Request):
    return Response(await request.body())

@app.websocket("/ws")
async def chat(ws: WebSocket):
    await ws.accept()
    try:
        while True:
            await ws.send_text((await ws.receive_text()).upper())
    except WebSocketDisconnect:
        pass
"""

LITESTAR = """\
from contextlib import asynccontextmanager
from litestar import Litestar, Request, Response, WebSocket, get, post
from litestar.handlers import websocket_listener
import common

@asynccontextmanager
async def lifespan(app: Litestar):
    common.say("up")
    yield
    common.say("down")

@get("/")
async def about() -> dict:
    return common.about()

@get("/slow")
async def slow() -> dict:
    return await common.slow()

@post("/", status_code=200)
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")

@websocket_listener("/ws")
async def chat(data: str) -> str:
    return data.upper()

app = Litestar([about, slow, echo, chat], lifespan=[lifespan])
"""

AIOHTTP = """\
import sys
from aiohttp import web
import common

async def about(request):
    return web.json_response(common.about())

async def slow(request):
    return web.json_response(await common.slow())

async def echo(request):
    return web.Response(body=await request.read())

async def chat(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data.upper())
    return ws

async def lifespan(app):
    common.say("up")
    yield
    common.say("down")

async def app():
    made = web.Application(client_max_size=2**24)
    made.router.add_get("/", about)
    made.router.add_get("/slow", slow)
    made.router.add_post("/", echo)
    made.router.add_get("/ws", chat)
    made.cleanup_ctx.append(lifespan)
    return made

if __name__ == "__main__":
    web.run_app(app(), host="127.0.0.1", port=int(sys.argv[1]))
"""

SANIC = """\
from sanic import Sanic, json, raw
import common

app = Sanic("site")

@app.before_server_start
async def up(app):
    common.say("up")

@app.after_server_stop
async def down(app):
    common.say("down")

@app.get("/")
async def about(request):
    return json(common.about())

@app.get("/slow")
async def slow(request):
    return json(await common.slow())

@app.post("/")
async def echo(request):
    return raw(request.body)

@app.websocket("/ws")
async def chat(request, ws):
    async for message in ws:
        await ws.send(message.upper())
"""

SITES = {
    "common.py": COMMON,
    "asgi.py": ASGI,
    "fast.py": FASTAPI,
    "star.py": LITESTAR,
    "aio.py": AIOHTTP,
    "sane.py": SANIC,
}
