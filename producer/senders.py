"""The client processes of a load test: started early, each given its plan, told to begin at one moment, followed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from producer.tally import Interval

if TYPE_CHECKING:
    from producer.sender import Plan

_START_SECONDS: Final = 30.0
_REPORT_BYTES: Final = 1 << 22
# Where `producer` lies: a client process started here finds it, installed or not.
_ROOT: Final = Path(__file__).resolve().parent.parent


@asynccontextmanager
async def open_senders(count: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Start client processes, which import what they need while we go on."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_sender()) for _ in range(count)]


@asynccontextmanager
async def open_sender() -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a client process, which waits for its plan."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "producer.sender",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_REPORT_BYTES,
        cwd=_ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(2):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def send(
    plans: Sequence[Plan],
    started: Sequence[asyncio.subprocess.Process],
    hear: Callable[[Interval, float], None],
    stop: asyncio.Event | None,
) -> float:
    """Give each client process its plan, and follow them until all have sent their share.

    Args:
        started: at least as many as there are plans.
        hear: told what each reports, and the seconds since they began.
        stop: ends the sending early.

    Returns:
        When they were told to begin, by `time.monotonic`.
    """
    processes = started[: len(plans)]
    for process, plan in zip(processes, plans, strict=True):
        # By stdin, for it holds the token.
        _tell(process, msgspec.json.encode(plan) + b"\n")
    # Imports take their time; nobody starts before all are there.
    async with asyncio.timeout(_START_SECONDS):
        ready = await asyncio.gather(*(_stdout(process).readline() for process in processes))
    if not all(ready):
        raise RuntimeError("a client process ended before it began; its words are above")
    started_at = time.monotonic()
    for process in processes:
        _tell(process, b"go\n")

    async def follow(process: asyncio.subprocess.Process) -> None:
        while line := await _stdout(process).readline():
            hear(msgspec.json.decode(line, type=Interval), time.monotonic() - started_at)

    async def stop_early() -> None:
        assert stop is not None
        await stop.wait()
        for process in processes:
            _tell(process, b"stop\n")

    stopping = asyncio.create_task(stop_early()) if stop else None
    try:
        async with asyncio.TaskGroup() as followers:
            for process in processes:
                followers.create_task(follow(process))
    finally:
        if stopping:
            stopping.cancel()
    return started_at


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    if not process.stdin.is_closing():
        process.stdin.write(line)


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout
