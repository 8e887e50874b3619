"""Ends background tasks for certain."""

from __future__ import annotations

import asyncio
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
