"""Ten thousand tasks at the start.

When it starts, the service warms its cache: one task per customer, all at once, each with a
question for the same backend. The backend answers as fast as ever, one after the other, and the
health check's question comes after ten thousand others. The first deployment with that many
customers was declared dead, rolled back, and so on.
"""
# expect: unbounded-fanout at blame
# within: 15

import asyncio
import collections
from urllib.parse import urlsplit

import stage


class Backend:
    """One connection; questions are answered in their order."""

    async def connect(self, url: str) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        self.waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def ask(self, what: str) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        self.writer.write(b"GET /slow/1 HTTP/1.1\r\nHost: %s\r\n\r\n" % what.encode())
        await answer

    async def read(self) -> None:
        while stage.running():
            await self.reader.readuntil(b"ok")
            self.waiting.popleft().set_result(None)


async def warm(backend: Backend, customer: int) -> None:
    await backend.ask(f"customer-{customer}")


async def main(url: str) -> None:
    backend = Backend()
    await backend.connect(url)
    async with asyncio.TaskGroup() as group:
        group.create_task(backend.read())
        for customer in range(10_000):
            group.create_task(warm(backend, customer))  # blame
        await backend.ask("health")


with stage.upstream() as url:
    asyncio.run(main(url))
