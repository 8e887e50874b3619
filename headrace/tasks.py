"""What asyncio has no words for: to end tasks for certain, and to do a thing once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

_ASK_AGAIN_SECONDS = 0.2


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return when they have ended, whatever they raise.

    Once is not enough: a library that waits with `asyncio.wait_for`, as nats-py does for every request, loses a
    cancellation that comes together with the answer on Python 3.11, and the loop around it would go on for ever.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_ASK_AGAIN_SECONDS)


class Once:
    """Awaited by many, does a thing for all of them: until it has worked, each who waits tries it again in turn."""

    def __init__(self, do: Callable[[], Awaitable[None]]) -> None:
        self._do = do
        self._turn = asyncio.Lock()
        self._done = False

    async def __call__(self) -> None:
        async with self._turn:
            if not self._done:
                await self._do()
                self._done = True
