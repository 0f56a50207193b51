"""After a hiccup everybody tries again at once, and goes on doing so.

The price service was restarted and refused connections for a minute. Each of the callers tried
again after 20 ms, without limit and all in step. When it came back it was met by thousands of
connections a second and went down again, five times in a row.
"""
# expect: retry-storm at blame
# within: 20

import asyncio

import stage


async def price(port: int) -> bytes:
    while stage.running():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # blame
        except OSError:
            await asyncio.sleep(0.02)
            continue
        line = await reader.readline()
        writer.close()
        return line
    return b""


async def main() -> None:
    nobody_listens = stage.free_port()
    await asyncio.gather(*(price(nobody_listens) for _ in range(20)))


asyncio.run(main())
