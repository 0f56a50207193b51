"""A middleware that blocks, in front of every route.

Each request's token is checked by the identity service, in a middleware that came from the old,
synchronous application. `async def` in front of it made the framework accept it. Since then all
routes are slow, whatever is in them, and profiles of the routes show nothing.
"""
# expect: sync-driver at blame
# within: 10
# needs: fastapi uvicorn

import asyncio
import urllib.request

import stage
import uvicorn
from fastapi import FastAPI


class CheckToken:
    def __init__(self, app, identity: str) -> None:
        self.app, self.identity = app, identity

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            urllib.request.urlopen(f"{self.identity}/slow/120").close()  # blame
        await self.app(scope, receive, send)


app = FastAPI()


@app.get("/")
async def home() -> dict[str, str]:
    return {"hello": "world"}


async def main(port: int) -> None:
    config = uvicorn.Config(app, port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    asyncio.get_running_loop().call_later(stage.SECONDS, setattr, server, "should_exit", True)
    await server.serve()


port = stage.free_port()
with stage.upstream() as identity, stage.load(f"http://127.0.0.1:{port}/", 4, 0.05):
    app.add_middleware(CheckToken, identity=identity)
    asyncio.run(main(port))
