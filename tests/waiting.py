"""How tests wait: for what holds and never for time, and one that waits in vain says what it saw last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.servers import DEADLINE_SECONDS

T = TypeVar("T")

# What is awaited happens in another process, which sets no event of ours.
_POLL_SECONDS = 0.05


async def eventually(
    attempt: Callable[[], Awaitable[T | None]],
    holds: Callable[[T], object] = bool,
    *,
    passing: tuple[type[Exception], ...] = (),
    seconds: float = DEADLINE_SECONDS,
) -> T:
    """Return what an attempt gives, as soon as it holds.

    Args:
        holds: what has to be true of it; by default, it itself. None never holds.
        passing: errors that mean no more than: not yet.

    Raises:
        AssertionError: it did not in time.
    """
    last: object = "that it did not answer"
    try:
        async with asyncio.timeout(seconds) as limit:
            while True:
                try:
                    last = found = await attempt()
                    if found is not None and holds(found):
                        return found
                except passing as error:
                    last = error
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"it did not hold within {seconds} s; the last that was seen: {last!r}") from None
