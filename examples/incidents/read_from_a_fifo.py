"""Reading a "file" that is a FIFO, and nobody writes to it.

The token comes from a file that a side car renews, and `open().read()` of a file takes
microseconds. On some hosts the path is a FIFO, into which the side car writes when it finds the
time. Until then the loop stands in `open`.
"""
# expect: blocking-call at blame
# within: 5

import asyncio
import os
import tempfile
from pathlib import Path

import stage


async def token(path: Path) -> str:
    return open(path).read()  # blame


async def main(path: Path) -> None:
    while stage.running():
        command = f"sleep 0.4; echo secret > {path}"
        sidecar = await asyncio.create_subprocess_shell(command)
        await token(path)
        await sidecar.wait()


with tempfile.TemporaryDirectory() as directory:
    os.mkfifo(fifo := Path(directory, "token"))
    asyncio.run(main(fifo))
