"""One reconciliation: the books of each minute compared, those that differ looked into, and what can be given back.

Comparing takes one scan of an index in each store for a portion of time, the newest first, until the time is over. The
embedded MongoDB has no use for that index and reads all of a pipeline for each portion, so each is larger than the
one before. Only minutes that differ cost more: the streams are read from there on.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from headrace import failpoints, telemetry
from headrace.document import envelopes, rfc3339
from headrace.errors import DocumentError
from headrace.messaging.connection import Bus
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage import minutes as books
from headrace.storage.facts_table import Fact
from headrace.storage.minutes import Minute
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projection
from headrace.tally import Tally, mark
from workers.documents import StoreDocuments
from workers.facts import StoreFacts
from workers.outcome import Forward, Item
from workers.reconcile.counts import recount, redis_counts
from workers.reconcile.findings import CORRUPT, LOST, MISSING, UNEXPLAINED, Finding, Report
from workers.reconcile.judge import SINKS, candidates, judged
from workers.reconcile.streams import Held, Progress, Streams, minute_of
from workers.refine import refine

log = telemetry.logger(__name__)

_PORTION: Final = timedelta(hours=1)
_GROWTH: Final = 4
_MINUTE: Final = timedelta(minutes=1)
# What was accepted this moment may be in one store and not yet in another.
_GRACE: Final = timedelta(seconds=10)
# Of one pipeline and run; each is kept in memory.
_MOST_MINUTES: Final = 30
_AT_ONCE: Final = 500
_EMPTY: Final = Tally()


@dataclass(frozen=True)
class Reconciler:
    """Args:
    documents, facts: with the patience that reading an hour of documents takes.
    """

    bus: Bus
    settings: Settings
    documents: Documents
    facts: Facts
    projection: Projection

    async def run(
        self,
        pipeline: Pipeline,
        *,
        repair: bool,
        counts: bool,
        seconds: float,
        since: datetime | None = None,
        now: datetime | None = None,
    ) -> Report:
        """Reconcile a pipeline and note that it was.

        Args:
            repair: whether what is missing is given back, and wrong counts are made right.
            counts: whether the facts are counted once more, which takes a second for some ten thousand.
            seconds: when to begin no further portion.
            since: what was accepted before is not looked at.
            now: what was accepted in its minute is left for the next time.

        Raises:
            UnavailableError: a store or NATS is away; what was repaired until then stays so.
        """
        started = time.monotonic()
        streams = Streams(self.bus, self.settings)
        progress = await streams.progress()
        until = min(progress.horizon, ((now or datetime.now(UTC)) - _GRACE).replace(second=0, microsecond=0))
        first = await books.first_minute(self.facts, pipeline)
        report = Report(pipeline.name, until, until)
        differing: dict[datetime, Minute] = {}
        begin = max(since, first) if since and first else first
        if begin is not None:
            begin = begin.replace(second=0, microsecond=0)
            size = _PORTION
            while report.since > begin and (report.since == until or time.monotonic() - started < seconds):
                portion = report.since - size if report.since - begin > size else begin
                size *= _GROWTH
                differing |= await self._compare(pipeline, portion, report.since, report)
                report.since = portion
        chosen = sorted(differing)[-_MOST_MINUTES:]
        report.unexamined = len(differing) - len(chosen)
        if chosen:
            of_these = {minute: differing[minute] for minute in chosen}
            await self._examine(pipeline, streams, progress, of_these, report, repair=repair)
        if counts or any(one.repaired and one.where == "facts" for one in report.findings):
            report.findings += await recount(self.facts, pipeline, repair=repair)
        report.findings += await redis_counts(self.facts, self.projection, pipeline, repair=repair)
        await self._note(report)
        return report

    async def _compare(
        self, pipeline: Pipeline, since: datetime, until: datetime, report: Report
    ) -> dict[datetime, Minute]:
        """Return the minutes in which a store does not hold what it should."""
        stored: dict[datetime, Tally] = {}
        async for document_id, received_at, sender, block, _ in self.documents.marked(pipeline, since, until):
            minute = received_at.replace(second=0, microsecond=0)
            stored[minute] = stored.get(minute, _EMPTY) + Tally.of([mark(document_id, sender, block)])
        found = await books.minutes(self.facts, pipeline, since, until)
        for minute, tally in stored.items():
            found.setdefault(minute, Minute()).documents = tally
        report.minutes += len(found)
        report.documents += sum(one.accepted.count + one.untold for one in found.values())
        # Of a block that does not say which documents it holds, its minute is not known either.
        unsure = {minute - n * _MINUTE for minute, one in found.items() if one.untold for n in (0, 1)}
        return {
            minute: one
            for minute, one in found.items()
            if minute not in unsure and any(one.stored(sink) != one.expected(sink) for sink in SINKS)
        }

    async def _examine(
        self,
        pipeline: Pipeline,
        streams: Streams,
        progress: Progress,
        differing: Mapping[datetime, Minute],
        report: Report,
        *,
        repair: bool,
    ) -> None:
        """Find what is missing where, by id, and give it back."""
        chosen = sorted(differing)
        held = await streams.held(pipeline, set(chosen))
        documents, blocks = await self._documents(pipeline, chosen)
        lost = await self._lost(pipeline, held, chosen, blocks)
        corrupt = [
            Finding(CORRUPT, "RAW", count, minute, block=block, advice="Its bytes are a dead letter; ask its sender.")
            for _, block, count, minute in held.corrupt
        ]
        report.findings += [*lost, *corrupt]
        for minute in chosen:
            of_it = _within(held, minute)
            stored = {
                "documents": documents[minute],
                "facts": await books.stored_ids(self.facts, pipeline, minute, minute + _MINUTE),
            }
            wanted = candidates(of_it, stored)
            elsewhere = {sink: await self._there(pipeline, sink, ids) for sink, ids in wanted.items()}
            ids = {*of_it.raw, *of_it.clean, *stored["documents"], *stored["facts"]}
            letters = await books.letters_of(self.facts, pipeline, sorted(ids))
            one = differing[minute]
            surplus = {sink: one.stored(sink).count - one.expected(sink).count for sink in SINKS}
            verdict = judged(minute, of_it, stored, elsewhere, letters, progress.floors, surplus)
            report.in_flight += verdict.in_flight
            named = verdict.findings or any(one.minute == minute for one in (*lost, *corrupt))
            if not (named or verdict.in_flight or held.whole):
                report.findings.append(
                    Finding(
                        UNEXPLAINED, "journal", 1, minute, advice="The streams do not go back so far; compare backups."
                    )
                )
            if repair:
                await self._give_back(pipeline, verdict.from_clean, verdict.from_raw)
                await self._see_repaired(pipeline, verdict.findings)
            report.findings += verdict.findings

    async def _lost(
        self, pipeline: Pipeline, held: Held, chosen: Sequence[datetime], stored: set[str]
    ) -> list[Finding]:
        """Return the blocks that were accepted, and of which nothing is anywhere.

        Args:
            stored: blocks of which MongoDB has something.
        """
        noted: dict[str, tuple[int, datetime]] = {}
        for minute in chosen:
            noted |= await books.blocks_noted(self.facts, pipeline, minute, minute + 2 * _MINUTE)
        gone = sorted(noted.keys() - held.raw_blocks - held.clean_blocks - stored)
        traced = await books.traced(self.facts, pipeline, gone) if gone else set()
        found = []
        for block in gone:
            if block not in traced:
                count, stored_at = noted[block]
                advice = "It was gone before refine saw it; ask its sender for it."
                minute = minute_of(rfc3339(stored_at))
                found.append(Finding(LOST, "RAW", count, minute, block=block, advice=advice))
        return found

    async def _documents(
        self, pipeline: Pipeline, chosen: Sequence[datetime]
    ) -> tuple[dict[datetime, dict[str, str]], set[str]]:
        """Return, of each minute, {id: sha256} of what MongoDB holds, and their blocks; read in one go, see above."""
        blocks = set()
        found: dict[datetime, dict[str, str]] = {minute: {} for minute in chosen}
        async for one, received_at, _, block, sha256 in self.documents.marked(
            pipeline, chosen[0], chosen[-1] + _MINUTE
        ):
            minute = received_at.replace(second=0, microsecond=0)
            if minute in found:
                found[minute][one] = sha256
                blocks.add(block)
        return found, blocks

    async def _there(self, pipeline: Pipeline, sink: str, ids: set[str]) -> set[str]:
        if not ids:
            return set()
        if sink == "facts":
            return set(await self.facts.known(pipeline, sorted(ids)))
        uuids = [UUID(one) for one in ids]
        found = await self.documents.present(pipeline.name, uuids, entity=bool(pipeline.entity))
        return {str(one) for one in found}

    async def _give_back(
        self, pipeline: Pipeline, from_clean: Mapping[str, list[Item]], from_raw: Mapping[str, list[Item]]
    ) -> None:
        """Hand each sink what it lacks, as if it were delivered again; a second time changes nothing."""
        again = {sink: [*from_clean.get(sink, ()), *_refined(pipeline, from_raw.get(sink, ()))] for sink in SINKS}
        # What both lack was never counted. What only the facts lack was, and the recount has the last word.
        both = {item.envelope.id for item in again["documents"]}
        new = [item for item in again["facts"] if item.envelope.id in both]
        counted = {item.envelope.id: item for item in again["facts"] if item.envelope.id not in both}

        async def store_uncounted(items: Sequence[Item]) -> None:
            facts = [Fact(one.envelope, one.block, msgspec.json.decode(one.envelope.data)) for one in items]
            await self.facts.record(pipeline, facts, lambda _new: {})

        async def store_document(items: Sequence[Item]) -> None:
            await StoreDocuments(self.documents).apply(pipeline, items)

        async def store_fact(items: Sequence[Item]) -> None:
            await StoreFacts(self.facts, self.projection).apply(pipeline, items)

        # Facts first: who dies in between leaves what has been counted, and the next repair has but to store it.
        # The other way round, what lacks only its fact would be taken for counted.
        await _each(store_fact, new)
        failpoints.hit("repair.counted")
        await _each(store_document, again["documents"])
        await _each(store_uncounted, list(counted.values()))

    async def _see_repaired(self, pipeline: Pipeline, findings: Sequence[Finding]) -> None:
        for one in findings:
            if one.kind == MISSING and one.repair:
                there = await self._there(pipeline, one.where, set(one.ids))
                one.repaired = there >= set(one.ids)
                if not one.repaired:
                    one.advice = "The store, or refine, refuses it; see the log."

    async def _note(self, report: Report) -> None:
        repaired = sum(one.repaired for one in report.findings)
        await self.facts.fetch(
            "INSERT INTO reconciled AS r (pipeline, at, since, until, findings, repaired)"
            " VALUES ($1, now(), $2, $3, $4, $5) ON CONFLICT (pipeline) DO UPDATE SET at = excluded.at,"
            " since = excluded.since, until = excluded.until, findings = excluded.findings,"
            " repaired = excluded.repaired",
            *(report.pipeline, report.since, report.until, len(report.findings), repaired),
        )


async def _each(store: Callable[[Sequence[Item]], Awaitable[None]], items: Sequence[Item]) -> None:
    """Store some at a time; where one of them cannot be, all but that one."""
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        try:
            await store(part)
        except DocumentError as error:
            if len(part) == 1:
                log.warning("not_given_back", document_id=part[0].envelope.id, code=error.code)
                continue
            for one in part:
                await _each(store, [one])


def _within(held: Held, minute: datetime) -> Held:
    """Return what is held of one minute."""

    def of_it(places: Mapping[str, list[tuple[int, Item]]]) -> dict[str, list[tuple[int, Item]]]:
        found = {}
        for document_id, occurrences in places.items():
            if any(minute_of(item.envelope.time) == minute for _, item in occurrences):
                found[document_id] = occurrences
        return found

    return Held(of_it(held.raw), of_it(held.clean), held.raw_blocks, held.clean_blocks, held.corrupt, held.whole)


def _refined(pipeline: Pipeline, items: Sequence[Item]) -> list[Item]:
    """Return documents of RAW as refine makes them; not those that it refuses."""
    found = []
    for item in items:
        verdict = refine(pipeline, item)
        if isinstance(verdict, Forward):
            found += [Item(one, item.block) for one in envelopes(verdict.line)]
    return found
