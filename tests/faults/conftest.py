"""One stack for the tests of this folder: every service, every link through a proxy, quick to come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import check
from tests.faults.journal import read
from tests.faults.observe import observe
from tests.faults.producer import Producer, open_producers
from tests.faults.stack import QUICK, Stack, open_stack
from tests.servers import in_own_task, reachable_directory, seed

# Each stage in a process of its own, so that all can be harmed at once.
STAGES = ("refine", "documents", "facts", "journal", "dead")
SEED = 11


@pytest.fixture(scope="module")
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """The whole of it, with what the module says in SETTINGS besides."""
    with reachable_directory() as directory:
        await seed(directory)
        workers = {stage: (stage,) for stage in STAGES}
        settings = {**QUICK, "HEADRACE_WORKERS__ACK_WAIT_SECONDS": "1", "HEADRACE_NATS__PUBLISH_TIMEOUT_SECONDS": "1"}
        settings |= getattr(request.module, "SETTINGS", {})
        async with in_own_task(open_stack(directory, workers=workers, environment=settings)) as stack:
            yield stack


class Books:
    """Everything that was sent to the stack by any test; the checker judges all of it together."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self._tests = 0

    def producers(self, *, singles: int = 1, bulks: int = 0) -> contextlib.AbstractAsyncContextManager[list[Producer]]:
        """Open producers whose names nobody had before."""
        self._tests += 1
        prefix = f"t{self._tests}"
        return open_producers(
            self.folder,
            SEED,
            self.stack.url,
            self.stack.token,
            singles=singles,
            bulks=bulks,
            bulk=(150, 250),
            prefix=prefix,
        )

    async def hold(self, seconds: float = 60.0, *, meant: Collection[str] = ()) -> None:
        """Fail unless all is drained in time and every invariant holds; refusals with codes that are `meant` may be."""
        caught_up = await self.stack.caught_up(seconds)
        lines = list(read(await asyncio.to_thread(lambda: sorted(self.folder.glob("*.jsonl")))))
        balanced = bool((await self.stack.books())["balanced"])
        found = await observe(
            self.stack.stores,
            SEED,
            lines,
            balanced=balanced,
            caught_up_seconds=caught_up,
            caught_up_limit_seconds=seconds,
        )
        found = replace(found, answers=[one for one in found.answers if one.code not in meant])
        assert [str(one) for one in check(found)] == []


@pytest.fixture(scope="module")
async def books(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Books:
    return Books(stack, tmp_path_factory.mktemp("journals"))


@pytest.fixture(autouse=True)
async def healed(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Leave nothing broken to the next test."""
    yield
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").heal()
