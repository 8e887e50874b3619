"""Runs a command of Headrace's own as a child process, for jobs: its last line of JSON is the result."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.job import JobFailedError

# From Linux's sys/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_KEPT_BYTES: Final = 64 << 10
_MOST_TOLD: Final = 300
_STOP_SECONDS: Final = 5.0


async def run_command(*arguments: str) -> Mapping[str, Any]:
    """Run `headrace ARGUMENTS` and return what it says in JSON on its last line of stdout, or nothing.

    It has our environment, so the same settings. When we are cancelled it is told to stop, then killed; when we die it
    is killed. Must be called from the main thread: the kernel ties the child's life to the thread that started it.

    Raises:
        JobFailedError: it ended with another exit code than 0; with the last line of what it said.
    """
    # -P: a folder called `cli` where the service happens to run is not ours.
    return await run_program((sys.executable, "-P", "-m", "cli.main", *arguments))


async def run_program(argv: Sequence[str]) -> Mapping[str, Any]:
    """Run any program; as `run_command`."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_tie_to_parent(),
    )
    assert process.stdout
    assert process.stderr
    try:
        told, said, code = await asyncio.gather(_tail(process.stdout), _tail(process.stderr), process.wait())
    finally:
        await _stop(process)
    result = _result(told)
    if code != 0:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing").strip()
        raise JobFailedError(f"exit code {code}: {last[:_MOST_TOLD]}", result=result or None)
    return result


async def _tail(stream: asyncio.StreamReader) -> str:
    """Read to the end; return the last of it."""
    kept = b""
    while part := await stream.read(1 << 16):
        kept = (kept + part)[-_KEPT_BYTES:]
    return kept.decode(errors="replace")


def _result(told: str) -> dict[str, Any]:
    for line in reversed(told.splitlines()):
        with contextlib.suppress(msgspec.DecodeError):
            found = msgspec.json.decode(line)
            if isinstance(found, dict):
                return found
    return {}


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End it and what it started, unless it has ended."""
    if process.returncode is None:
        # All of it: asyncio knows of the end only when nobody holds the pipes any more.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
    # Its session's number is its own, and cannot be another's while one of that session lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()


def _tie_to_parent() -> Callable[[], None] | None:
    """Return what the child runs between fork and exec, so that it does not outlive us, not even our SIGKILL."""
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before the line above took hold.
            os._exit(1)

    return tie
