"""Fixtures for the command line: a gateway to talk to, and a way to run commands against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.cli.stand_in import TOKEN, Ended, StandIn, headrace, serving

Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def gateway() -> AsyncIterator[StandIn]:
    async with serving(StandIn()) as stand_in:
        yield stand_in


@pytest.fixture
def run(tmp_path: Path, gateway: StandIn) -> Run:
    """Runs a command that finds the stand-in by its environment."""

    async def run(*arguments: str, stdin: bytes | None = None, **environment: str) -> Ended:
        known = {"HEADRACE_URL": gateway.url, "HEADRACE_TOKEN": TOKEN}
        return await headrace(tmp_path, *arguments, stdin=stdin, environment={**known, **environment})

    return run
