"""Healthy: child processes and signals, the asynchronous way.

Commands run by `create_subprocess_exec`, their output is read while they run, and SIGHUP is handled
by the loop. Nobody blocks. The doctor has nothing to say.
"""
# expect: nothing

import asyncio
import signal

import stage

reloads = 0


def reload() -> None:
    global reloads
    reloads += 1


async def run() -> bytes:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 0.1; echo done", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    while stage.running():
        await asyncio.gather(run(), run())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stage.signals(signal.SIGHUP, every_s=0.5):
    asyncio.run(main())
