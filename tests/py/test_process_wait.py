"""When Process.wait() returns: with the child's end from Python 3.14 on, before that when its pipes
are closed, too."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any

from loops import Factory, run, until
from processes import SH

#: Has a child of its own that holds the pipes until its standard input ends.
HAS_ONE = "exec 3<&0; cat <&3 & echo ready; wait"


def test_while_a_grandchild_holds_the_pipes(factory: Factory) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            SH, "-c", HAS_ONE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stdin: Any = process.stdin
        stdout: Any = process.stdout
        waits = [asyncio.ensure_future(process.wait()) for _ in range(2)]
        cancelled = asyncio.ensure_future(process.wait())
        assert await stdout.readline() == b"ready\n"
        cancelled.cancel()
        process.kill()
        await until(lambda: process.returncode is not None, "the end of the child")
        if sys.version_info >= (3, 14):
            assert await asyncio.gather(*waits) == [-signal.SIGKILL] * 2
        else:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(task.done() for task in waits)
        assert await process.wait() == -signal.SIGKILL
        assert not stdout.at_eof()
        stdin.close()
        assert await stdout.read() == b""
        assert await asyncio.gather(*waits) == [-signal.SIGKILL] * 2 and cancelled.cancelled()

    run(factory, main())
