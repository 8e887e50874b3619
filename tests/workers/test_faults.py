"""Stores, the bus and workers die: nothing is lost, nothing is doubled, nobody innocent is blamed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js.api import ConsumerInfo
from redis.asyncio import Redis

from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.topology import DEAD, STAGES
from tests.invariants import assert_balanced
from tests.servers import DEADLINE_SECONDS, Servers
from tests.workers.plant import Plant, ended, open_plant, quick, until, until_projected
from workers import service


@contextlib.asynccontextmanager
async def impatient(plant: Plant) -> AsyncIterator[Plant]:
    """A plant whose blocks come again soon after their worker died."""
    async with open_plant(quick(plant.settings, ack_wait_seconds=0.7)) as other:
        yield other


async def submit(plant: Plant, blocks: int, documents: int = 10) -> list[str]:
    ids: list[str] = []
    for block in range(blocks):
        things = ({"name": str(n), "group": "ab"[block % 2], "price": "0.1", "tags": ["t"]} for n in range(documents))
        ids += await plant.submit("things", *things)
    await plant.submit("things", {"name": 5})
    return ids


@pytest.mark.parametrize(
    ("store", "held", "free"),
    [
        ("mongo", ["documents"], ["refine", "facts", "journal", "dead"]),
        ("postgres", ["facts", "journal", "dead"], ["refine", "documents"]),
        ("valkey", [], ["refine", "documents", "facts", "journal", "dead"]),
    ],
)
async def test_a_store_that_is_away_holds_up_its_own_stages_only(
    harmed: Plant, own_servers: Servers, store: str, held: list[str], free: list[str]
) -> None:
    async with harmed.workers():
        ids = await submit(harmed, 5)
        await harmed.drained()
        await own_servers.stop(store)
        ids += await submit(harmed, 10)
        await harmed.until_lags(lambda lags: not any(lags[stage] for stage in free))
        lags = await harmed.lags()
        assert all(lags[stage] for stage in held)
        await own_servers.start(store)
        await harmed.drained()
        await until_projected(harmed)

    assert sorted(await harmed.stored("things")) == sorted(ids)
    assert await harmed.letters() == [("refine", "invalid_document")] * 2
    await assert_balanced(harmed.settings)


@pytest.mark.parametrize("store", ["mongo", "postgres", "nats"])
async def test_a_server_that_is_killed_under_load_loses_and_doubles_nothing(
    harmed: Plant, own_servers: Servers, store: str
) -> None:
    async with impatient(harmed) as plant:
        ids: list[str] = []

        async def load() -> None:
            while not enough.is_set():
                try:
                    ids.extend(await plant.submit("things", {"name": "a", "group": "g"}, {"name": "b", "size": 1}))
                except UnavailableError as error:
                    unknown.append(error.code)
                    await asyncio.sleep(0.05)

        unknown: list[str] = []
        enough = asyncio.Event()
        async with plant.workers():
            loading = asyncio.create_task(load())
            await plant.until_lags(lambda _lags: len(ids) > 40)
            await own_servers.kill(store)
            there = len(ids)
            await plant.until_lags(lambda _lags: len(ids) > there + 40)
            enough.set()
            await loading
            await plant.drained()
            await until_projected(plant)
        stored = set(await plant.stored("things"))

        assert set(ids) <= stored, "what was acknowledged is stored"
        assert len(stored - set(ids)) <= 2 * len(unknown)
        assert await plant.letters() == []
        await assert_balanced(plant.settings)


@pytest.mark.parametrize("step", ["ensure", "register", "open_probes"])
async def test_workers_whose_bus_is_lost_while_they_start_wait_for_it(
    harmed: Plant, own_servers: Servers, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(service, step)
    back = asyncio.Event()

    async def without_bus(*arguments: Any) -> Any:
        monkeypatch.setattr(service, step, real)
        await own_servers.stop("nats")
        try:
            return await real(*arguments)
        finally:
            await own_servers.start("nats")
            back.set()

    monkeypatch.setattr(service, step, without_bus)
    async with harmed.workers():
        await back.wait()
        await until(lambda: asyncio.sleep(0, harmed.bus.connected))
        ids = await submit(harmed, 1)
        await harmed.drained()

    assert sorted(await harmed.stored("things")) == sorted(ids)


@pytest.mark.parametrize("how", ["flushed", "restarted empty"])
async def test_redis_that_lost_its_data_equals_postgres_again(harmed: Plant, own_servers: Servers, how: str) -> None:
    async with harmed.workers():
        await submit(harmed, 3)
        await harmed.drained()
        await until_projected(harmed)
        if how == "flushed":
            async with Redis.from_url(harmed.settings.redis_url.get_secret_value()) as client:
                await client.flushall()
        else:
            await own_servers.stop("valkey")
            for folder in own_servers.directory.rglob("appendonlydir"):
                shutil.rmtree(folder)
            await own_servers.start("valkey")
        await until_projected(harmed)

    async with Redis.from_url(harmed.settings.redis_url.get_secret_value()) as client:
        assert await client.keys(f"*{harmed.settings.namespace}things*")


async def test_a_block_that_comes_again_while_its_store_is_away_loses_no_document(
    harmed: Plant, own_servers: Servers
) -> None:
    async with impatient(harmed) as plant:
        dying = await plant.spawn("documents")
        async with plant.workers("documents"):
            await until(lambda: asked_by_both(plant, "documents"))
            os.kill(own_servers.pids["mongo"], signal.SIGSTOP)
            for _ in range(8):
                await submit(plant, 1, documents=3)
            await plant.work("refine", "journal", "facts", "dead")
            await until_held(plant, "documents")
            await ended(dying, signal.SIGKILL)
            await until_given_again(plant, "documents")
            tried = retries()
            await until(lambda: asyncio.sleep(0, retries() > tried + 8))
        # Those were told to stop, and gave everything back.
        os.kill(own_servers.pids["mongo"], signal.SIGCONT)
        await plant.work("documents")

        assert await plant.letters() == [("refine", "invalid_document")] * 8
        assert len(await plant.stored("things")) == 24
        await assert_balanced(plant.settings)


def retries() -> float:
    """Return how often this process has tried a batch of documents again."""
    labels = {"stage": "documents", "reason": "mongo_unavailable"}
    return telemetry.REGISTRY.get_sample_value("headrace_stage_retries_total", labels) or 0


async def delivered(plant: Plant, stage: str) -> ConsumerInfo:
    js = plant.bus.client.jetstream()
    info: ConsumerInfo = await js.consumer_info(plant.topology.stream(STAGES[stage].stream), stage)
    return info


async def until_held(plant: Plant, stage: str) -> None:
    """Return when a worker has blocks in its hands."""

    async def held() -> bool:
        return bool((await delivered(plant, stage)).num_ack_pending)

    await until(held)


async def asked_by_both(plant: Plant, stage: str) -> bool:
    """Return whether two workers ask for blocks: each has two pulls open."""
    return ((await delivered(plant, stage)).num_waiting or 0) > 2


async def until_given_again(plant: Plant, stage: str) -> None:
    """Return when a worker has blocks that another had before."""

    async def given_again() -> bool:
        return bool((await delivered(plant, stage)).num_redelivered)

    await until(given_again)


async def assert_nothing_is_given_twice(plant: Plant) -> None:
    for name in STAGES:
        info = await delivered(plant, name)
        assert (info.num_ack_pending, info.num_redelivered) == (0, 0), name
        assert info.delivered is not None
        assert info.delivered.consumer_seq == info.delivered.stream_seq, f"{name} was given a block twice"


async def test_a_document_that_kills_its_worker_is_found_and_everything_else_stored(harmed: Plant) -> None:
    async with impatient(harmed) as plant:
        ids = await submit(plant, 3)
        poison = [{"name": "x"}, {"name": "y"}, {"name": "poison", "mode": "die"}, {"name": "z"}]
        mixed = await plant.submit("things", *poison)
        ids += await submit(plant, 3)
        deaths = 0
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            while (await plant.lags())["refine"]:
                worker = await plant.spawn("refine")
                settled = asyncio.create_task(plant.drained("refine"))
                gone = asyncio.create_task(worker.wait())
                await asyncio.wait({settled, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    deaths += 1
                    assert worker.returncode == 3
                else:
                    assert await ended(worker, signal.SIGTERM) == 0
                settled.cancel()
        await plant.work()

        assert 1 <= deaths <= 4
        assert await plant.letters() == [("refine", "attempts_exhausted")] + [("refine", "invalid_document")] * 2
        assert sorted(await plant.stored("things")) == sorted([*ids, *mixed[:2], mixed[3]])
        await assert_balanced(plant.settings)


async def test_a_worker_that_is_killed_at_work_leaves_nothing_undone_or_done_twice(harmed: Plant) -> None:
    async with impatient(harmed) as plant:
        ids = await submit(plant, 60)
        worker = await plant.spawn(*STAGES)
        await plant.until_lags(lambda lags: 0 < lags["refine"] < 61 or lags["facts"] > 0)
        await ended(worker, signal.SIGKILL)
        ids += await submit(plant, 5)
        await plant.work()

        assert sorted(await plant.stored("things")) == sorted(ids)
        assert await plant.letters() == [("refine", "invalid_document")] * 2
        await assert_balanced(plant.settings)


async def test_a_stop_settles_what_was_pulled_and_nothing_is_given_twice(harmed: Plant) -> None:
    ids = await submit(harmed, 150)
    async with harmed.workers():
        await harmed.until_lags(lambda lags: lags["documents"] > 0 or lags["refine"] == 0)
    await assert_nothing_is_given_twice(harmed)
    await harmed.work()

    assert sorted(await harmed.stored("things")) == sorted(ids)
    await assert_balanced(harmed.settings)


async def test_sigterm_lets_a_worker_finish_with_nothing_given_twice(harmed: Plant) -> None:
    worker = await harmed.spawn(*STAGES)
    ids = await submit(harmed, 40)
    await harmed.until_lags(lambda lags: lags["refine"] < 41)
    assert await ended(worker, signal.SIGTERM) == 0
    await assert_nothing_is_given_twice(harmed)
    await harmed.work()

    assert sorted(await harmed.stored("things")) == sorted(ids)
    await assert_balanced(harmed.settings)


async def test_a_full_stream_of_dead_letters_holds_refine_up_and_loses_none(plant: Plant) -> None:
    refused = telemetry.stage_retries.labels("refine", "stream_full")
    tries = refused._value.get()
    js = plant.bus.client.jetstream()
    async with plant.workers():
        # Only once the workers have looked at their streams' sizes.
        await plant.submit("things", {"name": "a"})
        await plant.drained()
        config = (await js.stream_info(plant.topology.stream(DEAD))).config
        room = config.max_bytes
        config.max_bytes = 1 << 16
        await js.update_stream(config)
        for _ in range(2):
            await plant.submit("things", *({"nmae": "x" * 1000} for _ in range(100)), {"name": "a"})

        async def held() -> bool:
            return bool(refused._value.get() > tries and (await plant.lags())["refine"])

        await until(held)
        config.max_bytes = room
        await js.update_stream(config)
        await plant.drained()

    assert len(await plant.letters()) == 200
    assert len(await plant.stored("things")) == 3
    await assert_balanced(plant.settings)
