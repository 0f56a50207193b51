"""One big document stops everybody while it is parsed.

An import endpoint took JSON of any size, and with small test files it was quick. Then a customer
sent his whole catalogue, and `json.loads` held the loop and the GIL for as long as it took. Health
checks failed and the process was restarted, upon which the customer sent it again.
"""
# expect: cpu-bound-step at blame
# also: gc-pause
# within: 10

import asyncio
import json

import stage

ROW = {"id": 1, "name": "a name", "tags": ["a", "b", "c"], "prices": {"eur": 1.25, "usd": 1.5}}
CATALOGUE = json.dumps([ROW] * (12_000_000 // len(json.dumps(ROW)))).encode()


async def upload(body: bytes) -> int:
    catalogue = json.loads(body)  # blame
    return len(catalogue)


async def main() -> None:
    while stage.running():
        await upload(CATALOGUE)
        await asyncio.sleep(0.5)


asyncio.run(main())
