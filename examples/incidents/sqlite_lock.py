"""SQLite waits for a lock, on the loop.

The settings are in SQLite, since it is only a file and each query takes microseconds. When another
process writes, the library sleeps until the lock is free, by default for up to five seconds.
Nothing in the code looks like waiting.
"""
# expect: blocking-call at blame
# within: 8

import asyncio
import sqlite3
import sys
import tempfile
from pathlib import Path

import stage

WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
while True:
    db.execute("BEGIN EXCLUSIVE")
    time.sleep(0.4)
    db.execute("COMMIT")
    time.sleep(0.4)
"""


async def save(db: sqlite3.Connection) -> None:
    db.execute("UPDATE settings SET value = value + 1")  # blame


async def main(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute("CREATE TABLE settings (value INTEGER)")
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, path)
    while stage.running():
        await save(db)
        await asyncio.sleep(0.1)
    writer.kill()
    await writer.wait()
    db.close()


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(main(Path(directory, "settings.db")))
