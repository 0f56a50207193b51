"""Two greetings at once, on taut's event loop."""

import asyncio

import taut


async def greet(name: str) -> None:
    await asyncio.sleep(0.1)
    print(f"hello, {name}, from {type(asyncio.get_running_loop()).__module__}")


async def main() -> None:
    await asyncio.gather(greet("Ada"), greet("Grace"))


taut.run(main())
