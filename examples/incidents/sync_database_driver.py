"""A synchronous database driver on the loop.

A report was moved from a script into the service, together with its psycopg connection. Most of its
queries take a millisecond, and the one on the first of the month takes much longer. All coroutines
of the process wait for that query, also those that need no database.
"""
# expect: sync-driver at blame
# within: 10
# needs: postgresql psycopg

import asyncio

import psycopg
import stage


async def report(db: psycopg.Connection) -> None:
    db.execute("SELECT pg_sleep(0.3)")  # blame


async def main(db: psycopg.Connection) -> None:
    while stage.running():
        await report(db)
        await asyncio.sleep(0.2)


with stage.postgres() as url, psycopg.connect(url) as db:
    asyncio.run(main(db))
