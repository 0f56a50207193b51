"""A gather of fifty thousand meets the limit of open files.

A job was to ask another service about every article, and gathered all of the questions. With the
hundred articles of the test environment it was very fast. In production it needed fifty thousand
sockets, of which the process may have a few hundred, and most of the answers were OSError.
"""
# expect: fd-exhaustion at blame-2
# also: unbounded-fanout at blame
# also: unbounded-fanout at blame-2
# also: cpu-bound-step at blame
# also: gc-pause
# within: 15

import asyncio
import resource
from urllib.parse import urlsplit

import stage


async def in_stock(port: int, article: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # blame-2
    writer.write(b"GET /slow/2000 HTTP/1.1\r\nHost: stock\r\n\r\n")
    await reader.readuntil(b"ok")
    writer.close()
    return True


async def main(url: str) -> None:
    port = urlsplit(url).port or 80
    while stage.running():
        questions = (in_stock(port, article) for article in range(50_000))
        await asyncio.gather(*questions, return_exceptions=True)  # blame
        await asyncio.sleep(1)


resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
with stage.upstream() as url:
    asyncio.run(main(url))
