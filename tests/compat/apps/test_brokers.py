"""aio-pika with RabbitMQ and nats-py with NATS."""

from __future__ import annotations

import asyncio
import os
import uuid

import aio_pika
import nats
import nats.errors
import pytest
from aio_pika.exceptions import DeliveryError, QueueEmpty
from aio_pika.patterns import RPC
from apps import run
from nats.aio.msg import Msg

from loops import Factory, until


def test_rabbitmq_publishes_and_consumes(factory: Factory, amqp: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect_robust(amqp, timeout=20)
        async with connection, await connection.channel() as channel:
            await channel.set_qos(prefetch_count=20)
            queue = await channel.declare_queue(exclusive=True)
            exchange = channel.default_exchange

            async def publish(n: int) -> None:
                message = aio_pika.Message(b"%d:" % n + b"x" * (n * 100), message_id=str(n))
                await exchange.publish(message, queue.name)  # waits for the confirmation

            await asyncio.gather(*map(publish, range(300)))
            seen: list[int] = []
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        seen.append(int(message.body.partition(b":")[0]))
                    if len(seen) == 300:
                        break
            assert sorted(seen) == list(range(300))
            big = os.urandom(2_000_000)
            await exchange.publish(aio_pika.Message(big), queue.name)
            got = await queue.get(timeout=20)
            assert got.body == big
            await got.nack(requeue=True)
            again = await queue.get(timeout=20)
            assert again.redelivered
            await again.ack()
            with pytest.raises(QueueEmpty):
                await queue.get(timeout=20)
            async with connection.channel(on_return_raises=True) as strict:
                with pytest.raises(DeliveryError):
                    await strict.default_exchange.publish(aio_pika.Message(b""), "no such queue")

    run(factory, main())


def test_rabbitmq_calls(factory: Factory, amqp: str) -> None:
    name = f"taut-{uuid.uuid4().hex}"

    async def multiply(*, x: int, y: int) -> int:
        return x * y

    async def main() -> None:
        async with await aio_pika.connect(amqp) as connection, connection.channel() as channel:
            rpc = await RPC.create(channel)
            await rpc.register(name, multiply, auto_delete=True)
            calls = [rpc.call(name, {"x": n, "y": n}) for n in range(100)]
            assert await asyncio.gather(*calls) == [n * n for n in range(100)]
            with pytest.raises(TypeError):
                await rpc.call(name, {"x": 1})
            await rpc.close()

    run(factory, main())


def test_rabbitmq_heartbeats(factory: Factory, amqp: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(amqp, heartbeat=1)
        async with connection:
            loop = asyncio.get_running_loop()
            end = loop.time() + 2.5  # a broker that hears none hangs up after two seconds
            await until(lambda: loop.time() > end, "two heartbeats and more")
            channel = await connection.channel()
            await channel.declare_queue(exclusive=True)

    run(factory, main())


def test_nats(factory: Factory, nats_url: str) -> None:
    subject = f"taut.{uuid.uuid4().hex}"

    async def main() -> None:
        failures: list[Exception] = []

        async def failed(exc: Exception) -> None:
            failures.append(exc)

        client = await nats.connect(nats_url, error_cb=failed, connect_timeout=20)
        other = await nats.connect(nats_url, error_cb=failed, connect_timeout=20)
        seen: list[bytes] = []

        async def hear(message: Msg) -> None:
            seen.append(message.data)

        await other.subscribe(f"{subject}.*", cb=hear)
        await other.flush()
        bodies = [os.urandom(n * 7) for n in range(1000)]
        for n, body in enumerate(bodies):
            await client.publish(f"{subject}.{n}", body)
        await until(lambda: len(seen) == 1000, "all messages")
        assert seen == bodies

        shares: dict[int, int] = {0: 0, 1: 0}

        def worker(which: int):  # type: ignore[no-untyped-def]
            async def answer(message: Msg) -> None:
                shares[which] += 1
                await message.respond(message.data.upper())

            return answer

        for which, server in enumerate((client, other)):
            await server.subscribe(f"{subject}-ask", queue="workers", cb=worker(which))
            await server.flush()
        asked = [client.request(f"{subject}-ask", f"q{n}".encode(), timeout=20) for n in range(100)]
        answers = [message.data for message in await asyncio.gather(*asked)]
        assert answers == [f"Q{n}".encode() for n in range(100)]
        assert sum(shares.values()) == 100 and all(shares.values())
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request(f"{subject}-nobody", b"", timeout=20)
        silent = await client.subscribe(f"{subject}-silent")
        with pytest.raises(nats.errors.TimeoutError):
            await silent.next_msg(timeout=0.05)
        await client.drain()
        await other.drain()
        assert client.is_closed and other.is_closed and failures == []

    run(factory, main())
