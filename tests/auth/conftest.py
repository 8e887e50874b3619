"""One auth service, with its own namespace and database, for each test that asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.settings import Settings
from tests.auth.system import Auth, running


@pytest.fixture
async def auth(settings: Settings) -> AsyncIterator[Auth]:
    started: asyncio.Future[Auth] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run() -> None:
        async with running(settings) as auth:
            started.set_result(auth)
            await over.wait()

    # A task of its own: what opens a task group must close it, and a fixture's two halves are two tasks.
    task = asyncio.create_task(run())
    waiting: list[asyncio.Future[Any]] = [task, started]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    yield await started
    over.set()
    await task
