"""Whether work leaves the event loop to others, counted instead of timed."""

import asyncio
from collections.abc import Awaitable


async def turns_of_others(work: Awaitable[None]) -> int:
    """How often the event loop comes round to others meanwhile."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await work
    task.cancel()
    return turns
