"""Limits of time: a store that hangs is as good as away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from headrace.errors import UnavailableError

Answered = TypeVar("Answered")

STORES = {"mongo": "MongoDB", "postgres": "Postgres", "redis": "Redis"}


async def within(seconds: float, store: str, asked: Awaitable[Answered]) -> Answered:
    """Return what a store answers.

    Args:
        store: `mongo`, `postgres` or `redis`.

    Raises:
        UnavailableError: it is away, or did not answer in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError:
        raise UnavailableError(
            f"{STORES[store]} did not answer within {seconds:g} s.", code=f"{store}_unavailable", retry_after_seconds=2
        ) from None
