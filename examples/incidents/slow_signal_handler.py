"""A signal handler that does the work itself.

SIGHUP reloads the configuration, in a handler that `signal.signal` installed years ago. The handler
runs between two bytecodes of whatever coroutine is on the loop, and fetches the file over the
network. Log rotation sends SIGHUP to all processes, every hour, at the same time.
"""
# expect: slow-signal-handler at blame
# within: 10

import asyncio
import signal
import time

import stage


def reload_configuration(number: int, frame: object) -> None:
    time.sleep(0.3)  # blame


async def main() -> None:
    while stage.running():
        await asyncio.sleep(0.01)


signal.signal(signal.SIGHUP, reload_configuration)
with stage.signals(signal.SIGHUP, every_s=1):
    asyncio.run(main())
