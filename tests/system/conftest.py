"""A whole Headrace for the tests of this folder that harm nothing; those that kill start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers import in_own_task, reachable_directory, seed
from tests.system.system import System, up


@pytest.fixture(scope="session")
async def system() -> AsyncIterator[System]:
    """Shared with other files, in any order: for tests that count what is theirs alone."""
    with reachable_directory() as directory:
        await seed(directory / "data")
        async with in_own_task(up(directory)) as running:
            yield running


@pytest.fixture(scope="module")
async def own_system() -> AsyncIterator[System]:
    """Of this file alone: for tests that count all there is of a pipeline, or that call everything."""
    with reachable_directory() as directory:
        await seed(directory / "data")
        async with in_own_task(up(directory)) as running:
            yield running
