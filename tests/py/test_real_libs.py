"""Other people's servers, clients and drivers, unchanged, on the taut loop.

The database tests need servers: PostgreSQL at TEST_DATABASE_URL (default
postgres://postgres@127.0.0.1:5432/test) and Redis at TEST_REDIS_URL (default
redis://127.0.0.1:6379/15). Without one they are skipped, with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

import taut

T = TypeVar("T")
POSTGRES = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/test")
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
DEADLINE_S = 30.0

aiohttp = pytest.importorskip("aiohttp", reason="needs tests/requirements.txt")
httpx = pytest.importorskip("httpx", reason="needs tests/requirements.txt")
uvicorn = pytest.importorskip("uvicorn", reason="needs tests/requirements.txt")
fastapi = pytest.importorskip("fastapi", reason="needs tests/requirements.txt")


def run(main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result on a new taut loop, in debug mode off; within the deadline."""
    complaints: list[dict[str, Any]] = []

    async def bounded() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, taut.Loop)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(DEADLINE_S):
            return await main

    result = taut.run(bounded())
    assert complaints == []
    return result


def server_at(url: str, start: str) -> str:
    """`url`, when something listens there; else the test is skipped, in CI it fails."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError as exc:
        reason = f"no server at {url} ({exc}); start one: {start}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return url


@pytest.fixture
def postgres() -> str:
    return server_at(
        POSTGRES,
        "docker run -e POSTGRES_HOST_AUTH_METHOD=trust -e POSTGRES_DB=test -p 5432:5432 postgres",
    )


@pytest.fixture
def redis_url() -> str:
    return server_at(REDIS, "redis-server --port 6379, or docker run -p 6379:6379 redis")


# ---- aiohttp ------------------------------------------------------------------------------------


@asynccontextmanager
async def aiohttp_site() -> AsyncIterator[str]:
    """A server with an echo, a stream and a WebSocket; its URL."""
    from aiohttp import web

    async def echo(request: Any) -> Any:
        return web.Response(body=await request.read(), headers={"X-Path": request.path})

    async def stream(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        for n in range(100):
            await response.write(b"%06d" % n * 1000)
        await response.write_eof()
        return response

    async def chat(request: Any) -> Any:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data.upper())
        return ws

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/stream", stream)
    app.router.add_get("/chat", chat)
    app.router.add_route("*", "/{tail:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def test_aiohttp_server_and_client() -> None:
    async def main() -> None:
        async with aiohttp_site() as url, aiohttp.ClientSession() as session:

            async def post(n: int) -> None:
                body = os.urandom(n * 997)
                async with session.post(f"{url}/p{n}", data=body) as answer:
                    assert answer.status == 200 and answer.headers["X-Path"] == f"/p{n}"
                    assert await answer.read() == body

            await asyncio.gather(*map(post, range(50)))
            await post(4000)  # 4 MB each way
            async with session.get(f"{url}/stream") as answer:
                assert await answer.read() == b"".join(b"%06d" % n * 1000 for n in range(100))

    run(main())


def test_aiohttp_websocket() -> None:
    async def main() -> None:
        async with (
            aiohttp_site() as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/chat") as ws,
        ):
            for text in ("a", "b" * 70_000):
                await ws.send_str(text)
                assert await ws.receive_str() == text.upper()

    run(main())


def test_aiohttp_client_gives_up_on_a_silent_server() -> None:
    async def main() -> None:
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        timeout = aiohttp.ClientTimeout(total=0.1)
        async with silent, aiohttp.ClientSession(timeout=timeout) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.get(f"http://127.0.0.1:{port}/")
            for writer in held:
                writer.close()

    run(main())


# ---- FastAPI under uvicorn, httpx ---------------------------------------------------------------


def fastapi_app() -> Any:
    app = fastapi.FastAPI()

    @app.get("/loop")
    async def loop() -> str:
        return type(asyncio.get_running_loop()).__module__

    @app.post("/sum")
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.get("/thread")
    def thread() -> str:
        return "from a thread"

    return app


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_fastapi_under_uvicorn_with_httpx(http: str) -> None:
    async def main() -> None:
        config = uvicorn.Config(
            fastapi_app(), host="127.0.0.1", port=0, http=http, log_level="warning"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as ask:
            assert (await ask.get("/loop")).json() == "taut.loop"
            assert (await ask.get("/thread")).json() == "from a thread"
            bodies = [list(range(n)) for n in range(40)]
            answers = await asyncio.gather(*(ask.post("/sum", json=body) for body in bodies))
            assert [answer.json() for answer in answers] == [sum(body) for body in bodies]
            assert (await ask.post("/sum", json=["x"])).status_code == 422
        server.should_exit = True
        await serving

    run(main())


# ---- Redis --------------------------------------------------------------------------------------


def test_redis(redis_url: str) -> None:
    redis = pytest.importorskip("redis.asyncio", reason="needs tests/requirements.txt")
    key = f"taut:{uuid.uuid4().hex}"

    async def main() -> None:
        async with redis.from_url(redis_url) as client:
            try:
                big = os.urandom(2_000_000)
                await client.set(key, big, ex=60)
                assert await client.get(key) == big
                await client.delete(key)
                async with client.pipeline(transaction=True) as pipe:
                    assert await pipe.incr(key).incr(key).get(key).execute() == [1, 2, b"2"]
                await asyncio.gather(*(client.incr(key) for _ in range(100)))
                assert await client.get(key) == b"102"
                assert await client.blpop(f"{key}:none", timeout=0.05) is None
                waiting = asyncio.create_task(client.blpop(f"{key}:list", timeout=20))
                await client.rpush(f"{key}:list", "pushed")
                assert await waiting == (f"{key}:list".encode(), b"pushed")
            finally:
                await client.delete(key, f"{key}:list")

    run(main())


def test_redis_pubsub(redis_url: str) -> None:
    redis = pytest.importorskip("redis.asyncio", reason="needs tests/requirements.txt")
    channel = f"taut:{uuid.uuid4().hex}"

    async def main() -> list[bytes]:
        async with redis.from_url(redis_url) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            assert (await pubsub.get_message(timeout=20))["type"] == "subscribe"
            for n in range(10):
                await client.publish(channel, str(n))
            return [(await pubsub.get_message(timeout=20))["data"] for _ in range(10)]

    assert run(main()) == [b"%d" % n for n in range(10)]


# ---- PostgreSQL ---------------------------------------------------------------------------------


def test_asyncpg(postgres: str) -> None:
    asyncpg = pytest.importorskip("asyncpg", reason="needs tests/requirements.txt")

    async def main() -> None:
        async with asyncpg.create_pool(postgres, min_size=2, max_size=5) as pool:
            rows = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int + 1", n) for n in range(60))
            )
            assert rows == list(range(1, 61))
            async with pool.acquire() as connection:
                await connection.execute("CREATE TEMP TABLE t (n int, b bytea)")
                blob = os.urandom(500_000)
                records = [(n, blob) for n in range(10)]
                await connection.copy_records_to_table("t", records=records)
                with pytest.raises(ZeroDivisionError):
                    async with connection.transaction():
                        await connection.execute("DELETE FROM t")
                        raise ZeroDivisionError
                async with connection.transaction():
                    seen = [tuple(row) async for row in connection.cursor("SELECT * FROM t")]
                assert seen == records
                with pytest.raises(asyncio.TimeoutError):
                    await connection.execute("SELECT pg_sleep(20)", timeout=0.1)
                assert await connection.fetchval("SELECT count(*) FROM t") == 10

    run(main())


def test_asyncpg_notifications(postgres: str) -> None:
    asyncpg = pytest.importorskip("asyncpg", reason="needs tests/requirements.txt")

    async def main() -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        listener = await asyncpg.connect(postgres)
        sender = await asyncpg.connect(postgres)
        try:
            await listener.add_listener("taut_test", lambda *args: heard.put_nowait(args[-1]))
            for n in range(5):
                await sender.execute("SELECT pg_notify('taut_test', $1)", str(n))
            assert [await heard.get() for _ in range(5)] == list("01234")
        finally:
            await listener.close()
            await sender.close()

    run(main())


def test_psycopg(postgres: str) -> None:
    psycopg = pytest.importorskip("psycopg", reason="needs tests/requirements.txt")

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres) as connection:
            async with connection.cursor() as cursor:
                await cursor.execute("CREATE TEMP TABLE t (n int, s text)")
                async with cursor.copy("COPY t FROM STDIN") as copy:
                    for n in range(1000):
                        await copy.write_row((n, "x" * 500))
                await cursor.execute("SELECT sum(n), sum(length(s)) FROM t")
                assert await cursor.fetchone() == (499500, 500_000)
                await connection.commit()
                with pytest.raises(asyncio.TimeoutError):
                    async with asyncio.timeout(0.1):
                        await cursor.execute("SELECT pg_sleep(20)")
            await connection.rollback()

        async def one(n: int) -> int:
            async with await psycopg.AsyncConnection.connect(postgres) as own:
                row = await (await own.execute("SELECT %s::int * 2", [n])).fetchone()
                assert row is not None
                return int(row[0])

        assert await asyncio.gather(*map(one, range(10))) == list(range(0, 20, 2))

    run(main())


# ---- SQLite -------------------------------------------------------------------------------------


def test_aiosqlite(tmp_path: Path) -> None:
    aiosqlite = pytest.importorskip("aiosqlite", reason="needs tests/requirements.txt")

    async def main() -> None:
        async with aiosqlite.connect(tmp_path / "db") as db:
            await db.execute("CREATE TABLE t (n)")
            await asyncio.gather(*(db.execute("INSERT INTO t VALUES (?)", (n,)) for n in range(50)))
            await db.commit()
            async with db.execute("SELECT sum(n), count(*) FROM t") as cursor:
                assert await cursor.fetchone() == (1225, 50)

    run(main())


@pytest.mark.parametrize("driver", ["aiosqlite", "asyncpg", "psycopg"])
def test_sqlalchemy_runs_its_greenlets(
    tmp_path: Path, driver: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("greenlet", reason="needs tests/requirements.txt")
    pytest.importorskip(driver, reason="needs tests/requirements.txt")
    sa = pytest.importorskip("sqlalchemy", reason="needs tests/requirements.txt")
    extension = pytest.importorskip("sqlalchemy.ext.asyncio")
    if driver == "aiosqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    else:
        server = request.getfixturevalue("postgres")
        url = server.replace("postgres:", f"postgresql+{driver}:", 1)
    table = f"taut_{uuid.uuid4().hex}"

    async def main() -> None:
        engine = extension.create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"CREATE TABLE {table} (n INTEGER)"))
            await connection.execute(
                sa.text(f"INSERT INTO {table} VALUES (:n)"), [{"n": n} for n in range(10)]
            )

        async def total() -> int:
            async with engine.connect() as connection:
                result = await connection.execute(sa.text(f"SELECT sum(n) FROM {table}"))
                return int(result.scalar_one())

        assert await asyncio.gather(*(total() for _ in range(10))) == [45] * 10
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"DROP TABLE {table}"))
        await engine.dispose()

    run(main())


# ---- the loop's own watch over all that ---------------------------------------------------------


def test_a_blocking_call_in_an_endpoint_is_reported_while_it_blocks(
    capfd: pytest.CaptureFixture[str],
) -> None:

    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, taut.Loop)
        loop.stall_threshold = 0.02
        app = fastapi_app()
        said = ""

        @app.get("/slow")
        async def slow() -> str:
            nonlocal said
            end = time.monotonic() + DEADLINE_S / 2
            while "slow" not in said and time.monotonic() < end:
                time.sleep(0.01)  # blocks: the stall under test
                said += capfd.readouterr().err
            return said

        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as ask:
            return str((await ask.get("/slow")).json())

    said = run(main())
    assert "test_real_libs.py" in said and "slow" in said
