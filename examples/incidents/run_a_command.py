"""`subprocess.run` in a coroutine.

To show a thumbnail, a request starts a converter and waits for it with `subprocess.run`. With one
user that is what is wanted. With two, the second one waits for the first one's picture, and so does
the load balancer's health check.
"""
# expect: sync-driver at blame
# within: 5

import asyncio
import subprocess

import stage


async def thumbnail() -> bytes:
    done = subprocess.run(["sh", "-c", "sleep 0.3; echo picture"], capture_output=True)  # blame
    return done.stdout


async def main() -> None:
    while stage.running():
        await thumbnail()
        await asyncio.sleep(0.2)


asyncio.run(main())
