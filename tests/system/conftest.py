"""One whole Headrace for each file of this folder that harms nothing; those that kill start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers import in_own_task, reachable_directory
from tests.system.system import System, up


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    with reachable_directory() as directory:
        async with in_own_task(up(directory)) as running:
            yield running
