"""Other people's servers, clients and drivers, unchanged, over TLS on the loop's transports.

The tests start the databases themselves, on free ports and in directories of their own: Redis by
`redis-server --port 0 --tls-port PORT`, PostgreSQL by `initdb` and `postgres -c ssl=on`, which run
as `nobody` when the tests run as root (PostgreSQL refuses root). What they need is Debian's
`redis-server` and `postgresql`: on the PATH, or in /usr/lib/postgresql/VERSION/bin. Without them
the tests are skipped, with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import free_port, wait_until
from tls_certs import Certs

import loops
from loops import Factory


def run(make: Factory, main: Coroutine[Any, Any, None]) -> None:
    """Runs it on a new loop, within the deadline and without a call of the exception handler."""

    async def watched() -> list[dict[str, Any]]:
        faults = loops.Faults(asyncio.get_running_loop())
        await main
        return faults.contexts

    assert loops.run(make, watched()) == []


def missing(what: str) -> Any:
    """Skips the test for want of a program; in CI it fails."""
    reason = f"no {what} here: install Debian's redis-server and postgresql"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a server's program."""
    found = shutil.which(name)
    if found is None:
        versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(versions[-1]) if versions else None
    return found or str(missing(name))


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def server(port: int, log: Path, *command: str, **options: Any) -> Iterator[None]:
    """A server in the background, from when it listens; its output is told when it does not."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **{"env": foreign_env(), **options},
        )
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, f"port {port} is open")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- aiohttp ------------------------------------------------------------------------------------


@asynccontextmanager
async def aiohttp_site(certs: Certs) -> AsyncIterator[str]:
    """An HTTPS server with an echo, a stream and a WebSocket; its URL."""
    web = pytest.importorskip("aiohttp.web", reason="needs tests/requirements.txt")

    async def echo(request: Any) -> Any:
        return web.Response(body=await request.read(), headers={"X-Scheme": request.scheme})

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
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certs.server())
        await site.start()
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_aiohttp(factory: Factory, certs: Certs) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="needs tests/requirements.txt")

    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=certs.client())
        async with aiohttp_site(certs) as url, aiohttp.ClientSession(connector=connector) as ask:

            async def post(n: int) -> None:
                body = os.urandom(n * 997)
                async with ask.post(f"{url}/p{n}", data=body) as answer:
                    assert answer.status == 200 and answer.headers["X-Scheme"] == "https"
                    assert await answer.read() == body

            await asyncio.gather(*map(post, range(30)))
            await post(4000)  # 4 MB each way
            async with ask.get(f"{url}/stream") as answer:
                assert await answer.read() == b"".join(b"%06d" % n * 1000 for n in range(100))
            async with ask.ws_connect(f"{url}/chat") as ws:
                for text in ("a", "b" * 70_000):
                    await ws.send_str(text)
                    assert await ws.receive_str() == text.upper()

    run(factory, main())


def test_aiohttp_refuses_an_unknown_authority(factory: Factory, certs: Certs) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="needs tests/requirements.txt")

    async def main() -> None:
        async with aiohttp_site(certs) as url, aiohttp.ClientSession() as ask:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ask.get(f"{url}/")

    run(factory, main())


# ---- httpx and uvicorn --------------------------------------------------------------------------


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_httpx_and_uvicorn(factory: Factory, certs: Certs, http: str) -> None:
    httpx = pytest.importorskip("httpx", reason="needs tests/requirements.txt")
    uvicorn = pytest.importorskip("uvicorn", reason="needs tests/requirements.txt")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"x-scheme", scope["scheme"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def main() -> None:
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            http=http,
            log_level="warning",
            lifespan="off",
            ssl_certfile=certs.path("localhost"),
            ssl_keyfile=certs.path("localhost", "key"),
        )
        served = uvicorn.Server(config)
        serving = asyncio.create_task(served.serve())
        while not served.started:
            assert not serving.done()
            await asyncio.sleep(0)
        url = f"https://127.0.0.1:{served.servers[0].sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, verify=certs.client(), trust_env=False) as ask:
            bodies = [os.urandom(n * 9973) for n in range(30)] + [os.urandom(3_000_000)]
            found = await asyncio.gather(*(ask.post("/", content=body) for body in bodies))
            assert [answer.content for answer in found] == bodies
            assert {answer.headers["x-scheme"] for answer in found} == {"https"}
        served.should_exit = True
        await serving

    run(factory, main())


# ---- websockets ---------------------------------------------------------------------------------


def test_websockets(factory: Factory, certs: Certs) -> None:
    client = pytest.importorskip("websockets.asyncio.client", reason="tests/requirements.txt")
    ws_server = pytest.importorskip("websockets.asyncio.server", reason="tests/requirements.txt")

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with ws_server.serve(echo, "127.0.0.1", 0, ssl=certs.server()) as serving:
            port = serving.sockets[0].getsockname()[1]

            async def talk(n: int) -> None:
                url = f"wss://localhost:{port}/{n}"
                async with client.connect(url, ssl=certs.client(), proxy=None) as connection:
                    for message in ("text", os.urandom(700_000), "é" * n):
                        await connection.send(message)
                        assert await connection.recv() == message
                    await (await connection.ping())

            await asyncio.gather(*map(talk, range(10)))

    run(factory, main())


# ---- Redis --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_options(certs: Certs, tmp_path_factory: Any) -> Iterator[dict[str, Any]]:
    """Arguments of redis.asyncio.Redis for a server that wants a client's certificate."""
    directory = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [program("redis-server"), "--port", "0", "--tls-port", str(port)]
    command += ["--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    command += ["--tls-cert-file", certs.path("localhost"), "--tls-auth-clients", "yes"]
    command += ["--tls-key-file", certs.path("localhost", "key")]
    command += ["--tls-ca-cert-file", certs.path("ca")]
    with server(port, directory / "log", *command):
        yield {
            "url": f"rediss://localhost:{port}/0",
            "ssl_ca_certs": certs.path("ca"),
            "ssl_certfile": certs.path("client"),
            "ssl_keyfile": certs.path("client", "key"),
        }


def test_redis(factory: Factory, redis_options: dict[str, Any]) -> None:
    redis = pytest.importorskip("redis.asyncio", reason="needs tests/requirements.txt")

    async def main() -> None:
        async with redis.from_url(**redis_options) as client:
            await client.flushdb()
            big = os.urandom(2_000_000)
            await client.set("big", big)
            assert await client.get("big") == big
            await asyncio.gather(*(client.incr("n") for _ in range(8)))
            assert await client.get("n") == b"8"
            assert await client.blpop("none", timeout=0.05) is None
            async with client.pubsub() as pubsub:
                await pubsub.subscribe("channel")
                assert (await pubsub.get_message(timeout=20))["type"] == "subscribe"
                await client.publish("channel", "news")
                assert (await pubsub.get_message(timeout=20))["data"] == b"news"

    run(factory, main())


def test_redis_without_a_certificate(factory: Factory, redis_options: dict[str, Any]) -> None:
    redis = pytest.importorskip("redis.asyncio", reason="needs tests/requirements.txt")
    options = {k: v for k, v in redis_options.items() if k in ("url", "ssl_ca_certs")}

    async def main() -> None:
        async with redis.from_url(**options) as client:
            with pytest.raises(redis.ConnectionError):
                await client.ping()

    run(factory, main())


# ---- PostgreSQL ---------------------------------------------------------------------------------


def foreign_env() -> dict[str, str]:
    """For servers that are not ours: without the sanitizers that this process may have loaded."""
    drop = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")
    return {**{k: v for k, v in os.environ.items() if k not in drop}, "LC_ALL": "C"}


@pytest.fixture(scope="module")
def postgres_port(certs: Certs) -> Iterator[int]:
    """The port of a PostgreSQL server that takes connections with TLS alone."""
    initdb, postgres = program("initdb"), program("postgres")
    user = "nobody" if os.geteuid() == 0 else None
    # Not below pytest's directory, which is closed to other users.
    base = Path(tempfile.mkdtemp(prefix="taut-pg-"))
    try:
        data = base / "data"
        data.mkdir(mode=0o700)
        for name in ("localhost.pem", "localhost.key"):
            shutil.copy(certs.directory / name, base / name)
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (base, *base.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        options: dict[str, Any] = {"cwd": base, "env": foreign_env()}
        if user is not None:
            options |= {"user": user, "group": owner.pw_gid, "extra_groups": []}
        done = subprocess.run(
            [initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"],
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        port = free_port()
        settings = {"ssl": "on", "fsync": "off", "listen_addresses": "127.0.0.1"}
        settings["unix_socket_directories"] = ""
        settings["ssl_cert_file"] = str(base / "localhost.pem")
        settings["ssl_key_file"] = str(base / "localhost.key")
        command = [postgres, "-D", str(data), "-p", str(port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with server(port, base / "log", *command, **options):
            yield port
    finally:
        shutil.rmtree(base)


def test_asyncpg(factory: Factory, certs: Certs, postgres_port: int) -> None:
    asyncpg = pytest.importorskip("asyncpg", reason="needs tests/requirements.txt")

    async def main() -> None:
        where = {"host": "127.0.0.1", "port": postgres_port, "user": "postgres"}
        while True:  # it listens before it is ready
            try:
                first = await asyncpg.connect(database="postgres", ssl=certs.client(), **where)
                break
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.02)
        assert await first.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        await first.close()
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(database="postgres", ssl=False, **where)
        async with asyncpg.create_pool(
            database="postgres", ssl=certs.client(), min_size=2, max_size=5, **where
        ) as pool:
            rows = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int + 1", n) for n in range(60))
            )
            assert rows == list(range(1, 61))
            async with pool.acquire() as connection:
                await connection.execute("CREATE TEMP TABLE t (n int, b bytea)")
                blob = os.urandom(300_000)
                records = [(n, blob) for n in range(10)]
                await connection.copy_records_to_table("t", records=records)
                assert [tuple(row) for row in await connection.fetch("SELECT * FROM t")] == records
                # The cancel request goes over a TLS connection of its own.
                with pytest.raises(asyncio.TimeoutError):
                    await connection.execute("SELECT pg_sleep(20)", timeout=0.1)
                assert await connection.fetchval("SELECT count(*) FROM t") == 10

    run(factory, main())


def test_asyncpg_refuses_an_unknown_authority(
    factory: Factory, certs: Certs, postgres_port: int
) -> None:
    asyncpg = pytest.importorskip("asyncpg", reason="needs tests/requirements.txt")

    async def main() -> None:
        strange = ssl.create_default_context(cafile=certs.path("stranger"))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncpg.connect(
                host="127.0.0.1", port=postgres_port, user="postgres", ssl=strange
            )

    run(factory, main())
