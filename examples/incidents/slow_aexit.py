"""Leaving an `async with` takes longer than the work inside of it.

A client says good-bye to its server when it is closed, and waits for the answer. The server no
longer answers that. Each request does its work in ten milliseconds and then waits six seconds in
`__aexit__`, where nobody measures.
"""
# expect: cleanup-slow at blame
# within: 20

import asyncio

import stage


class Client:
    async def __aenter__(self) -> "Client":
        return self

    async def ask(self) -> str:
        await asyncio.sleep(0.01)
        return "answer"

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.sleep(6)  # blame


async def request() -> str:
    async with Client() as client:  # blame
        return await client.ask()


async def main() -> None:
    while stage.running():
        await asyncio.gather(*(request() for _ in range(5)))


asyncio.run(main())
