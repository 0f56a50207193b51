"""Two tasks, two locks, and each waits for the other one's.

A transfer locks the account that the money comes from, then the one that it goes to. Two transfers
between the same two accounts, in opposite directions and at the same moment, wait for each other
for ever. No CPU is used, no error is raised, and every later transfer of the two joins the queue.
"""
# expect: deadlock at blame
# within: 10

import asyncio

import stage


async def transfer(source: asyncio.Lock, target: asyncio.Lock) -> None:
    async with source:
        await asyncio.sleep(0.1)
        async with target:  # blame
            print("transferred")


async def main() -> None:
    ada, bob = asyncio.Lock(), asyncio.Lock()
    there = asyncio.create_task(transfer(ada, bob))
    back = asyncio.create_task(transfer(bob, ada))
    while stage.running():
        await asyncio.sleep(0.1)
    print(there, back)


asyncio.run(main())
