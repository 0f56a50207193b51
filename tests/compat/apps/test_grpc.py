"""grpcio's asyncio API: a server and a client of every kind of call.

gRPC's core polls in a thread of its own, and wakes the loop through a socket that it watches with
add_reader().
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import loops
from loops import Factory, until


class Greeter:
    """The service, with bytes for messages."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def hello(self, request: bytes, context: Any) -> bytes:
        if request == b"nobody":
            await context.abort(grpc.StatusCode.NOT_FOUND, "who?")
        await context.send_initial_metadata([("length", str(len(request)))])
        return b"Hello, " + request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for n in range(int(request)):
            yield b"%d" % n

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    async def hang(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("not reached")

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "Greeter",
            {
                "Hello": grpc.unary_unary_rpc_method_handler(self.hello),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Join": grpc.stream_unary_rpc_method_handler(self.join),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            },
        )


async def tour() -> None:
    greeter = Greeter()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((greeter.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            hello = channel.unary_unary("/Greeter/Hello")
            answers = await asyncio.gather(*(hello(b"%d" % n) for n in range(100)))
            assert answers == [b"Hello, %d" % n for n in range(100)]
            call = hello(b"x" * 2_000_000, timeout=20)
            assert len(await call) == 2_000_007
            assert await call.initial_metadata() == (("length", "2000000"),)
            assert await call.code() is grpc.StatusCode.OK
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hello(b"nobody")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

            numbers = channel.unary_stream("/Greeter/Count")(b"500")
            assert [int(n) async for n in numbers] == list(range(500))

            async def words() -> AsyncIterator[bytes]:
                for n in range(200):
                    yield b"%d" % n

            joined = await channel.stream_unary("/Greeter/Join")(words())
            assert joined == b",".join(b"%d" % n for n in range(200))

            chat = channel.stream_stream("/Greeter/Chat")()
            for word in (b"a", b"b" * 100_000, b"c"):
                await chat.write(word)
                assert await chat.read() == word.upper()
            await chat.done_writing()
            assert await chat.read() is grpc.aio.EOF

            hang = channel.unary_unary("/Greeter/Hang")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hang(b"", timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = hang(b"")
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await until(lambda: greeter.cancelled == 2, "the server has heard of both")
    finally:
        await server.stop(5)


def test_grpc(factory: Factory) -> None:
    for _ in range(2):  # gRPC's poller goes from one loop of the process to the next
        # Not apps.run: gRPC's core keeps its descriptors until the process ends.
        with asyncio.Runner(loop_factory=factory) as runner:
            faults = loops.Faults(runner.get_loop())
            runner.run(asyncio.wait_for(tour(), loops.DEADLINE_S))
            assert faults.contexts == []
