"""Commands run as child processes: what they tell, how they fail, and that none outlives who wanted it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from headrace.child import run_program
from headrace.job import JobFailedError

PYTHON = (sys.executable, "-c")


async def test_the_last_line_of_json_is_the_result() -> None:
    script = "print('reading'); print('{\"rows\": 1}'); print('{\"rows\": 2}'); print('done')"

    assert await run_program((*PYTHON, script)) == {"rows": 2}
    assert await run_program((*PYTHON, "print('nothing to tell')")) == {}


async def test_a_command_that_fails_says_so_with_its_last_line_and_what_it_found() -> None:
    script = "import sys; print('{\"rows\": 7}'); print('\\nno such resource\\n', file=sys.stderr); sys.exit(3)"

    with pytest.raises(JobFailedError, match="exit code 3: no such resource") as failed:
        await run_program((*PYTHON, script))

    assert failed.value.result == {"rows": 7}


async def test_a_command_may_say_more_than_a_pipe_holds() -> None:
    script = "import sys; sys.stderr.write('x' * 1_000_000); print('y' * 1_000_000); print('{\"ok\": true}')"

    assert await run_program((*PYTHON, script)) == {"ok": True}


async def test_cancelled_it_ends_with_all_that_it_started(tmp_path: Path) -> None:
    marks = tmp_path / "pids"
    script = (
        "import os, signal, subprocess, sys, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL);"
        "child = subprocess.Popen(['sleep', '60']);"
        f"open({str(marks)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n');"
        "time.sleep(60)"
    )
    task = asyncio.create_task(run_program((*PYTHON, script)))
    pids = await _written(marks)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await _gone(pids)


async def test_it_dies_with_its_parent_even_by_sigkill(tmp_path: Path) -> None:
    marks = tmp_path / "pids"
    child = f"import os, time; open({str(marks)!r}, 'w').write(str(os.getpid()) + '\\n'); time.sleep(60)"
    script = (
        "import asyncio, sys; from headrace.child import run_program;"
        f"asyncio.run(run_program((sys.executable, '-c', {child!r})))"
    )
    parent = await asyncio.create_subprocess_exec(*PYTHON, script)
    pids = await _written(marks)
    parent.kill()
    await parent.wait()

    await _gone(pids)


async def _written(marks: Path) -> list[int]:
    async with asyncio.timeout(20):
        # Another process writes it.
        while not marks.exists() or not marks.read_text().endswith("\n"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    return [int(pid) for pid in marks.read_text().split()]  # noqa: ASYNC240


async def _gone(pids: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(_alive(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
