"""The supervisor with small children: restarts, crash loops, order, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from embedded import supervisor as supervising
from embedded.program import EmbeddedError, Program
from embedded.state import open_state
from embedded.supervisor import CrashLoopError, supervise
from tests.embedded.processes import alive, descendants
from tests.servers import DEADLINE_SECONDS, until

SLEEP = "import time; time.sleep(600)"


def python(name: str, code: str, **more: object) -> Program:
    """A child that runs a few lines of Python."""
    return Program(name=name, argv=(sys.executable, "-c", code), **more)  # type: ignore[arg-type]


SLEEPER = python("sleeper", f"import os; print(os.getpid(), flush=True); {SLEEP}")


async def run(logs: Path, *programs: Program) -> None:
    """Run children until one of them ends it."""
    async with supervise(logs) as supervisor:
        await supervisor.start(*programs)
        await asyncio.Event().wait()


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    async with supervise(tmp_path) as supervisor:
        await supervisor.start(python("sleeper", SLEEP))
        first = supervisor.pids["sleeper"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pids.get("sleeper", first) != first)

        assert alive(supervisor.pids["sleeper"])
    assert not alive(first)


async def test_changes_of_children_are_told(tmp_path: Path) -> None:
    told: list[dict[str, int]] = []
    async with supervise(tmp_path, lambda: told.append(dict(supervisor.pids))) as supervisor:
        await supervisor.start(python("sleeper", SLEEP))
        first = dict(supervisor.pids)
        os.kill(first["sleeper"], signal.SIGKILL)
        await until(lambda: len(told) >= 3)

    assert told[:2] == [first, {}]
    assert told[2]["sleeper"] != first["sleeper"]


async def test_a_child_that_cannot_stay_up_ends_the_supervisor_and_the_others(tmp_path: Path) -> None:
    with pytest.raises(CrashLoopError) as caught:
        await run(tmp_path, SLEEPER, python("broken", "raise SystemExit('no such thing')"))

    assert str(caught.value) == (
        f"broken ended 5 times in 30 s, last with code 1. Its output is in {tmp_path}/broken.log, "
        "which ends: no such thing"
    )
    assert (tmp_path / "broken.log").read_text() == "no such thing\n" * 5
    assert not alive(int((tmp_path / "sleeper.log").read_text()))


async def test_while_the_disk_is_full_no_child_ends_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = 0

    def told() -> None:
        nonlocal ends
        ends += 1

    monkeypatch.setattr(supervising, "has_room", lambda _: False)
    patience = supervising.Patience(longest_wait_seconds=0.01)
    async with supervise(tmp_path, told, patience) as supervisor:
        await supervisor.start(python("broken", "raise SystemExit('no space left')"))
        # A start and an end are each told.
        await until(lambda: ends > 4 * patience.crashes)


async def test_a_child_that_ails_is_started_again_and_that_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "_LOOK_EVERY_SECONDS", 0.01)
    well, starts = 7, 0

    async def ails() -> str | None:
        return "it says so" if starts < well else None

    async def counted() -> None:
        nonlocal starts
        starts += 1

    async with supervise(tmp_path) as supervisor:
        await supervisor.start(python("sleeper", SLEEP, ails=ails, before_start=counted))
        await until(lambda: starts == well)
        last = supervisor.pids.get("sleeper")

    assert last is None or not alive(last)


async def test_a_program_that_is_not_there_ends_the_supervisor(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="Cannot start ghost"):
        await run(tmp_path, Program(name="ghost", argv=(str(tmp_path / "ghost"),)))


async def test_start_waits_until_the_child_serves(tmp_path: Path) -> None:
    serving = tmp_path / "serving"

    async def probe() -> None:
        serving.read_text()

    async with supervise(tmp_path) as supervisor:
        await supervisor.start(python("slow", f"open({str(serving)!r}, 'w'); {SLEEP}", probe=probe))

        assert serving.exists()


async def test_a_child_that_never_serves_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe() -> None:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(supervising, "READY_SECONDS", 0.1)
    with pytest.raises(EmbeddedError, match=r"mute was not ready.*nobody there.*mute\.log"):
        await run(tmp_path, python("mute", SLEEP, probe=probe))


async def test_what_started_last_stops_first(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def child(name: str) -> Program:
        ready = tmp_path / f"{name}-ready"
        code = f"""
import signal, sys, time
def end(*_):
    open({str(order)!r}, "a").write("{name} ")
    time.sleep(0.2)
    open({str(order)!r}, "a").write("{name}-gone ")
    sys.exit()
signal.signal(signal.SIGTERM, end)
open({str(ready)!r}, "w")
time.sleep(600)
"""

        async def probe() -> None:
            ready.read_text()

        return python(name, code, probe=probe)

    async with supervise(tmp_path) as supervisor:
        await supervisor.start(child("server"))
        await supervisor.start(child("service"))

    assert order.read_text() == "service service-gone server server-gone "


async def test_a_child_deaf_to_its_stop_signal_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    async def probe() -> None:
        ready.read_text()

    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, 'w'); {SLEEP}"
    async with supervise(tmp_path) as supervisor:
        await supervisor.start(python("deaf", code, probe=probe, stop_seconds=0.1))
        pid = supervisor.pids["deaf"]

    assert not alive(pid)


async def test_a_stopped_child_takes_its_own_children_along(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"

    async def probe() -> None:
        int(grandchild.read_text())

    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
open({str(grandchild)!r}, "w").write(str(child.pid))
{SLEEP}
"""
    async with supervise(tmp_path) as supervisor:
        await supervisor.start(python("parent", code, probe=probe))
        pid = int(grandchild.read_text())
        assert alive(pid)

    await until(lambda: not alive(pid))


def test_one_data_directory_has_one_supervisor(tmp_path: Path) -> None:
    with (
        open_state(tmp_path),
        pytest.raises(EmbeddedError, match=rf"process {os.getpid()}\) runs on .*--data-dir"),
        open_state(tmp_path),
    ):
        pass

    with open_state(tmp_path):
        "It is free again."


SUPERVISED = """
import asyncio, json, sys
from pathlib import Path
from embedded.program import Program
from embedded.servers import SERVERS, prepare
from embedded.state import open_state
from embedded.supervisor import supervise
from headrace.settings import StreamSettings

async def main():
    with open_state(Path(sys.argv[1])) as state:
        servers = await prepare(state, StreamSettings(), SERVERS)
        async with supervise(state.folder("logs")) as supervisor:
            await supervisor.start(*(server.program for server in servers.values()))
            await supervisor.start(Program(name="service", argv=(sys.executable, "-c", "import time; time.sleep(600)")))
            print(json.dumps(dict(supervisor.pids)), flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_supervisor_and_its_data_can_be_used_at_once(data_directory: Path) -> None:
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SUPERVISED, str(data_directory)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            pids = msgspec.json.decode(await process.stdout.readline(), type=dict[str, int])
        family = descendants(process.pid)
        assert set(pids.values()) <= family
        assert set(pids) == {"nats", "mongo", "postgres", "valkey", "service"}
        # Postgres has children of its own.
        assert len(family) > len(pids)

        process.kill()
        await process.wait()

    await until(lambda: not any(alive(pid) for pid in family))
