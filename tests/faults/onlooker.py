"""A client of its own beside an overload, which has nothing else to do: what another user of the gateway meets then.

`python -m tests.faults.onlooker URL JOURNAL SEED`, the token on the first line of standard input; it sends a bulk
whenever one is due, whatever became of those before, until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from producer.client import RawClient, Target
from tests.faults.journal import Journal
from tests.faults.payload import PIPELINE, payload
from tests.faults.producer import attempt

# Of the size that the others send, since a single document finds room where a bulk does not.
BULK: Final = 100
_EVERY_SECONDS: Final = 0.05
_TIMEOUT_SECONDS: Final = 60.0


@contextlib.asynccontextmanager
async def onlooking(url: str, token: str, journal: Path, seed: int) -> AsyncIterator[None]:
    """Let one look on from another process while the body runs; what it sent and learnt is in the journal then.

    Raises:
        RuntimeError: it failed; its words are on standard error.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.onlooker", url, str(journal), str(seed)), stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(f"{token}\n".encode())
    try:
        yield
    finally:
        process.stdin.close()
        code = await process.wait()
    if code:
        raise RuntimeError(f"the onlooker ended with {code}")


async def _look_on(url: str, token: str, path: Path, seed: int, ended: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    target = Target(url, f"/v1/documents/{PIPELINE}", token)
    with contextlib.closing(Journal(path)) as journal:
        async with RawClient(target, _TIMEOUT_SECONDS) as client, asyncio.TaskGroup() as tasks:
            due, number = loop.time(), 0
            while not ended.is_set():
                key = f"w{number}"
                names = [f"{key}-{place}" for place in range(BULK)]
                # Made before it is due, for the time counts from then.
                bodies = [payload(seed, name).body for name in names]
                await asyncio.sleep(max(0.0, due - loop.time()))
                tasks.create_task(attempt(client, journal, key, names, bodies, bulk=True))
                due, number = max(due, loop.time() - _EVERY_SECONDS) + _EVERY_SECONDS, number + 1


async def _main(url: str, path: Path, seed: int) -> None:
    ended = asyncio.Event()
    token = (await asyncio.to_thread(sys.stdin.readline)).strip()

    async def until_end() -> None:
        await asyncio.to_thread(sys.stdin.read)
        ended.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(until_end())
        tasks.create_task(_look_on(url, token, path, seed, ended))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
