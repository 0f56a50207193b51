"""redis.asyncio with Redis, aiomysql and asyncmy with MariaDB or MySQL, aiosqlite, aiofiles.

Redis over TLS runs in tests/py/test_tls_libs.py.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiofiles
import aiofiles.os
import aiofiles.tempfile
import aiosqlite
import pytest
import redis.asyncio as redis
from apps import run
from programs import wait_until

from loops import Factory, until


async def redis_tour(client: redis.Redis) -> None:
    """Pipelines, transactions, blocking and cancelled commands, all in keys of their own."""
    key = f"taut:{uuid.uuid4().hex}"
    try:
        big = os.urandom(3_000_000)
        await client.set(key, big)
        assert await client.getrange(key, 1_000_000, 1_000_009) == big[1_000_000:1_000_010]
        assert await client.get(key) == big
        async with client.pipeline(transaction=False) as pipe:
            for n in range(2000):
                pipe.rpush(f"{key}:list", n)
            assert await pipe.execute() == list(range(1, 2001))
        await client.delete(key)

        async def increment() -> None:
            async with client.pipeline() as pipe:
                while True:
                    try:
                        await pipe.watch(key)
                        value = int(await pipe.get(key) or 0)
                        pipe.multi()
                        pipe.set(key, value + 1)
                        await pipe.execute()
                        return
                    except redis.WatchError:
                        continue

        await asyncio.gather(*(increment() for _ in range(8)))
        assert await client.get(key) == b"8"
        waiting = asyncio.create_task(client.blpop(f"{key}:none", timeout=60))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.llen(f"{key}:list") == 2000
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        assert await script(keys=[key], args=["x"]) == [key.encode(), b"x"]
    finally:
        await client.delete(key, f"{key}:list")


def test_redis(factory: Factory, redis_url: str) -> None:
    async def main() -> None:
        async with redis.from_url(redis_url) as client:
            await redis_tour(client)

    run(factory, main())


def test_redis_blocking_pool(factory: Factory, redis_url: str) -> None:
    async def main() -> None:
        pool = redis.BlockingConnectionPool.from_url(redis_url, max_connections=3, timeout=20)
        async with redis.Redis.from_pool(pool) as client:
            jobs = [client.echo(str(n)) for n in range(100)]
            assert await asyncio.gather(*jobs) == [b"%d" % n for n in range(100)]

    run(factory, main())


def test_redis_pubsub(factory: Factory, redis_url: str) -> None:
    prefix = f"taut:{uuid.uuid4().hex}"

    async def main() -> None:
        async with redis.from_url(redis_url) as client, client.pubsub() as pubsub:
            heard: list[tuple[bytes, bytes]] = []

            def hear(message: dict[str, Any]) -> None:
                heard.append((message["channel"], message["data"]))

            await pubsub.psubscribe(**{f"{prefix}:*": hear})
            reader = asyncio.create_task(pubsub.run(poll_timeout=1))
            await until(lambda: pubsub.subscribed, "the subscription")
            while await client.publish(f"{prefix}:first", "x") == 0:
                await asyncio.sleep(0)
            for n in range(200):
                await client.publish(f"{prefix}:{n % 3}", n)
            await until(lambda: heard and heard[-1][1] == b"199", "all messages")
            numbered = [(f"{prefix}:{n % 3}".encode(), b"%d" % n) for n in range(200)]
            assert heard[-200:] == numbered
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    run(factory, main())


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[Path]:
    """The Unix socket of a Redis server of the test's own: `redis-server --port 0 --unixsocket`."""
    program = shutil.which("redis-server")
    if program is None:
        reason = "no redis-server here: install Debian's redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    path = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "Redis's socket")
        yield path
    finally:
        process.terminate()
        process.wait(20)


def test_redis_over_a_unix_socket(factory: Factory, redis_socket: Path) -> None:
    async def main() -> None:
        async with redis.Redis(unix_socket_path=str(redis_socket)) as client:
            await redis_tour(client)

    run(factory, main())


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
def test_mysql(factory: Factory, mysql: str, driver: str) -> None:
    library = importlib.import_module(driver)
    cursors = importlib.import_module(f"{driver}.cursors")
    parts = urlsplit(mysql)
    options: dict[str, Any] = {
        "host": parts.hostname, "port": parts.port, "user": parts.username,
        "password": parts.password or "", "db": parts.path.strip("/"),
    }  # fmt: skip

    async def main() -> None:
        pool = await library.create_pool(minsize=1, maxsize=4, autocommit=True, **options)

        async def double(n: int) -> int:
            async with pool.acquire() as db, db.cursor() as cursor:
                await cursor.execute("SELECT %s * 2", (n,))
                (value,) = await cursor.fetchone()
                return int(value)

        assert await asyncio.gather(*map(double, range(50))) == list(range(0, 100, 2))
        blob = os.urandom(1_000_000)
        async with pool.acquire() as db:
            async with db.cursor() as cursor:
                await cursor.execute("CREATE TEMPORARY TABLE m (n INT, b LONGBLOB)")
                await cursor.executemany(
                    "INSERT INTO m VALUES (%s, %s)", [(n, blob[: n * 1000]) for n in range(100)]
                )
                await cursor.execute("INSERT INTO m VALUES (100, %s)", (blob,))
            async with db.cursor(cursors.SSCursor) as cursor:
                await cursor.execute("SELECT n, b FROM m ORDER BY n")
                seen = [(await cursor.fetchone()) for _ in range(101)]
            assert seen == [*((n, blob[: n * 1000]) for n in range(100)), (100, blob)]
            await db.begin()
            async with db.cursor() as cursor:
                await cursor.execute("DELETE FROM m")
                await db.rollback()
                await cursor.execute("SELECT count(*) FROM m")
                assert await cursor.fetchone() == (101,)
        async with pool.acquire() as db, db.cursor() as cursor:
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.05):
                    await cursor.execute("SELECT sleep(60)")
            db.close()
        assert await double(21) == 42
        pool.close()
        await pool.wait_closed()

    run(factory, main())


def test_aiosqlite(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        async with aiosqlite.connect(tmp_path / "db") as db:
            await db.execute("CREATE TABLE t (n)")
            await db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
            await db.commit()
            async with db.execute("SELECT n FROM t ORDER BY n") as cursor:
                assert [n async for (n,) in cursor] == list(range(1000))
            async with aiosqlite.connect(tmp_path / "copy") as copy:
                await db.backup(copy)
                async with copy.execute("SELECT sum(n) FROM t") as cursor:
                    assert await cursor.fetchone() == (499_500,)
            await db.set_progress_handler(lambda: 1, 1000)
            with pytest.raises(aiosqlite.OperationalError):
                await db.execute("SELECT count(*) FROM t a, t b, t c")

    run(factory, main())


def test_aiofiles(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        async def file(n: int) -> int:
            path = tmp_path / str(n)
            async with aiofiles.open(path, "w") as out:
                await out.writelines(f"{line}\n" for line in range(n))
            async with aiofiles.open(path) as back:
                return sum([int(line) async for line in back])

        assert await asyncio.gather(*map(file, range(40))) == [n * (n - 1) // 2 for n in range(40)]
        assert sorted(await aiofiles.os.listdir(tmp_path)) == sorted(map(str, range(40)))
        async with aiofiles.tempfile.TemporaryDirectory(dir=tmp_path) as made:
            assert await aiofiles.os.path.isdir(made)
        assert not Path(made).exists()

    run(factory, main())
