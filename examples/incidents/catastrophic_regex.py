"""A regular expression that takes for ever on one name.

The sign-up form checks names with a pattern that looks harmless and is quick for all names that
match. For one that does not, it tries every way of cutting the name into words. Somebody who had
leaned on his keyboard took the service down, one form at a time.
"""
# expect: cpu-bound-step at blame
# within: 5

import asyncio
import re

import stage

NAME = re.compile(r"^(\w+\s?)*$")


async def sign_up(name: str) -> bool:
    return NAME.match(name) is not None  # blame


async def main() -> None:
    while stage.running():
        await sign_up("Ada Lovelace")
        await sign_up("a" * 22 + "!")
        await asyncio.sleep(0.2)


asyncio.run(main())
