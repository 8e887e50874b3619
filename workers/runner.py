"""A stage on its consumer: takes what there is room for and carries it through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from headrace import failpoints, telemetry
from headrace.document import parse_time
from headrace.errors import DocumentError, UnavailableError
from headrace.messaging.consumer import SUSPICIOUS_ATTEMPT, BlockConsumer, Delivery
from headrace.pipeline import Pipeline
from headrace.registry import Pipelines
from headrace.settings import RetrySettings, WorkerSettings
from workers.outcome import UNKNOWN_PIPELINE, Item, Refused, Stage, Verdict
from workers.outlast import Outlast
from workers.probe import WHOLE, Marker, Probes
from workers.settle import Settler
from workers.unpack import unpack

log = telemetry.logger(__name__)


class Runner:
    """One stage of one process."""

    def __init__(
        self,
        stage: Stage,
        consumer: BlockConsumer,
        settler: Settler,
        probes: Probes,
        pipelines: Pipelines,
        workers: WorkerSettings,
        retry: RetrySettings,
    ) -> None:
        self._stage = stage
        self._consumer = consumer
        self._settler = settler
        self._probes = probes
        self._pipelines = pipelines
        self._workers = workers
        self._outlast = Outlast(stage.name, stage.store, settler, retry)

    async def run(self) -> None:
        """Work until told to stop and all that was pulled is settled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers.concurrency):
                tasks.create_task(self._work())

    def stop(self) -> None:
        self._outlast.stop()
        self._consumer.stop()

    async def _work(self) -> None:
        while deliveries := await self._consumer.take(self._workers.batch_documents, self._workers.batch_blocks):
            failpoints.hit("runner.taken", self._stage.name)
            by_pipeline: dict[str, list[Delivery]] = {}
            for delivery in deliveries:
                by_pipeline.setdefault(delivery.block.pipeline, []).append(delivery)
            for name, of_one in by_pipeline.items():
                await self._carry(self._pipelines.get(name), of_one)

    async def _carry(self, pipeline: Pipeline | None, deliveries: Sequence[Delivery]) -> None:
        """Process deliveries of one pipeline until they are settled."""

        async def once(*, blame: bool) -> None:
            with telemetry.stage_seconds.labels(self._stage.name).time():
                await self._process(pipeline, deliveries, blame=blame)

        await self._outlast(once, deliveries)

    async def _process(self, pipeline: Pipeline | None, deliveries: Sequence[Delivery], *, blame: bool) -> None:
        work = [(delivery, self._own(unpack(pipeline, delivery))) for delivery in deliveries]
        items = [item for _, of_one in work for item in of_one]
        # The consumer gives such a delivery alone.
        suspicious = pipeline is not None and deliveries[0].attempt >= SUSPICIOUS_ATTEMPT
        if not items:
            verdicts: Sequence[Verdict] = []
        elif pipeline is None:
            verdicts = [_unknown(deliveries[0]) for _ in items]
        elif suspicious:
            verdicts = await self._probe(pipeline, deliveries[0], items, blame=blame)
        else:
            verdicts = await self._judge(pipeline, items, blame=blame)
        await self._settle(work, verdicts)
        if suspicious:
            await self._probes.forget(self._stage.name, deliveries[0].block.id)
        if items and pipeline is not None and self._stage.store is not None:
            age = datetime.now(UTC) - parse_time(items[0].envelope.time)
            telemetry.stored_seconds.labels(self._stage.name, pipeline.name).observe(max(0.0, age.total_seconds()))

    def _own(self, items: list[Item]) -> list[Item]:
        """Return the documents that are for this stage; what one sink had refused is given back to it alone."""
        return [item for item in items if item.envelope.sink in ("", self._stage.name)]

    async def _settle(self, work: Sequence[tuple[Delivery, list[Item]]], verdicts: Sequence[Verdict]) -> None:
        """Settle all blocks side by side: each waits for the disk, and one wait serves many."""
        settling = []
        done = 0
        for delivery, of_one in work:
            part = verdicts[done : done + len(of_one)]
            settling.append(self._settler.settle(self._stage.name, delivery, of_one, part))
            done += len(of_one)
        for outcome in await asyncio.gather(*settling, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _judge(self, pipeline: Pipeline, items: Sequence[Item], *, blame: bool) -> Sequence[Verdict]:
        """Return the stage's verdicts; where it cannot say which document fails, halve until the one is found.

        Args:
            blame: whether a failure that nobody foresaw is held against the document, too.
        """
        try:
            return await self._stage.apply(pipeline, items)
        except UnavailableError:
            raise
        except Exception as error:
            if not (blame or isinstance(error, DocumentError)):
                raise
            if len(items) == 1:
                return [Refused(_refusal(self._stage, error))]
        middle = len(items) // 2
        first = await self._judge(pipeline, items[:middle], blame=blame)
        return [*first, *await self._judge(pipeline, items[middle:], blame=blame)]

    async def _probe(
        self, pipeline: Pipeline, delivery: Delivery, items: Sequence[Item], *, blame: bool
    ) -> Sequence[Verdict]:
        """Judge a block that came again, so that a document that kills its worker is found."""
        stage, block, probes = self._stage.name, delivery.block.id, self._probes
        marker = await probes.find(stage, block, delivery.attempt)
        if not marker.died_whole():
            async with probes.trying(stage, block, marker, WHOLE):
                failpoints.hit("runner.probing", stage)
                verdicts = await self._judge(pipeline, items, blame=blame)
        else:
            async with probes.one_by_one:
                verdicts = await self._one_by_one(pipeline, delivery, items, marker, blame=blame)
        return verdicts

    async def _one_by_one(
        self, pipeline: Pipeline, delivery: Delivery, items: Sequence[Item], marker: Marker, *, blame: bool
    ) -> Sequence[Verdict]:
        verdicts: list[Verdict] = []
        for place, item in enumerate(items):
            if place in marker.poison():
                log.error("poison_found", stage=self._stage.name, document_id=item.envelope.id)
                verdicts.append(Refused(_exhausted(delivery.attempt)))
                continue
            async with self._probes.trying(self._stage.name, delivery.block.id, marker, place):
                verdicts += await self._judge(pipeline, [item], blame=blame)
        return verdicts


class Book(Protocol):
    """A stage that notes whole blocks: no verdicts, only written or not."""

    name: str
    store: str

    async def note(self, deliveries: Sequence[Delivery]) -> None: ...


class BookRunner:
    """A book on its consumer."""

    def __init__(
        self, book: Book, consumer: BlockConsumer, settler: Settler, workers: WorkerSettings, retry: RetrySettings
    ) -> None:
        self._book = book
        self._consumer = consumer
        self._settler = settler
        self._workers = workers
        self._retry = retry
        self._outlast = Outlast(book.name, book.store, settler, retry)

    def stop(self) -> None:
        self._outlast.stop()
        self._consumer.stop()

    async def run(self) -> None:
        while deliveries := await self._consumer.take(100 * self._workers.batch_documents, self._workers.batch_blocks):
            failpoints.hit("runner.taken", self._book.name)
            await self._outlast(partial(self._note, deliveries), deliveries)

    async def _note(self, deliveries: Sequence[Delivery], *, blame: bool) -> None:
        if not blame:
            await self._book.note(deliveries)
            await self._settler.acknowledge(deliveries)
            return
        for delivery in deliveries:
            try:
                await self._book.note([delivery])
            except UnavailableError:
                raise
            except Exception as error:
                # Nothing may be left out of the books in silence: it comes again, and is seen as pending until mended.
                log.error("block_not_noted", stage=self._book.name, block=delivery.block.id, error=type(error).__name__)
                await self._settler.give_back(delivery, self._retry.ceiling_seconds)
            else:
                await self._settler.acknowledge([delivery])


def _refusal(stage: Stage, error: Exception) -> DocumentError:
    if isinstance(error, DocumentError):
        return error
    return DocumentError(
        f"The {stage.name} stage failed on this document with {type(error).__name__}.", code="processing_failed"
    )


def _exhausted(attempts: int) -> DocumentError:
    return DocumentError(f"Workers died at this document; delivered {attempts} times.", code="attempts_exhausted")


def _unknown(delivery: Delivery) -> Refused:
    return Refused(
        DocumentError(f"There is no pipeline {delivery.block.pipeline!r}.", code=UNKNOWN_PIPELINE, status=404)
    )
