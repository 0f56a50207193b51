"""Logging blocks, because nobody empties the pipe.

The service logs to stdout, which is a pipe to a log shipper, as in every container. The shipper's
disk was full, so it stopped reading, and 64 KB later `write` blocked, inside of `logging`, under a
lock. A problem of the logs became an outage of everything that logs.
"""
# expect: blocking-call at blame
# within: 10

import asyncio
import logging
import subprocess

import stage

SHIPPER = "while sleep 0.5; do dd bs=64k count=2 of=/dev/null 2>/dev/null; done"
log = logging.getLogger("shop")


async def request() -> None:
    log.info("bought: %s", "x" * 2000)  # blame
    await asyncio.sleep(0.001)


async def main() -> None:
    while stage.running():
        await request()


with subprocess.Popen(["sh", "-c", SHIPPER], stdin=subprocess.PIPE, text=True) as shipper:
    log.addHandler(logging.StreamHandler(shipper.stdin))
    log.setLevel(logging.INFO)
    asyncio.run(main())
    shipper.kill()
