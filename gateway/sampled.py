"""A value that is slow to know, asked for at most once in a while however many want it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Sampled(Generic[T]):
    """Args:
    ask: what gives the value.
    seconds: how long a value is as good as new.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._asking: asyncio.Task[T] | None = None
        self._known_at = 0.0

    async def value(self) -> T:
        """Return the value; those that come while it is asked for share one answer.

        Raises:
            what `ask` raises; a failure is not kept.
        """
        if self._asking is None or not self._holds(self._asking):
            self._asking = asyncio.create_task(self._fetch())
        # Others wait for it too, so it outlives the one that asked first.
        return await asyncio.shield(self._asking)

    async def _fetch(self) -> T:
        value = await self._ask()
        self._known_at = time.monotonic()
        return value

    def _holds(self, asking: asyncio.Task[T]) -> bool:
        if not asking.done():
            return True
        failed = asking.cancelled() or asking.exception() is not None
        return not failed and time.monotonic() - self._known_at < self._seconds
