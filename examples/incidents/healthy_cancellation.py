"""Healthy: awaiting in `finally` while being cancelled.

Requests are cancelled all the time, since clients go away, and each one closes what it had open,
which takes an await or two. Some turn the cancellation into an error of their own, some raise it
again. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


class ClientGone(Exception):
    pass


async def closes() -> None:
    try:
        await asyncio.sleep(10)
    finally:
        await asyncio.sleep(0.005)
        await asyncio.sleep(0.005)


async def raises_again() -> None:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        await asyncio.sleep(0.005)
        raise


async def translates() -> None:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError as error:
        await asyncio.sleep(0.005)
        raise ClientGone from error


async def main() -> None:
    while stage.running():
        tasks = [asyncio.create_task(kind()) for kind in (closes, raises_again, translates)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                await task
            except (asyncio.CancelledError, ClientGone):
                pass


asyncio.run(main())
