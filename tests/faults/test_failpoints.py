"""Death by SIGKILL between any two effects: nothing is lost, nothing is doubled, every counter is exact."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import redis.asyncio
from pymongo import AsyncMongoClient

from headrace import failpoints
from headrace.failpoints import POINTS
from headrace.settings import Settings
from headrace.topology import CLEAN
from tests.faults.conftest import STAGES, Books
from tests.faults.producer import sending
from tests.faults.stack import ROOT, Stack
from tests.invariants import assert_balanced
from tests.waiting import eventually
from tests.workers.plant import Plant, ended, open_plant, quick

# A point between the stores and the ack: what it interrupted must have come again.
ROUNDS: Final = (
    ("gateway:commit.sealed", "workers:runner.taken.refine", "workers:documents.inserted", "workers:facts.recorded",
     "workers:runner.taken.journal", "workers:dead.noted"),
    ("gateway:publisher.sent", "workers:settle.judged.refine", "workers:settle.judged.documents",
     "workers:facts.projected", "workers:journal.noted", "workers:runner.taken.dead"),
    ("gateway:publisher.confirmed", "workers:settle.forwarded", "workers:settle.published.documents",
     "workers:settle.judged.facts"),
    ("gateway:commit.published", "workers:settle.buried", "workers:settle.acknowledged.documents",
     "workers:settle.published.facts"),
    # Dies at what came again, too.
    ("workers:settle.published.refine", "workers:runner.probing.refine", "workers:runner.taken.documents",
     "workers:runner.probing.documents", "workers:runner.taken.facts", "workers:runner.probing.facts"),
    ("workers:settle.acknowledged.refine", "workers:settle.acknowledged.facts", "workers:projection.repaired"),
    ("workers:publisher.sent",),
    ("workers:publisher.confirmed",),
)  # fmt: skip
# Its own test, below: it takes an entity.
ENTITY_POINT: Final = "mongo.versions_inserted"
# Theirs too: commands that make a store anew or repair it, each with what dies at the point.
COMMANDS: Final = {
    **{f"rebuild.{point}.{store}": ("rebuild", store) for point in ("made", "swapped")
       for store in ("redis", "documents", "facts")},
    "repair.counted": ("reconcile", "--repair"),
}  # fmt: skip
_SECONDS: Final = 60
# No store is away here, and one that is slow is to be waited for.
SETTINGS: Final = {"HEADRACE_WORKERS__STORE_TIMEOUT_SECONDS": "20"}


@pytest.mark.parametrize("points", ROUNDS, ids=lambda points: "-".join(point.partition(":")[2] for point in points))
async def test_death_at_every_point_between_two_effects_loses_and_doubles_nothing(
    stack: Stack, books: Books, points: Sequence[str]
) -> None:
    async with books.producers(singles=6, bulks=1) as producers:
        before = await stack.redelivered()
        stack.arm(*(f"{point}=kill@1" for point in points))
        if "workers:projection.repaired" in points:
            async with redis.asyncio.from_url(stack.stores.redis_url) as client:
                await client.flushall()
        async with sending(producers):
            await _all_died(stack)
        assert await stack.caught_up(_SECONDS) is not None, "never drained"
        after = await stack.redelivered()
        for stage in STAGES:
            if any(_must_come_again(point, stage) for point in points):
                assert after[stage] > before[stage], f"{stage} was given nothing again"
    await books.hold()


async def _all_died(stack: Stack) -> None:
    """Return once somebody has died at each point."""
    try:
        async with asyncio.timeout(_SECONDS):
            while stack.armed():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"nobody came to {stack.armed()}") from None


def _must_come_again(point: str, stage: str) -> bool:
    """Return whether a death there leaves a block of the stage unacknowledged for sure."""
    if "acknowledged" in point or point.startswith("gateway"):
        return False
    ours = {"settle.forwarded": "refine", "settle.buried": "refine"}
    name = point.partition(":")[2]
    return name.startswith(f"{stage}.") or name.endswith(f".{stage}") or ours.get(name) == stage


async def test_an_entity_whose_worker_dies_between_its_version_and_its_newest_is_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = tmp_path / "failpoints"
    armed.write_text(f"workers:{ENTITY_POINT}=kill@1\n")
    monkeypatch.setenv("HEADRACE_FAILPOINTS", str(armed))
    async with open_plant(quick(settings, ack_wait_seconds=0.7)) as plant:
        await plant.submit("members", {"number": 1, "status": "new"}, {"number": 2})
        await plant.work("refine", "facts", "journal", "dead")
        worker = await plant.spawn("documents")
        assert await ended(worker) == -signal.SIGKILL
        await plant.work()

        assert armed.read_text() == ""
        assert await plant.letters() == []
        newest = await plant.fetch("SELECT number, status FROM facts.members ORDER BY number")
        assert [tuple(row) for row in newest] == [(1, "new"), (2, "new")]


@pytest.mark.long
@pytest.mark.parametrize("point", COMMANDS)
async def test_a_command_that_dies_at_work_leaves_nothing_that_the_next_reconciliation_does_not_mend(
    settings: Settings, tmp_path: Path, point: str
) -> None:
    what, *more = COMMANDS[point]
    armed = tmp_path / "failpoints"
    moment = "2026-01-31T12:59:00.000000Z"
    async with open_plant(quick(settings)) as plant:
        await plant.submit("things", {"name": "a"}, {"name": "b"}, {"bad": 1}, times=[moment] * 3)
        if what == "reconcile":
            await plant.work("refine", "journal", "dead")
            await _pass_over(plant)
        else:
            await plant.work()
        environment = {**os.environ, **plant.environment, "HEADRACE_FAILPOINTS": str(armed)}

        async def run(*arguments: str) -> tuple[int | None, str]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cli.main", *arguments),
                cwd=tmp_path,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            told, _ = await process.communicate()
            return process.returncode, told.decode()

        armed.write_text(f"cli:{point}=kill@1\n")
        code, told = await run(what, *more, "things")
        assert (code, armed.read_text()) == (-signal.SIGKILL, ""), told
        async with plant.workers():
            await plant.submit("things", {"name": "c"}, times=[moment])
            await plant.drained()
            await eventually(lambda: _projected(plant))
            code, told = await run("reconcile", "--repair", "--counts")
            assert code == 0, told
        assert await _shadows(plant) == []
        await assert_balanced(plant.settings)


async def _projected(plant: Plant) -> bool:
    [row] = await plant.fetch("SELECT dirty = clean AS done FROM projection")
    return bool(row["done"])


async def _pass_over(plant: Plant) -> None:
    """Let both sinks settle what is before them and store nothing, as stores do that lose what they had."""
    js = plant.bus.client.jetstream()
    for sink in ("documents", "facts"):
        consumer = await js.pull_subscribe_bind(sink, stream=plant.topology.stream(CLEAN))
        for message in await consumer.fetch(1, timeout=10):
            await message.ack_sync()


async def _shadows(plant: Plant) -> list[str]:
    """Return what is left of shadows in any store."""
    settings = plant.settings
    rows = await plant.fetch("SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'headrace_shadow%'")
    found = [str(row["name"]) for row in rows]
    client: AsyncMongoClient[dict[str, object]]
    async with AsyncMongoClient(settings.mongo_url.get_secret_value()) as client:
        names = await client.get_default_database().list_collection_names()
        found += [name for name in names if name.startswith("shadow")]
    async with redis.asyncio.from_url(settings.redis_url.get_secret_value()) as values:
        found += [key.decode() async for key in values.scan_iter(f"*{settings.namespace}shadow*")]
    return found


def test_every_point_in_the_code_is_listed_and_somebody_dies_at_it() -> None:
    in_code = {point for package in ("headrace", "workers", "gateway", "analytics", "auth") for point in _hits(package)}
    died_at = {ENTITY_POINT}
    for points in (*ROUNDS, tuple(f"cli:{point}" for point in COMMANDS)):
        for point in points:
            name = point.partition(":")[2]
            died_at.add(name if name in POINTS else name.rpartition(".")[0])

    assert in_code == set(POINTS)
    assert died_at == set(POINTS)


def _hits(package: str) -> Iterator[str]:
    """Yield the points that a package's code names: the first argument of `failpoints.hit`, or what is handed on."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in POINTS and path.name != "failpoints.py":
                yield str(node.value)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hit":
                [point, *_] = node.args
                if isinstance(point, ast.Constant):
                    yield str(point.value)


def test_a_point_without_a_file_costs_nothing_and_does_nothing(tmp_path: Path) -> None:
    failpoints.arm("gateway", None)
    failpoints.hit("commit.sealed")


def test_a_point_acts_at_its_time_once_and_for_its_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []
    monkeypatch.setattr("os.kill", lambda _pid, number: deaths.append(number))
    file = tmp_path / "points"
    file.write_text("workers:settle.judged.refine=kill@2\ngateway:commit.sealed=kill@1\nnonsense\n")
    failpoints.arm("workers", file)
    try:
        for point, stage in [("settle.judged", "facts"), ("commit.sealed", ""), ("settle.judged", "refine")]:
            failpoints.hit(point, stage)
        assert deaths == []
        failpoints.hit("settle.judged", "refine")
        failpoints.hit("settle.judged", "refine")
    finally:
        failpoints.arm("workers", None)

    assert deaths == [signal.SIGKILL]
    assert file.read_text().split() == ["gateway:commit.sealed=kill@1", "nonsense"]
