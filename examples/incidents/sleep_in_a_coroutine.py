"""A pause between two attempts stops everybody, not only the one who waits.

A helper that tries three times was written for a script and later used by a service. `time.sleep`
between two attempts is right in a script; on a loop nobody else is served meanwhile. It shows only
on days on which the first attempt fails.
"""
# expect: blocking-call at blame
# within: 5

import asyncio
import time

import stage


def with_retries(call):
    for attempt in range(3):
        try:
            return call(attempt)
        except ConnectionError:
            time.sleep(0.3)  # blame
    return None


def flaky(attempt: int) -> str:
    if attempt == 0:
        raise ConnectionError
    return "ok"


async def request() -> str | None:
    return with_retries(flaky)


async def main() -> None:
    while stage.running():
        await request()
        await asyncio.sleep(0.5)


asyncio.run(main())
