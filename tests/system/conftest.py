"""One whole Headrace for the tests of this folder that harm nothing; those that kill start their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.servers import reachable_directory
from tests.system.system import System, up


@pytest.fixture(scope="session")
async def system() -> AsyncIterator[System]:
    started: asyncio.Future[System] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run() -> None:
        with reachable_directory() as directory:
            async with up(directory) as running:
                started.set_result(running)
                await over.wait()

    # A task of its own: a fixture's two halves are two tasks.
    task = asyncio.create_task(run())
    both: set[asyncio.Future[None] | asyncio.Future[System]] = {task, started}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    yield await started
    over.set()
    await task
