"""A collection that stalls the loop is named as the cause."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from programs import clean_env

SCRIPT = """
import asyncio, gc, taut

class Node:
    pass

async def main():
    gc.disable()
    nodes = []
    for _ in range(1_500_000):
        node = Node()
        node.me = node
        nodes.append(node)
        if len(nodes) % 1000 == 0:
            await asyncio.sleep(0)
    gc.collect()  # the stall
    await asyncio.sleep(0)

taut.run(main())
"""


def test_a_collection_is_named(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(SCRIPT)
    line = SCRIPT.splitlines().index("    gc.collect()  # the stall") + 1
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=clean_env(TAUT_STALL="50ms"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    began = f"service.py:{line} in main\n  a garbage collection runs: "
    assert began in done.stderr, done.stderr
