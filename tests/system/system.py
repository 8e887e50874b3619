"""A whole Headrace as its user starts it, `headrace up`, spoken to in verbs over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60
SETTLED_SECONDS = 90

# What a client may try again under the same key: refused for now, or the outcome unknown.
AGAIN = frozenset({429, 503})


@dataclass
class System:
    """A running `headrace up`."""

    facts: dict[str, Any]
    directory: Path
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    def pids(self) -> dict[str, int]:
        """Return the processes that run now; a restarted one has another number."""
        with contextlib.suppress(OSError, ValueError):
            self.facts = json.loads((self.directory / "up.json").read_text())
        return dict(self.facts["processes"])

    async def post(
        self, pipeline: str, body: bytes, *, key: str | None = None, bulk: bool = False, wait: int = 0
    ) -> tuple[int, Any]:
        """Send once; return status and answer. A connection that breaks is status 0."""
        headers = {"Content-Type": "application/x-ndjson" if bulk else "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if wait:
            headers["Prefer"] = f"wait={wait}"
        try:
            async with self.session.post(f"{self.url}/v1/documents/{pipeline}", data=body, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return 0, None

    async def submit(self, pipeline: str, body: bytes, *, key: str, bulk: bool = False) -> Any:
        """Send until it is accepted, as a careful client does: always under the same key."""
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                status, answer = await self.post(pipeline, body, key=key, bulk=bulk)
                if status in (200, 202, 207):
                    return answer
                assert status == 0 or status in AGAIN, (status, answer)
                await asyncio.sleep(0.1)

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.url}{path}") as answer:
            body = await answer.json(content_type=None)
            assert answer.status == 200, (answer.status, body)
            return body

    async def books(self, pipeline: str) -> Mapping[str, Any]:
        """Return the ledger of one pipeline."""
        return (await self.get("/v1/ledger"))["pipelines"].get(pipeline, {})  # type: ignore[no-any-return]

    async def drained(self, pipeline: str) -> Mapping[str, Any]:
        """Return the ledger once nothing is in flight and no stage has anything left.

        Two countings in a row must say so: the first may have begun before the last document came.
        """
        found: Any = None
        drained_at: set[str] = set()
        deadline = time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, aiohttp.ClientError, TimeoutError):
                found = await self.get("/v1/ledger")
                idle = all(stage["pending"] + stage["ack_pending"] == 0 for stage in found["backlog"].values())
                drained = idle and found["pipelines"][pipeline]["in_flight"] == 0
                drained_at = drained_at | {found["at"]} if drained else set()
                if len(drained_at) >= 2:
                    return found["pipelines"][pipeline]  # type: ignore[no-any-return]
            await asyncio.sleep(0.1)
        raise AssertionError(f"not drained: {found}")

    async def ready(self) -> None:
        """Return once the gateway says that everything is well."""
        await eventually(self._ready, seconds=READY_SECONDS)

    async def _ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, AssertionError):
            return bool((await self.get("/readyz"))["status"] == "ready")
        return False

    async def kill(self, name: str) -> None:
        """Kill a process with SIGKILL and return when its successor runs."""
        killed = self.pids()[name]
        os.kill(killed, signal.SIGKILL)

        async def replaced() -> bool:
            return self.pids().get(name, killed) != killed

        await eventually(replaced, seconds=READY_SECONDS)


@contextlib.asynccontextmanager
async def up(
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> AsyncIterator[System]:
    """Run `headrace up` in a directory of its own until the body ends."""
    data = directory / "data"
    process = await asyncio.create_subprocess_exec(
        *command,
        sys.executable,
        "-m",
        "cli",
        "up",
        "--json",
        "--port",
        "0",
        "--data-dir",
        str(data),
        *arguments,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_SECONDS)
        assert line, "up ended before it was ready"
        facts = json.loads(line)
        headers = {"Authorization": f"Bearer {facts['token']}"}
        limits = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(headers=headers, timeout=limits, connector=connector) as session:
            yield System(facts, data, session, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), READY_SECONDS)
