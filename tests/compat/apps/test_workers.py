"""Celery, ARQ and dramatiq workers run coroutines of their tasks on taut, and SIGTERM stops them.

Each with Redis as its broker, in queues and keys of the test's own.
"""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import arq
import arq.connections
import celery
import dramatiq
import dramatiq.brokers.redis
import pytest
import redis
from programs import Service

import loops

TAUT = "taut.loop.Loop"
ASYNCIO = "asyncio.unix_events._UnixSelectorEventLoop"

COMMON = """\
import asyncio, os

async def work(n, redis_url):
    import redis.asyncio as redis
    async with redis.from_url(redis_url) as client:
        answers = await asyncio.gather(*(client.echo(str(n)) for _ in range(10)))
    assert answers == [str(n).encode()] * 10
    loop = type(asyncio.get_running_loop())
    return [n, f"{loop.__module__}.{loop.__qualname__}", os.getpid()]

async def slow():
    print("slow began", flush=True)
    await asyncio.sleep(0.5)
    return "slow"
"""

CELERY = """\
import asyncio, common
from celery import Celery

app = Celery("tasks", broker={url!r}, backend={url!r})
app.conf.task_default_queue = {queue!r}

@app.task
def work(n):
    return asyncio.run(common.work(n, {url!r}))

@app.task
def slow():
    return asyncio.run(common.slow())
"""

ARQ = """\
import common
from arq.connections import RedisSettings

async def work(ctx, n):
    return await common.work(n, {url!r})

async def slow(ctx):
    return await common.slow()

async def up(ctx):
    print("up", flush=True)

async def down(ctx):
    print("\\ndown", flush=True)

class Settings:
    functions = [work, slow]
    on_startup = up
    on_shutdown = down
    redis_settings = RedisSettings.from_dsn({url!r})
    queue_name = {queue!r}
    job_completion_wait = 20
    poll_delay = 0.05
"""

DRAMATIQ = """\
import common, dramatiq, json, redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO

broker = RedisBroker(url={url!r}, namespace={queue!r})
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)
results = redis.from_url({url!r})

@dramatiq.actor
async def work(n):
    results.rpush({queue!r} + ":results", json.dumps(await common.work(n, {url!r})))

@dramatiq.actor
async def slow():
    results.rpush({queue!r} + ":results", json.dumps(await common.slow()))
"""


@pytest.fixture(params=[ASYNCIO, TAUT])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def queue(redis_url: str) -> Iterator[str]:
    """A name for queues; the keys that bear it are removed in the end."""
    name = f"taut-{uuid.uuid4().hex}"
    yield name
    with redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"*{name}*"):
            client.delete(key)


def start(site: Path, loop: str, command: str) -> Service:
    run = ["-m", "taut", "run"] if loop == TAUT else []
    (site / "common.py").write_text(COMMON)
    return Service(*run, *command.split(), cwd=site)


def check(results: list[list[object]], loop: str, count: int) -> None:
    assert sorted(result[0] for result in results) == list(range(count))
    assert {result[1] for result in results} == {loop}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_celery(tmp_path: Path, redis_url: str, queue: str, loop: str, pool: str) -> None:
    (tmp_path / "tasks.py").write_text(CELERY.format(url=redis_url, queue=queue))
    app = celery.Celery("tasks", broker=redis_url, backend=redis_url)
    app.conf.task_default_queue = queue
    command = f"-m celery -A tasks worker -P {pool} -c 2 -n {queue} --without-gossip -l INFO"
    with start(tmp_path, loop, command) as service:
        service.wait_for(lambda text: "ready." in text, "the worker is ready")
        sent = [app.send_task("tasks.work", (n,)) for n in range(20)]
        check([result.get(timeout=20) for result in sent], loop, 20)
        slow = app.send_task("tasks.slow")
        service.wait_for(lambda text: "slow began" in text, "a task at work")
        assert service.stop(signal.SIGTERM) == 0
        assert slow.get(timeout=20) == "slow"
        for result in [*sent, slow]:
            result.forget()
    app.close()
    assert "Traceback" not in service.text
    assert ("taut: running on taut" in service.text) == (loop == TAUT)


def test_arq(tmp_path: Path, redis_url: str, queue: str, loop: str) -> None:
    (tmp_path / "tasks.py").write_text(ARQ.format(url=redis_url, queue=queue))

    async def jobs(service: Service) -> None:
        settings = arq.connections.RedisSettings.from_dsn(redis_url)
        pool = await arq.create_pool(settings, default_queue_name=queue)
        names = [f"{queue}-{n}" for n in range(20)]
        sent = [
            await pool.enqueue_job("work", n, _job_id=name, _expires=60)
            for n, name in enumerate(names)
        ]
        results = await asyncio.gather(*(job.result(timeout=20) for job in sent if job))
        check(results, loop, 20)
        slow = await pool.enqueue_job("slow", _job_id=f"{queue}-slow", _expires=60)
        assert slow is not None
        await loops.until(lambda: "slow began" in service.text, "a job at work")
        service.process.send_signal(signal.SIGTERM)
        assert await slow.result(timeout=20) == "slow"
        await pool.aclose()

    with start(tmp_path, loop, "-m arq tasks.Settings") as service:
        asyncio.run(asyncio.wait_for(jobs(service), 60))
        status = service.process.wait(loops.DEADLINE_S)
    assert status == 0, service.text
    assert "Traceback" not in service.text and service.text.count("\ndown\n") == 1


def test_arq_gives_a_job_back(tmp_path: Path, redis_url: str, queue: str, loop: str) -> None:
    source = ARQ.format(url=redis_url, queue=queue).replace("wait = 20", "wait = 0")
    (tmp_path / "tasks.py").write_text(source)

    async def begin(service: Service) -> None:
        settings = arq.connections.RedisSettings.from_dsn(redis_url)
        pool = await arq.create_pool(settings, default_queue_name=queue)
        await pool.enqueue_job("slow", _job_id=f"{queue}-slow", _expires=60)
        await loops.until(lambda: "slow began" in service.text, "a job at work")
        await pool.aclose()

    with start(tmp_path, loop, "-m arq tasks.Settings") as service:
        asyncio.run(asyncio.wait_for(begin(service), 60))
        assert service.stop(signal.SIGTERM) == 0
    assert "cancelled, will be run again" in service.text, service.text
    assert "Traceback" not in service.text


def test_dramatiq(tmp_path: Path, redis_url: str, queue: str, loop: str) -> None:
    (tmp_path / "tasks.py").write_text(DRAMATIQ.format(url=redis_url, queue=queue))
    broker = dramatiq.brokers.redis.RedisBroker(url=redis_url, namespace=queue)
    command = "-m dramatiq tasks --processes 2 --threads 2"
    with redis.from_url(redis_url) as client, start(tmp_path, loop, command) as service:

        def message(name: str, *args: int) -> dramatiq.Message[object]:
            return dramatiq.Message(
                queue_name="default", actor_name=name, args=args, kwargs={}, options={}
            )

        def results(count: int) -> list[list[object]]:
            key = f"{queue}:results"
            service.wait_for(lambda _: client.llen(key) == count, f"{count} results")
            return [json.loads(text) for text in client.lrange(key, 0, -1)]

        for n in range(20):
            broker.enqueue(message("work", n))
        check(results(20), loop, 20)
        broker.enqueue(message("slow"))
        service.wait_for(lambda text: "slow began" in text, "a task at work")
        assert service.stop(signal.SIGTERM) == 0
        assert json.loads(client.lindex(f"{queue}:results", -1)) == "slow"
    broker.close()
    assert "Traceback" not in service.text
