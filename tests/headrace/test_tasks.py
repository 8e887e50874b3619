"""Background tasks end when they are told to."""

from __future__ import annotations

import asyncio

from headrace.tasks import end


async def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    lost = 0

    async def deaf_once() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(task)

    assert task.cancelled()
    assert lost == 2


async def test_a_task_that_has_ended_or_fails_is_no_matter() -> None:
    async def fail() -> None:
        raise ValueError

    failed, done = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait([failed, done])
    await end(failed, done)
    await end()

    assert isinstance(failed.exception(), ValueError)
