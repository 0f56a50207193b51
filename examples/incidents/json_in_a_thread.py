"""A thread does not help: parsing holds the GIL.

After the incident with the big document, `json.loads` was moved to a thread and the ticket closed.
The loop's own code no longer shows up in any profile, and its pauses are as long as before. The
parser never gives the GIL up, so the loop waits for it in whatever line it happens to be.
"""
# expect: gil-held at blame
# within: 10

import asyncio
import json
from typing import Any

import stage

ROW = {"id": 1, "name": "a name", "tags": ["a", "b", "c"], "prices": {"eur": 1.25, "usd": 1.5}}
CATALOGUE = json.dumps([ROW] * (16_000_000 // len(json.dumps(ROW)))).encode()


def parse(body: bytes) -> Any:
    return json.loads(body)  # blame


async def upload(body: bytes) -> int:
    return len(await asyncio.to_thread(parse, body))


async def other_requests() -> None:
    while stage.running():
        await asyncio.sleep(0.001)


async def main() -> None:
    others = asyncio.create_task(other_requests())
    while stage.running():
        await upload(CATALOGUE)
        await asyncio.sleep(0.5)
    await others


asyncio.run(main())
