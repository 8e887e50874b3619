"""Takes up changed pipeline files: a process that watches them ends in order, and whoever keeps it starts it anew.

A restart rather than an import into the running process: old and new code never meet in one process, and what was begun
is finished by the code that began it. A file that does not load, or breaks a schema that is
registered, changes nothing but the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Final

from headrace import telemetry
from headrace.registry import PipelineFileError, pipeline_files

log = telemetry.logger(__name__)

_LOOK_SECONDS: Final = 0.5
# -P since a folder called `headrace` where the user happens to be is not ours.
_CHECK: Final = (sys.executable, "-P", "-m", "headrace.would_start")

Look = dict[Path, tuple[int, int]]


async def changed(folder: Path | None) -> None:
    """Return once the pipelines' files have changed and would start; run it as a task.

    Args:
        folder: the user's own, besides the built-in one.
    """
    running = _look(folder)
    broken: Look | None = None
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = _look(folder)
        # An editor may write in several steps: what is believed has held still.
        if now in (running, broken) or now != await _after(_LOOK_SECONDS / 2, folder):
            continue
        if (reason := await _trouble()) is None:
            log.info("pipelines_changed")
            return
        log.error("pipelines_broken", reason=reason)
        broken = now


def _look(folder: Path | None) -> Look:
    """Return what tells a changed file: when it was written, and its size."""
    seen = {}
    # A folder or a file may be gone for a moment, or for good.
    with contextlib.suppress(PipelineFileError):
        for path in pipeline_files(folder):
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                seen[path] = (state.st_mtime_ns, state.st_size)
    return seen


async def _after(seconds: float, folder: Path | None) -> Look:
    await asyncio.sleep(seconds)
    return _look(folder)


async def _trouble() -> str | None:
    """Return why the files would not start, or None where they would; asked of a fresh process."""
    process = await asyncio.create_subprocess_exec(
        *_CHECK, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return None if process.returncode == 0 else said.decode(errors="replace").strip().rpartition("\n")[2]
