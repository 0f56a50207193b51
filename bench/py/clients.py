"""Programs that are clients, each as a measured process: python clients.py PROGRAM LOOP PORT
SECONDS. Prints as JSON the operations per second and the CPU time of each, once it is warm."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from loops import LOOPS, factory

WARM_UP_S = 0.3
CONNECTIONS = 16
HOST = "127.0.0.1"

#: Does one operation after the other until asked to stop; returns how many.
Worker = Callable[[Callable[[], bool]], Awaitable[int]]


async def figures(worker: Worker, workers: int, seconds: float) -> dict[str, float]:
    """What `workers` of them do side by side, after a warm-up."""

    async def phase(length: float) -> tuple[int, float, float]:
        gc.collect()
        cpu, begin = time.process_time(), time.perf_counter()
        end = begin + length
        clock = time.perf_counter
        async with asyncio.TaskGroup() as group:
            made = (until(worker, lambda: clock() > end) for _ in range(workers))
            tasks = [group.create_task(each) for each in made]
        passed, spent = time.perf_counter() - begin, time.process_time() - cpu
        return sum(task.result() for task in tasks), passed, spent

    await phase(min(WARM_UP_S, seconds))
    done, passed, spent = await phase(seconds)
    return {"rps": done / passed, "cpu_us": spent / done * 1e6, "requests": done}


async def until(worker: Worker, ended: Callable[[], bool]) -> int:
    return await worker(ended)


async def aiohttp_client(port: int, seconds: float) -> dict[str, float]:
    import aiohttp

    url = f"http://{HOST}:{port}/"
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker(ended: Callable[[], bool]) -> int:
            done = 0
            while not ended():
                async with session.get(url) as response:
                    body = await response.read()
                assert response.status == 200 and body
                done += 1
            return done

        return await figures(worker, CONNECTIONS, seconds)


async def asyncpg_query(port: int, seconds: float) -> dict[str, float]:
    """Prepared statements that return one row, each worker on a connection of its own."""
    import asyncpg  # type: ignore[import-untyped]

    url = f"postgres://scott:tiger@{HOST}:{port}/test"
    free = [await asyncpg.connect(url, ssl=False) for _ in range(CONNECTIONS)]
    connections = list(free)

    async def worker(ended: Callable[[], bool]) -> int:
        connection = free.pop()
        done = 0
        while not ended():
            value = await connection.fetchval("SELECT $1::int + 1", done)
            done += 1
            assert value == done
        free.append(connection)
        return done

    result = await figures(worker, CONNECTIONS, seconds)
    for connection in connections:
        await connection.close()
    return result


async def redis_pipeline(port: int, seconds: float) -> dict[str, float]:
    """Pipelines of ten commands; an operation is one pipeline."""
    import redis.asyncio

    client = redis.asyncio.Redis(host=HOST, port=port, max_connections=CONNECTIONS)
    names = iter(range(1_000_000))

    async def worker(ended: Callable[[], bool]) -> int:
        key = f"key:{next(names)}"
        done = 0
        while not ended():
            async with client.pipeline(transaction=False) as pipe:
                for index in range(5):
                    pipe.set(f"{key}:{index}", done)
                    pipe.get(f"{key}:{index}")
                got: list[Any] = await pipe.execute()
            assert got[1] == str(done).encode()
            done += 1
        return done

    result = await figures(worker, CONNECTIONS, seconds)
    await client.aclose()
    return result


LINK = re.compile(rb'href="(/\d+)"')


async def crawl(port: int, seconds: float) -> dict[str, float]:
    """1,000 tasks follow the links of a site until they know every page, again and again; an
    operation is one page. Streams as they come with asyncio, one kept-alive connection for each of
    200 at a time, a timeout around each page."""
    tasks, connections = 1000, 200
    spare: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    gate = asyncio.Semaphore(connections)

    async def fetch(path: bytes) -> bytes:
        async with gate, asyncio.timeout(30):
            pair = spare.pop() if spare else await asyncio.open_connection(HOST, port)
            reader, writer = pair
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: site\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            spare.append(pair)
            return body

    async def whole_site() -> int:
        found: asyncio.Queue[bytes] = asyncio.Queue()
        seen = {b"/0"}
        found.put_nowait(b"/0")

        async def follow() -> None:
            while True:
                for link in LINK.findall(await fetch(await found.get())):
                    if link not in seen:
                        seen.add(link)
                        found.put_nowait(link)
                found.task_done()

        crawlers = [asyncio.create_task(follow()) for _ in range(tasks)]
        await found.join()
        for crawler in crawlers:
            crawler.cancel()
        await asyncio.gather(*crawlers, return_exceptions=True)
        return len(seen)

    async def worker(ended: Callable[[], bool]) -> int:
        pages = await whole_site()
        while not ended():
            pages += await whole_site()
        return pages

    result = await figures(worker, 1, seconds)
    for _, writer in spare:
        writer.close()
    return result


PROGRAMS: dict[str, Callable[[int, float], Awaitable[dict[str, float]]]] = {
    program.__name__: program for program in (aiohttp_client, asyncpg_query, redis_pipeline, crawl)
}
PACKAGES = {
    "aiohttp_client": "aiohttp",
    "asyncpg_query": "asyncpg",
    "redis_pipeline": "redis.asyncio",
}


def main() -> None:
    if len(sys.argv) != 5 or sys.argv[1] not in PROGRAMS or sys.argv[2] not in LOOPS:
        sys.exit(f"usage: clients.py {'|'.join(PROGRAMS)} {'|'.join(LOOPS)} PORT SECONDS")
    program, loop, port, seconds = sys.argv[1:]
    if program in PACKAGES:  # before the loop runs: importing would stall it
        __import__(PACKAGES[program])
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        made = PROGRAMS[program](int(port), float(seconds))
        print(json.dumps(runner.run(made)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
