"""Jobs by the real broker's own clock: no run is doubled or missed, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from headrace.document import new_id
from headrace.errors import UnavailableError
from headrace.job import MANUAL, Job, JobDeclarationError, JobFailedError, Run, Schedule
from headrace.job_runner import run_jobs
from headrace.messaging.connection import Bus, connect
from headrace.messaging.schedules import ensure_schedules, mend_schedules, request_run
from headrace.settings import JobSettings, Settings
from headrace.storage.job_runs import JobRuns, Tick, open_job_runs
from headrace.topology import JOBS, Topology, ensure_jobs
from tests.headrace.job_worker import SERVICE
from tests.servers import DEADLINE_SECONDS, in_own_task, reachable_directory, running
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
# Far from now: only who asks for a run gets one.
NEVER = "0 0 29 2 *"


class Mill:
    """Jobs of a service under test, in verbs."""

    def __init__(self, settings: Settings, bus: Bus, history: JobRuns) -> None:
        self.settings = settings
        self.bus = bus
        self.history = history

    @contextlib.asynccontextmanager
    async def running(self, *jobs: Job, drain_seconds: float = 10) -> AsyncIterator[asyncio.Event]:
        """Run jobs as one process does; yields what stops it."""
        stop = asyncio.Event()
        settings = with_jobs(self.settings, drain_seconds=drain_seconds)
        task = asyncio.create_task(run_jobs(self.bus, settings, SERVICE, jobs, stop))
        try:
            yield stop
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await task

    async def ask(self, job: str) -> str:
        """Ask for a run; return its id."""
        tick = Tick(new_id(), MANUAL, datetime.now(UTC), "ada")
        await request_run(self.bus, self.settings, SERVICE, job, tick)
        return tick.run_id

    async def ended(self, job: str, run_id: str) -> Mapping[str, Any]:
        """Return a run when it has ended."""

        async def found() -> Mapping[str, Any] | None:
            run = await self.history.run(job, run_id)
            return run if run and run["ended_at"] else None

        return await eventually(found)

    async def runs(self, job: str, *outcomes: str) -> list[Mapping[str, Any]]:
        """Return the runs of these outcomes, oldest first."""
        with contextlib.suppress(UnavailableError):
            found = await self.history.runs(job, 1000)
            return [run for run in found[::-1] if not outcomes or run["outcome"] in outcomes]
        return []

    async def ran(self, job: str, times: int) -> list[Mapping[str, Any]]:
        """Return the runs that succeeded as soon as there are so many."""

        async def enough() -> list[Mapping[str, Any]] | None:
            found = await self.runs(job, "succeeded")
            return found if len(found) >= times else None

        return await eventually(enough)

    async def rows(self, query: str) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.settings.postgres_url.get_secret_value())
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


def with_jobs(settings: Settings, **changes: Any) -> Settings:
    jobs = JobSettings(**{**settings.jobs.model_dump(), "enabled": True, "lease_seconds": 3, **changes})
    return settings.model_copy(update={"jobs": jobs})


@contextlib.asynccontextmanager
async def mill_on(settings: Settings) -> AsyncIterator[Mill]:
    settings = with_jobs(settings)
    async with (
        connect(settings, "test") as bus,
        open_job_runs(settings.postgres_url.get_secret_value(), 5) as history,
    ):
        await history.prepare()
        await ensure_jobs(bus, settings)
        yield Mill(settings, bus, history)


@pytest.fixture
async def mill(settings: Settings) -> AsyncIterator[Mill]:
    async with in_own_task(mill_on(settings)) as mill:
        yield mill


def job(name: str, work: Callable[[Run], Awaitable[Any]], when: str = NEVER, **more: Any) -> Job:
    return Job(name=name, about="", when=when, work=work, **more)


async def grind(_run: Run) -> Mapping[str, Any]:
    return {"flour": 1}


def seconds_between(runs: Sequence[Mapping[str, Any]]) -> set[timedelta]:
    times = [run["scheduled_at"] for run in runs]
    return {later - earlier for earlier, later in itertools.pairwise(times)}


async def test_two_processes_and_one_killed_at_work_double_and_miss_no_run(mill: Mill) -> None:
    await mill.rows(
        "CREATE TABLE attempts"
        " (run text, attempt int, began timestamptz, ended timestamptz, PRIMARY KEY (run, attempt))"
    )
    processes = [await _process(mill.settings) for _ in range(2)]
    try:
        await mill.ran("grind", 2)

        async def at_work() -> Any:
            runs = await mill.runs("grind", "running")
            return next((run for run in runs if f":{processes[0].pid}:" in run["worker"]), None)

        interrupted = await eventually(at_work)
        os.kill(processes[0].pid, signal.SIGKILL)
        ended = await mill.ended("grind", str(interrupted["id"]))
        await mill.ran("grind", len(await mill.runs("grind", "succeeded")) + 2)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    runs = await mill.runs("grind", "succeeded")
    assert ended["outcome"] == "succeeded"
    assert ended["attempt"] == 2
    assert f":{processes[1].pid}:" in ended["worker"]
    # Every second has its run, and each run is there once.
    assert seconds_between(runs) == {timedelta(seconds=1)}
    # Where a second passes between the job's registration and the broker's first word of it, that one is missed.
    assert {run["missed_before"] for run in runs[1:]} == {0}
    attempts = await mill.rows("SELECT run, began, ended FROM attempts ORDER BY began")
    finished = [one for one in attempts if one["ended"]]
    assert len(finished) == len({one["run"] for one in finished})
    # Never two at once.
    assert all(one["ended"] <= following["began"] for one, following in itertools.pairwise(finished))


async def _process(settings: Settings) -> asyncio.subprocess.Process:
    given = settings.model_dump(mode="json")
    for name in ("nats_url", "postgres_url"):
        given[name] = getattr(settings, name).get_secret_value()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.headrace.job_worker"), cwd=ROOT, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    return process


async def test_a_run_that_fails_is_tried_again_and_its_last_word_is_kept(mill: Mill) -> None:
    attempts: list[int] = []

    async def stumble(run: Run) -> Mapping[str, Any]:
        attempts.append(run.attempt)
        if run.attempt < 3:
            raise JobFailedError(f"stone {run.attempt}", result={"stones": run.attempt})
        return {"flour": 3}

    async def leak(_run: Run) -> None:
        raise KeyError("password hunter2")

    async def sleep(_run: Run) -> None:
        await asyncio.sleep(60)

    jobs = [
        job("stumbles", stumble, retries=2, backoff_seconds=0.1),
        job("gives_up", stumble, retries=1, backoff_seconds=0.1),
        job("breaks", leak),
        job("sleeps", sleep, timeout_seconds=0.2),
    ]
    async with mill.running(*jobs):
        ids = {one.name: await mill.ask(one.name) for one in jobs}
        ended = {name: await mill.ended(name, run_id) for name, run_id in ids.items()}

    found = {name: (run["outcome"], run["attempt"], run["result"], run["error"]) for name, run in ended.items()}
    assert found == {
        "stumbles": ("succeeded", 3, {"flour": 3}, None),
        "gives_up": ("failed", 2, {"stones": 2}, "stone 2"),
        # What a bug says may hold anything; the log of the service has it.
        "breaks": ("failed", 1, None, f"KeyError; the log of {SERVICE} has it"),
        "sleeps": ("failed", 1, None, "did not end within 0.2 s"),
    }
    assert {run["requested_by"] for run in ended.values()} == {"ada"}


async def test_one_run_of_a_job_is_at_work_at_a_time_however_many_are_asked_for(mill: Mill) -> None:
    at_work, most = 0, 0

    async def work(_run: Run) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.05)
        at_work -= 1

    one = job("grind", work)
    async with mill.running(one), mill.running(one):
        ids = [await mill.ask("grind") for _ in range(6)]
        # Asked for twice, it is one.
        await request_run(mill.bus, mill.settings, SERVICE, "grind", Tick(ids[0], MANUAL, datetime.now(UTC)))
        ended = [await mill.ended("grind", run_id) for run_id in ids]

    assert most == 1
    assert [run["attempt"] for run in ended] == [1] * 6
    assert len(await mill.runs("grind")) == 6


async def test_a_paused_job_is_begun_by_nobody_but_who_asks(mill: Mill) -> None:
    async with mill.running(job("grind", grind, "@every 1s")):
        await mill.ran("grind", 1)
        await mill.history.pause("grind", "ada")
        before = {run["id"] for run in await mill.runs("grind")}
        await asyncio.sleep(4.2)
        asked = await mill.ask("grind")
        await mill.ended("grind", asked)
        during = {run["id"] for run in await mill.runs("grind")} - before
        await mill.history.resume("grind")
        resumed = (await mill.ran("grind", len(before) + 3))[-1]

    # One may have been on its way when the pause began.
    assert len(during) <= 2
    assert resumed["cause"] == "schedule"
    # Four were due meanwhile, and nobody missed them. A busy machine may have missed one at another time.
    assert sum(run["missed_before"] for run in await mill.runs("grind")) < 4


async def test_runs_missed_while_no_process_was_there_are_dropped_or_made_up_for_once(mill: Mill) -> None:
    jobs = [
        job("skips", grind, "@every 1s", missed="skip", grace_seconds=2),
        job("makes_up", grind, "@every 1s", missed="once", grace_seconds=2),
    ]
    async with mill.running(*jobs):
        for one in jobs:
            await mill.ran(one.name, 1)
    await asyncio.sleep(4)
    began = datetime.now(UTC)
    async with mill.running(*jobs):
        for one in jobs:
            await _ran_after(mill, one.name, began + timedelta(seconds=1))

    for one in jobs:
        runs = await mill.runs(one.name)
        # Each second is in the history, whatever became of it.
        assert seconds_between(runs) == {timedelta(seconds=1)}
        missed = await mill.runs(one.name, "missed")
        late = [
            run for run in await mill.runs(one.name, "succeeded") if run["started_at"] - run["scheduled_at"] > _GRACE
        ]
        assert missed
        assert len(late) == (1 if one.missed == "once" else 0)


_GRACE = timedelta(seconds=2)


async def _ran_after(mill: Mill, name: str, moment: datetime) -> None:
    async def ran() -> bool:
        return any(run["scheduled_at"] > moment for run in await mill.runs(name, "succeeded"))

    await eventually(ran)


async def test_a_broker_that_was_down_tells_once_and_the_history_counts_the_rest(settings: Settings) -> None:
    with reachable_directory() as directory:
        async with running(directory, ("nats_url",)) as servers:
            settings = settings.model_copy(update={"nats_url": SecretStr(servers.nats_url)})
            async with mill_on(settings) as mill, mill.running(job("grind", grind, "@every 1s", missed="once")):
                await mill.ran("grind", 1)
                await servers.stop("nats")
                await asyncio.sleep(3.2)
                await servers.start("nats")

                async def made_up_for() -> bool:
                    return any(run["missed_before"] for run in await mill.runs("grind", "succeeded"))

                await eventually(made_up_for)
                await mill.ran("grind", len(await mill.runs("grind")) + 1)
                runs = await mill.runs("grind", "succeeded")

    # The runs that are there and those that were missed make up every second.
    seconds = (runs[-1]["scheduled_at"] - runs[0]["scheduled_at"]).total_seconds()
    assert len(runs) + sum(run["missed_before"] for run in runs) == seconds + 1
    assert max(run["missed_before"] for run in runs) >= 2


async def test_what_a_process_has_not_ended_when_it_must_stop_is_taken_up_by_another(mill: Mill) -> None:
    begun = asyncio.Event()

    async def stuck(_run: Run) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with mill.running(job("grind", stuck), drain_seconds=0.1):
        run_id = await mill.ask("grind")
        await begun.wait()
    async with mill.running(job("grind", grind)):
        ended = await mill.ended("grind", run_id)

    assert (ended["outcome"], ended["attempt"], ended["error"]) == ("succeeded", 2, None)


async def test_a_run_that_kills_its_workers_is_given_up(mill: Mill) -> None:
    one = job("grind", grind)
    await mill.history.register(SERVICE, [one])
    tick = Tick(new_id(), MANUAL, datetime.now(UTC))
    for _ in range(3):
        await mill.history.claim(one, tick, "a worker that dies", 0.001)
        await asyncio.sleep(0.01)
    await mill.history.claim(one, tick, "the next", 1)

    run = await mill.history.run("grind", tick.run_id)
    assert run
    assert (run["outcome"], run["error"]) == ("failed", "its worker died 3 times while it ran")


async def test_schedules_are_made_changed_mended_and_dropped_with_their_jobs(mill: Mill) -> None:
    topology = Topology(mill.settings.namespace)
    js = mill.bus.client.jetstream()
    stream = topology.stream(JOBS)

    async def schedules() -> dict[str, tuple[str | None, str | None]]:
        info = await js.stream_info(stream, subjects_filter=topology.job_schedule(SERVICE, "*"))
        found = {}
        for subject in info.state.subjects or {}:
            headers = (await js.get_last_msg(stream, subject)).headers or {}
            found[subject.rpartition(".")[2]] = headers.get("Nats-Schedule"), headers.get("Nats-Schedule-Time-Zone")
        return found

    hourly, off = job("hourly", grind, "@hourly"), job("off", grind, "@hourly", off="not here")
    await ensure_schedules(mill.bus, mill.settings, SERVICE, [hourly, job("old", grind), off])
    assert await schedules() == {"hourly": ("0 0 * * * *", None), "old": ("0 0 0 29 2 *", None)}

    first = (await js.get_last_msg(stream, topology.job_schedule(SERVICE, "hourly"))).seq
    await ensure_schedules(mill.bus, mill.settings, SERVICE, [hourly])
    # What is as it should be is left alone, or what is due this very moment would be put off.
    assert (await js.get_last_msg(stream, topology.job_schedule(SERVICE, "hourly"))).seq == first
    assert set(await schedules()) == {"hourly"}

    await ensure_schedules(mill.bus, mill.settings, SERVICE, [job("hourly", grind, "5 * * * *", zone="Europe/Berlin")])
    assert await schedules() == {"hourly": ("0 5 * * * *", "Europe/Berlin")}

    await js.purge_stream(stream)
    await mend_schedules(mill.bus, mill.settings, SERVICE, [hourly])
    assert await schedules() == {"hourly": ("0 0 * * * *", None)}


async def test_a_stream_that_somebody_deleted_is_made_anew_with_all_that_is_due_from_then_on(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.job_runner._MEND_SECONDS", 0.3)
    async with mill.running(job("grind", grind, "@every 1s", grace_seconds=10)):
        ran = len(await mill.ran("grind", 1))
        await mill.bus.client.jetstream().delete_stream(Topology(mill.settings.namespace).stream(JOBS))
        await mill.ran("grind", ran + 2)


async def test_a_schedule_that_only_the_broker_refuses_names_the_job_and_the_rule(mill: Mill) -> None:
    odd = job("odd", grind)
    object.__setattr__(odd, "schedule", Schedule("0 0 0 L * *", "UTC"))

    with pytest.raises(JobDeclarationError, match=r"Job odd: the broker does not take its schedule \('0 0 0 L \* \*'"):
        await ensure_schedules(mill.bus, mill.settings, SERVICE, [odd])


async def test_old_runs_are_trimmed_but_for_the_last_of_each_job(mill: Mill) -> None:
    async with mill.running(job("grind", grind)):
        ids = [await mill.ask("grind") for _ in range(3)]
        for run_id in ids:
            await mill.ended("grind", run_id)

    assert await mill.history.trim(datetime.now(UTC) + timedelta(days=1)) == 2
    assert [str(run["id"]) for run in await mill.runs("grind")] == ids[-1:]
