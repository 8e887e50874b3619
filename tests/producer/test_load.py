"""Whole runs against a stand-in that behaves, and one that does not."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import producer.load
import producer.senders
from headrace.errors import RequestError, UnavailableError
from producer.client import CLIENTS
from producer.load import run
from producer.load_config import LoadConfig, Progress
from producer.load_result import LoadResult, client_limits
from producer.prove import Stores
from producer.schedule import Rate
from producer.senders import open_sender
from producer.tally import ACCEPT, SERVICE, STORED, Counts, Interval, Totals
from producer.target import Headrace
from producer.thresholds import parse_threshold
from tests.producer.stand_in import PIPELINE, FakeStore, StandIn, drop, garbage, problem, stand_in

THINGS = [b'{"n":%d}' % number for number in range(50)]


async def load(server: StandIn, **options: Any) -> LoadResult:
    settings = {"bodies": THINGS, "concurrency": 8, "processes": 1, "client": "raw", "settle_seconds": 0, **options}
    return await run(LoadConfig(server.headrace, PIPELINE, **settings))


def assert_every_document_has_one_outcome(result: LoadResult) -> None:
    counts = result.totals.counts
    assert counts.sent == counts.accepted + counts.refused + counts.failed
    assert sum(result.totals.refused.values()) == counts.refused
    assert sum(result.totals.failed.values()) == counts.failed


@pytest.mark.parametrize("client", CLIENTS)
async def test_exactly_the_requests_asked_for_are_sent_each_under_its_own_key(client: str) -> None:
    async with stand_in() as server:
        result = await load(server, requests=300, client=client, processes=2)

    assert (result.totals.counts.sent, result.totals.counts.accepted, server.requests) == (300, 300, 300)
    assert len(set(server.keys)) == 300
    assert all(key.startswith(f"{result.run_id}-") for key in server.keys)
    assert result.processes == 2
    assert (result.proof.level, result.proof.stored, result.proof.balanced) == ("ledger", 300, True)


async def test_a_bulk_run_sends_every_row_of_its_source_once() -> None:
    async with stand_in() as server:
        result = await load(server, bulk=8)

    assert result.totals.counts.sent == len(THINGS)
    assert sorted(body["n"] for body in server.bodies) == list(range(50))
    assert result.total_requests == 7
    assert_every_document_has_one_outcome(result)


async def test_in_the_open_model_latency_counts_from_when_a_request_was_due() -> None:
    async def stall(number: int, _: web.Request) -> None:
        if number == 20:
            await asyncio.sleep(0.6)

    async with stand_in(stall) as server:
        result = await load(server, requests=120, rate=Rate(100, 100), concurrency=1, sample=False)

    # 60 requests came due while the one connection was stuck. On average they waited for half of the stall.
    latencies = result.totals.latencies
    assert result.totals.counts.waited_requests >= 50
    assert latencies[ACCEPT].at(85) > 0.25
    # Seen from when they were sent, all but one were quick: what a closed model would have shown.
    assert latencies[SERVICE].at(85) < latencies[ACCEPT].at(85) / 2
    assert any("every connection was busy" in note for note in result.notes)


async def test_arrivals_do_not_wait_for_earlier_answers() -> None:
    waiting = 0
    all_there = asyncio.Event()

    async def hold(number: int, _: web.Request) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 40:
            all_there.set()
        await all_there.wait()

    async with stand_in(hold) as server:
        # Would never end if the second request waited for the first.
        result = await load(server, requests=40, rate=Rate(400, 400), concurrency=40)

    assert result.totals.counts.accepted == 40


async def test_the_time_to_stored_is_sampled_and_the_samples_are_counted_once() -> None:
    async with stand_in() as server:
        result = await load(server, requests=200, bulk=5)

    counts = result.totals.counts
    assert counts.sampled_requests == 20
    assert result.totals.latencies[STORED].count == 20
    assert counts.sent == counts.accepted == 1000
    assert len(server.ids) == 1000


@pytest.mark.parametrize("bulk", [1, 5])
async def test_refused_documents_are_counted_by_reason_and_named_by_row(tmp_path: Path, bulk: int) -> None:
    rows = [b'{"n":%d,"bad":true}' % number if number % 5 == 0 else b'{"n":%d}' % number for number in range(1, 51)]
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join([*rows, b"{ this is no JSON"]))
    async with stand_in() as server:
        result = await load(
            server, bodies=None, file=source, bulk=bulk, refused_file=tmp_path / "refused.jsonl", sample=False
        )

    assert result.totals.counts.refused == 11
    assert dict(result.totals.refused) == {
        "invalid_document /lines/*/amount missing": 10,
        "invalid_document json_invalid": 1,
    }
    lines = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == [*range(5, 51, 5), 51]
    assert all("bad" not in line for line in lines)
    assert_every_document_has_one_outcome(result)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("bulk", [1, 4])
async def test_every_document_has_one_outcome_whatever_the_server_does(client: str, bulk: int) -> None:
    dice = random.Random(7)
    done = asyncio.Event()

    async def misbehave(_: int, request: web.Request) -> web.StreamResponse | None:
        match dice.randrange(12):
            case 0:
                return await drop(request)
            case 1:
                return await garbage(request)
            case 2:
                return problem(503, "overloaded", [], retry_after="1")
            case 3:
                return problem(503, "outcome_unknown", [], retry_after="1")
            case 4:
                return web.Response(status=202, text="thank you")
            case 5:
                return web.Response(status=500)
            case 6:
                return web.json_response({"id": 5, "items": "none"}, status=202)
            case 7 if dice.random() < 0.2:
                await done.wait()
        return None

    async with stand_in(misbehave) as server:
        result = await load(server, requests=300, client=client, bulk=bulk, timeout_seconds=0.5, sample=False)
        done.set()

    counts = result.totals.counts
    assert_every_document_has_one_outcome(result)
    assert counts.sent == 300 * bulk
    # What hung was stored after the client had given up: its outcome is unknown, not accepted.
    assert counts.accepted < len(server.ids) <= counts.accepted + counts.unknown
    assert {"connection_lost", "not_http", "timeout", "bad_answer", "outcome_unknown", "http_500"} == set(
        result.totals.failed
    )
    assert set(result.totals.refused) == {"overloaded"}
    assert counts.unknown == counts.failed
    assert result.proof.balanced


async def test_with_retry_a_document_is_sent_again_under_its_key_until_it_is_accepted() -> None:
    attempts: dict[str, int] = {}

    async def refuse_twice(_: int, request: web.Request) -> web.StreamResponse | None:
        key = request.headers["Idempotency-Key"]
        attempts[key] = attempts.get(key, 0) + 1
        if attempts[key] == 1:
            return problem(503, "overloaded", [], retry_after="0")
        return await drop(request) if attempts[key] == 2 else None

    async with stand_in(refuse_twice) as server:
        result = await load(server, requests=30, retry=True)

    counts = result.totals.counts
    assert (counts.sent, counts.accepted, counts.retried_requests) == (30, 30, 60)
    assert set(attempts.values()) == {3}


async def test_a_run_that_is_stopped_still_counts_and_proves_what_it_sent() -> None:
    stop = asyncio.Event()

    async def stop_at(number: int, _: web.Request) -> None:
        if number == 100:
            stop.set()

    async with stand_in(stop_at) as server:
        config = LoadConfig(server.headrace, PIPELINE, duration_seconds=600, bodies=THINGS, concurrency=4, processes=1)
        result = await run(config, stop=stop)

    assert result.totals.counts.accepted >= 100
    assert result.proof.balanced
    assert_every_document_has_one_outcome(result)


async def test_a_client_process_that_dies_leaves_no_document_without_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    original = open_sender

    @asynccontextmanager
    async def remember() -> AsyncIterator[asyncio.subprocess.Process]:
        async with original() as process:
            started.append(process)
            yield process

    monkeypatch.setattr(producer.senders, "open_sender", remember)

    stop = asyncio.Event()

    def kill_after_first_report(progress: Progress) -> None:
        if progress.phase == "send" and not stop.is_set():
            started[0].kill()
            stop.set()  # the other one, so that the run is over; this one is beyond hearing it

    async with stand_in() as server:
        config = LoadConfig(
            server.headrace, PIPELINE, duration_seconds=600, bodies=THINGS, concurrency=4, processes=2, settle_seconds=0
        )
        result = await run(config, watch=kill_after_first_report, stop=stop)

    assert_every_document_has_one_outcome(result)
    assert result.client_limited
    assert any("died" in limit for limit in result.limits)
    # Documents it had sent after its last report are in the books, but nobody was told so.
    assert result.proof.lost == 0


async def test_a_loss_and_a_double_in_the_stores_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_in() as server:
        sinks = [FakeStore("documents"), FakeStore("facts")]

        @asynccontextmanager
        async def fakes(*_: Any, **__: Any) -> AsyncIterator[Stores]:
            yield Stores(sinks, FakeStore("dead"))

        def fill(progress: Progress) -> None:
            if progress.totals.counts.accepted == 50:
                ids = [uuid.UUID(identity).bytes for identity in server.ids.values()]
                sinks[0].held, sinks[1].held = [*ids, ids[0]], ids[:-1]

        monkeypatch.setattr(producer.load, "open_stores", fakes)
        config = LoadConfig(
            Headrace(server.url, "t", "mongodb://example.invalid", "postgresql://example.invalid"),
            PIPELINE,
            requests=50,
            bodies=THINGS,
            settle_seconds=0,
            thresholds=[parse_threshold("lost==0"), parse_threshold("accepted==50")],
        )
        result = await run(config, watch=fill)

    assert (result.proof.level, result.proof.stored, result.proof.lost, result.proof.duplicated) == ("ids", 49, 1, 1)
    assert [one.passed for one in result.thresholds] == [False, True]
    assert not result.passed


async def test_a_ledger_that_lost_a_document_is_found_without_the_stores() -> None:
    async with stand_in() as server:
        server.lose = 2
        result = await load(server, requests=50)

    assert (result.proof.lost, result.proof.balanced) == (2, False)


async def test_a_pipeline_that_is_not_there_and_a_gateway_that_is_away_are_told_apart() -> None:
    async with stand_in() as server:
        with pytest.raises(RequestError) as unknown:
            await run(LoadConfig(server.headrace, "nothing", requests=1))
        gone = server.headrace
    with pytest.raises(UnavailableError, match="headrace up"):
        await run(LoadConfig(gone, PIPELINE, requests=1))
    assert unknown.value.code == "unknown_pipeline"


def totals(counts: Counts, *, cpu_seconds: float = 1.0, starved_seconds: float = 0.0, final: bool = True) -> Totals:
    found = Totals()
    found.add(Interval(0, 10.0, counts, {}, {}, {}, cpu_seconds, starved_seconds, final=final))
    return found


@pytest.mark.parametrize(
    ("run_totals", "processes", "said"),
    [
        (totals(Counts(requests=1000, late_requests=50)), 1, None),
        (totals(Counts(requests=1000, late_requests=51)), 1, "10 ms late"),
        (totals(Counts(requests=1000), cpu_seconds=9.4), 1, None),
        (totals(Counts(requests=1000), cpu_seconds=9.6), 1, "used 96% of a CPU"),
        (totals(Counts(requests=1000), cpu_seconds=5, starved_seconds=4.7), 1, "no CPU left"),
        (totals(Counts(requests=1000)), 2, "died"),
        # All it had sent was answered, so that no document tells of its death.
        (totals(Counts(requests=1000, sent=1000, accepted=1000), final=False), 1, "died"),
        # A slow server is not the client's doing.
        (totals(Counts(requests=1000, waited_requests=900)), 1, None),
    ],
)
def test_the_client_says_when_it_was_the_limit(run_totals: Totals, processes: int, said: str | None) -> None:
    limits = client_limits(run_totals, processes)

    assert bool(limits) is (said is not None)
    assert said is None or said in limits[0]
