"""A task waits for an answer that nobody can give any more.

Answers are matched with questions by a number, which was taken from the clock. Two questions within
one millisecond got the same number, and the second future replaced the first one in the table. Who
waits for the first one waits for ever, at a line that is right.
"""
# expect: lost-wakeup at blame
# within: 10

import asyncio

import stage

questions: dict[int, asyncio.Future[str]] = {}
waiting: list[asyncio.Task[str]] = []


async def ask(number: int) -> str:
    answer = questions[number] = asyncio.get_running_loop().create_future()
    return await answer  # blame


async def main() -> None:
    waiting.append(asyncio.create_task(ask(7)))
    waiting.append(asyncio.create_task(ask(7)))
    await asyncio.sleep(0.5)
    questions.pop(7).set_result("forty-two")
    while stage.running():
        await asyncio.sleep(0.1)


asyncio.run(main())
