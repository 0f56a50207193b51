"""Healthy: a FastAPI application under load.

Asynchronous routes, a synchronous one that the framework runs in a thread, a background task, and
sixteen clients. Everything takes milliseconds. The doctor has nothing to say.
"""
# expect: nothing
# needs: fastapi uvicorn

import asyncio
import contextlib
import time

import stage
import uvicorn
from fastapi import BackgroundTasks, FastAPI

app = FastAPI()
sold = 0


async def count(number: int) -> None:
    global sold
    await asyncio.sleep(0.001)
    sold += number


@app.get("/async")
async def asynchronous(tasks: BackgroundTasks) -> dict[str, int]:
    await asyncio.sleep(0.002)
    tasks.add_task(count, 1)
    return {"sold": sold}


@app.get("/sync")
def synchronous() -> dict[str, int]:
    time.sleep(0.002)
    return {"sold": sold}


async def main(port: int) -> None:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    asyncio.get_running_loop().call_later(stage.SECONDS, setattr, server, "should_exit", True)
    await server.serve()


port = stage.free_port()
with contextlib.ExitStack() as clients:
    clients.enter_context(stage.load(f"http://127.0.0.1:{port}/async", 12, 0.02))
    clients.enter_context(stage.load(f"http://127.0.0.1:{port}/sync", 4, 0.02))
    asyncio.run(main(port))
