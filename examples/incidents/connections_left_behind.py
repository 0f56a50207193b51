"""Connections that stay in PostgreSQL after the job is over.

A scheduler runs each job in a loop of its own, and a job opens a connection and leaves it to the
end of the job to close it. The end of a job closes its loop, not its connections. The server counts
another idle session per job, until it says "too many clients" to everybody.
"""
# expect: unclosed-resource at blame
# within: 15
# needs: postgresql asyncpg

import asyncio
import time

import asyncpg
import stage

connections: list[asyncpg.Connection] = []


async def job(url: str) -> int:
    db = await asyncpg.connect(url)  # blame
    connections.append(db)
    return await db.fetchval("SELECT count(*) FROM pg_stat_activity")


with stage.postgres() as url:
    while stage.running():
        print("sessions:", asyncio.run(job(url)))
        time.sleep(0.5)
