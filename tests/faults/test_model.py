"""A model of the path behind the door: refine, both sinks and settle over servers that fail in every way they can.

Each effect may be lost, may be applied and then time out, may be done in part, or may be the last thing that the
process did. Blocks come in any order and again. In the end nothing is lost, doubled or miscounted.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.document import Block, Envelope, dead_letters, derived_id, digest, envelopes, raw_line
from headrace.errors import UnavailableError
from headrace.messaging.consumer import Delivery
from headrace.messaging.publisher import PubAck
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.rollup import Row, RowKey
from headrace.settings import BlockSettings, RetrySettings, WorkerSettings
from headrace.storage.facts_table import Fact, Known
from headrace.storage.redis import Projected
from headrace.topology import Topology
from workers.documents import StoreDocuments
from workers.facts import StoreFacts
from workers.projection import repair
from workers.refine import Refine
from workers.runner import Runner
from workers.settle import Settler

TIME = "2026-01-01T00:00:00.000000Z"
FINE, LOST, APPLIED, PARTLY, DIES_BEFORE, DIES_AFTER = "fine", "lost", "applied", "partly", "dies before", "dies after"
MISHAPS = (FINE, LOST, APPLIED, PARTLY, DIES_BEFORE, DIES_AFTER)
SINKS = ("documents", "facts")


class DeathError(BaseException):
    """The process ends here."""


class Fate:
    """Decides what becomes of each effect, from a list that Hypothesis drew."""

    def __init__(self) -> None:
        self.coming: deque[str] = deque()

    async def effect(self, whole: Callable[[], Any], part: Callable[[], Any] = lambda: None) -> Any:
        """Have an effect, as it may be.

        Raises:
            UnavailableError: it was lost, or done in part or whole without word of it.
            DeathError: the process ended before or after it.
        """
        match self.coming.popleft() if self.coming else FINE:
            case "lost":
                raise UnavailableError("lost")
            case "applied":
                whole()
                raise UnavailableError("applied, and no word of it", code="outcome_unknown")
            case "partly":
                part()
                raise UnavailableError("a part of it", code="outcome_unknown")
            case "dies before":
                raise DeathError
            case "dies after":
                whole()
                raise DeathError
        return whole()


class FakeMongo:
    """{id: (digest, block)}; an id is never written over."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.rows: dict[str, tuple[str, str, dict[str, Any]]] = {}

    async def insert(
        self, _pipeline: Pipeline, rows: Sequence[tuple[Envelope, str, dict[str, Any]]]
    ) -> dict[str, tuple[str, str]]:
        def write(some: Sequence[tuple[Envelope, str, dict[str, Any]]]) -> dict[str, tuple[str, str]]:
            known = {e.id: self.rows[e.id][:2] for e, _, _ in some if e.id in self.rows}
            for envelope, block, document in some:
                self.rows.setdefault(envelope.id, (envelope.sha256, block, document))
            return known

        found = await self._fate.effect(lambda: write(rows), lambda: write(rows[: len(rows) // 2]))
        return cast(dict[str, tuple[str, str]], found)


class FakePostgres:
    """Facts and rollups, all of a transaction or none; adds counts and sums alone."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.rows: dict[str, Fact] = {}
        self.totals: dict[RowKey, Projected] = {}
        self.repeats: set[tuple[str, str, int]] = set()
        self.dirty = self.clean = 0
        self.run = ""

    async def record(
        self, _pipeline: Pipeline, facts: Sequence[Fact], counted: Callable[[set[str]], Mapping[RowKey, Row]]
    ) -> tuple[list[Projected], dict[str, Known]]:
        def commit() -> tuple[list[Projected], dict[str, Known]]:
            known = {
                f.envelope.id: Known(there.envelope.sha256, there.block, there.envelope.ordinal)
                for f in facts
                if (there := self.rows.get(f.envelope.id))
            }
            new = {f.envelope.id: f for f in facts if f.envelope.id not in known}
            changed = [self._add(place, row) for place, row in counted(set(new)).items()]
            self.rows |= new
            return changed, known

        return cast(tuple[list[Projected], dict[str, Known]], await self._fate.effect(commit))

    def _add(self, place: RowKey, row: Row) -> Projected:
        old = self.totals.get(place)
        value = row.value if old is None or old.value is None else old.value + (row.value or 0)
        count, version = (row.count, 1) if old is None else (old.count + row.count, old.version + 1)
        bucket = int(row.bucket.timestamp())
        self.totals[place] = Projected(row.metric, row.key, bucket, count, value, row.at, row.data, version)
        return self.totals[place]

    async def rollups(self, _pipeline: str, places: Sequence[RowKey]) -> list[Projected]:
        found = await self._fate.effect(lambda: [self.totals[place] for place in places if place in self.totals])
        return cast(list[Projected], found)

    async def record_repeats(self, _pipeline: str, repeats: Sequence[tuple[str, str, int]]) -> None:
        await self._fate.effect(lambda: self.repeats.update(repeats))

    async def projection_failed(self) -> None:
        def note() -> None:
            self.dirty += 1

        await self._fate.effect(note)

    async def projection(self) -> tuple[str, int, int]:
        return cast(tuple[str, int, int], await self._fate.effect(lambda: (self.run, self.dirty, self.clean)))

    async def projection_made(self, run: str, dirty: int) -> None:
        def note() -> None:
            self.run, self.clean = run, dirty

        await self._fate.effect(note)

    async def all_rollups(self, _pipeline: str) -> AsyncIterator[list[Projected]]:
        yield list(self.totals.values())


class FakeRedis:
    """Absolute values with a version guard."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.rows: dict[tuple[str, str, int], Projected] = {}
        self.run = "1"

    async def project(self, _pipeline: str, rows: Sequence[Projected]) -> None:
        def write(some: Sequence[Projected]) -> None:
            for row in some:
                place = (row.metric, row.key, row.bucket)
                if place not in self.rows or self.rows[place].version < row.version:
                    self.rows[place] = row

        await self._fate.effect(lambda: write(rows), lambda: write(rows[: len(rows) // 2]))

    async def run_id(self) -> str:
        return cast(str, await self._fate.effect(lambda: self.run))


class FakeStreams:
    """CLEAN and DEAD. Remembers message ids until it forgets them."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.clean: list[Block] = []
        self.dead: list[Block] = []
        self.remembered: set[str] = set()

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> PubAck:
        def store() -> PubAck:
            if headers["Nats-Msg-Id"] not in self.remembered:
                self.remembered.add(headers["Nats-Msg-Id"])
                stream = self.clean if subject.startswith("clean.") else self.dead
                stream.append(Block(headers["Headrace-Block"], "ticks", body, int(headers["Headrace-Count"])))
            return PubAck()

        return cast(PubAck, await self._fate.effect(store))


class FakeConsumer:
    """Takes acks; one that is lost leaves its block to come again."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.settled: set[int] = set()

    async def _settle(self, delivery: Delivery, word: bytes) -> None:
        assert word == b"+ACK"
        # nats-py tells nobody that an ack was lost.
        with suppress(UnavailableError):
            await self._fate.effect(lambda: self.settled.add(int(delivery.reply)))


class Nobody:
    """Stands where nothing happens that matters here: news to waiting clients, probes of poison."""

    def __getattr__(self, _name: str) -> Any:
        return self

    async def publish(self, *_: object) -> None:
        return None


@lru_cache(maxsize=1)
def ticks() -> Pipeline:
    return load_pipelines(Path(__file__).parent / "pipelines")["ticks"]


@cache
def document(number: int, variant: int) -> bytes:
    fields = {"name": f"n{number}", "group": "ab"[number % 2], "size": 10 * number + variant, "filler": ""}
    return json.dumps({**fields, "refused": number == 5}).encode()


class BehindTheDoor(RuleBasedStateMachine):
    """The path: what was accepted, where each block is, what each server holds."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.fate = Fate()
        self.raw: list[Block] = []
        self.accepted: list[tuple[str, str, int, str]] = []  # block, id, ordinal, digest
        self.mongo, self.postgres = FakeMongo(self.fate), FakePostgres(self.fate)
        self.redis, self.streams = FakeRedis(self.fate), FakeStreams(self.fate)
        self.consumers = {stage: FakeConsumer(self.fate) for stage in ("refine", *SINKS)}
        settler = Settler(cast(Any, Nobody()), cast(Any, self.streams), Topology(), BlockSettings(max_documents=3))
        stages = {
            "refine": Refine(),
            "documents": StoreDocuments(cast(Any, self.mongo)),
            "facts": StoreFacts(cast(Any, self.postgres), cast(Any, self.redis)),
        }
        self.runners = {
            name: Runner(
                cast(Any, stage),
                cast(Any, self.consumers[name]),
                settler,
                cast(Any, Nobody()),
                {"ticks": ticks()},
                WorkerSettings(),
                RetrySettings(),
            )
            for name, stage in stages.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self._finish()
            self.loop.close()

    @rule(documents=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=5))
    def accept(self, documents: list[tuple[int, int]]) -> None:
        """Accept a block; its documents' ids may be known, and now and then with other bytes."""
        block = derived_id("block", str(len(self.raw)))
        lines = []
        seen: dict[str, int] = {}
        for number, variant in documents:
            # Mostly the same bytes under an id.
            body, one = document(number, variant // 9), derived_id(str(number))
            self.accepted.append((block, one, seen.get(one, 0), digest(body)))
            seen[one] = seen.get(one, 0) + 1
            lines.append(raw_line(one, TIME, b'"me"', body))
        self.raw.append(Block(block, "ticks", b"".join(lines), len(lines)))

    @rule(
        stage=st.sampled_from(("refine", *SINKS)),
        order=st.randoms(use_true_random=False),
        many=st.integers(1, 3),
        mishaps=st.lists(st.sampled_from(MISHAPS), max_size=6),
    )
    def work(self, stage: str, order: Any, many: int, mishaps: list[str]) -> None:
        """A worker takes some blocks that are not settled, in any order, and does what it can."""
        there = self._unsettled(stage)
        order.shuffle(there)
        self._work(stage, there[:many], mishaps)

    @rule(mishaps=st.lists(st.sampled_from(MISHAPS), max_size=4))
    def mend(self, mishaps: list[str]) -> None:
        """Redis is made whole again where it may not be, as far as that goes."""
        self._run(repair(cast(Any, self.postgres), cast(Any, self.redis), {"ticks": ticks()}), mishaps)

    @rule()
    def lose_redis(self) -> None:
        """Redis starts again, with nothing."""
        self.redis.rows.clear()
        self.redis.run += "1"

    @precondition(lambda self: self.streams.remembered)
    @rule()
    def forget(self) -> None:
        """The window of message ids has passed, or the server has died."""
        self.streams.remembered.clear()

    @invariant()
    def nothing_comes_from_nowhere(self) -> None:
        if not hasattr(self, "accepted"):
            return
        known = {(one, sha256) for _, one, _, sha256 in self.accepted}
        assert {(one, row[0]) for one, row in self.mongo.rows.items()} <= known
        assert {(one, row.envelope.sha256) for one, row in self.postgres.rows.items()} <= known

    @invariant()
    def every_count_is_a_recount(self) -> None:
        if hasattr(self, "postgres"):
            assert self._totals() == self._recount()

    def _totals(self) -> dict[tuple[str, str], tuple[int, Decimal | None]]:
        return {
            (row.metric, row.key): (row.count, row.value)
            for row in self.postgres.totals.values()
            if row.metric in ("by_group", "sizes")
        }

    def _recount(self) -> dict[tuple[str, str], tuple[int, Decimal | None]]:
        found: dict[tuple[str, str], tuple[int, Decimal | None]] = {}
        for group in "ab":
            sizes = [row.document["size"] for row in self.postgres.rows.values() if row.document["group"] == group]
            if sizes:
                found["by_group", f'["{group}"]'] = (len(sizes), None)
                found["sizes", f'["{group}"]'] = (len(sizes), Decimal(sum(sizes)))
        return found

    def _blocks(self, stage: str) -> list[Block]:
        return self.raw if stage == "refine" else self.streams.clean

    def _unsettled(self, stage: str) -> list[int]:
        return [n for n in range(len(self._blocks(stage))) if n not in self.consumers[stage].settled]

    def _work(self, stage: str, numbers: Sequence[int], mishaps: Sequence[str]) -> None:
        blocks, consumer = self._blocks(stage), cast(Any, self.consumers[stage])
        deliveries = [Delivery(blocks[n], False, 1, TIME, {}, str(n), consumer) for n in numbers]
        if deliveries:
            self._run(self.runners[stage]._process(ticks(), deliveries, blame=False), mishaps)

    def _run(self, work: Coroutine[Any, Any, Any], mishaps: Sequence[str]) -> None:
        self.fate.coming = deque(mishaps)
        with suppress(UnavailableError, DeathError):
            self.loop.run_until_complete(work)
        self.fate.coming.clear()

    def _finish(self) -> None:
        """Let everything be well until all is settled, then hold the books against each other."""
        for stage in ("refine", *SINKS):
            while there := self._unsettled(stage):
                self._work(stage, there[:2], ())
        self._run(repair(cast(Any, self.postgres), cast(Any, self.redis), {"ticks": ticks()}), ())
        letters = {
            (letter.stage, letter.block, letter.id, letter.ordinal): letter.code
            for block in self.streams.dead
            for letter in dead_letters(block.body)
        }
        for block, one, ordinal, sha256 in self.accepted:
            refined = ("refine", block, one, ordinal) in letters
            for sink, digests in (
                ("documents", {i: row[0] for i, row in self.mongo.rows.items()}),
                ("facts", {i: row.envelope.sha256 for i, row in self.postgres.rows.items()}),
            ):
                conflict = letters.get((sink, block, one, ordinal))
                if refined or conflict:
                    assert conflict in (None, "idempotency_conflict"), f"{one} was blamed: {conflict}"
                    assert refined or digests[one] != sha256, "a conflict with itself"
                else:
                    assert digests.get(one) == sha256, f"{sink} lost {one}"
        self._books_are_closed(letters)
        self.every_count_is_a_recount()
        projected = {place: (row.count, row.value) for place, row in self.redis.rows.items()}
        expected = {(r.metric, r.key, r.bucket): (r.count, r.value) for r in self.postgres.totals.values()}
        assert projected == expected, "Redis is not Postgres"

    def _books_are_closed(self, letters: Mapping[tuple[str, str, str, int], str]) -> None:
        """Accepted = stored + repeats + dead, for what Postgres has."""
        dead = {place[1:] for place in letters if place[0] in ("refine", "facts")}
        assert len(self.accepted) == len(self.postgres.rows) + len(self.postgres.repeats | dead)
        carried = [envelope for block in self.streams.clean for envelope in envelopes(block.body)]
        assert {envelope.id for envelope in carried} >= set(self.postgres.rows)


TestBehindTheDoor = BehindTheDoor.TestCase
TestBehindTheDoor.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
