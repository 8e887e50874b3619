"""The endpoints of the service: payload in, answer out. The gateway proxies to them and checks scopes itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from analytics import audit, deadletters, listing
from analytics.analyses import not_analysed
from analytics.answers import Answer, conditional, encoded, tagged
from analytics.books import Bookkeeper
from analytics.deadline import within
from analytics.documents import DocumentStates
from analytics.health import Health
from analytics.job_desk import JobDesk
from analytics.metrics import MOST_ROWS, Metrics, metric_named
from analytics.requests import (
    AskAnalysis,
    AskDeadAudit,
    AskDeadGroups,
    AskDeadList,
    AskDeadReplay,
    AskDeadShow,
    AskDocument,
    AskDocuments,
    AskJob,
    AskJobRun,
    AskJobRuns,
    AskMetric,
    AskMetricKey,
    AskMetrics,
    AskRows,
    AskRunJob,
    Nothing,
    decoded,
)
from headrace.cache import Cache
from headrace.errors import UnavailableError
from headrace.messaging.mesh import Handler, Reply, Request
from headrace.registry import Pipelines, pipeline_named
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Desk:
    """What the endpoints need.

    Attributes:
        store_seconds: how long one store may take for one answer.
        answer_seconds: how long an answer may take in all; less than the gateway waits.
    """

    pipelines: Pipelines
    documents: Documents
    facts: Facts
    metrics: Metrics
    states: DocumentStates
    bookkeeper: Bookkeeper
    health: Health
    cache: Cache[Answer]
    jobs: JobDesk
    store_seconds: float
    answer_seconds: float

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "metrics": self._bounded(self._metrics),
            "metric": self._bounded(self._metric),
            "analysis": self._bounded(self._analysis),
            "metric.key": self._plain(AskMetricKey, self._metric_key),
            "document": self._plain(AskDocument, self._document),
            "documents": self._plain(AskDocuments, self._documents),
            "documents.rows": self._plain(AskRows, self._rows),
            "ledger": self._plain(Nothing, self._ledger),
            "dead.list": self._plain(AskDeadList, self._dead_list),
            "dead.groups": self._plain(AskDeadGroups, self._dead_groups),
            "dead.show": self._plain(AskDeadShow, self._dead_show),
            "dead.replay": self._plain(AskDeadReplay, self._dead_replay),
            "dead.audit": self._plain(AskDeadAudit, self._dead_audit),
            "health": self._plain(Nothing, self._health),
            "jobs.list": self._plain(Nothing, self._jobs),
            "jobs.show": self._plain(AskJob, self.jobs.show),
            "jobs.runs": self._plain(AskJobRuns, self.jobs.runs),
            "jobs.run": self._plain(AskJobRun, self.jobs.run),
            "jobs.start": self._bounded(self._start_job),
            "jobs.pause": self._plain(AskRunJob, self.jobs.pause),
            "jobs.resume": self._plain(AskRunJob, self.jobs.resume),
        }

    def _plain(self, kind: type[Asked], answer: Callable[[Asked], Awaitable[Any]]) -> Handler:
        async def handle(request: Request) -> Reply:
            return Reply(encoded(await answer(decoded(request.payload, kind))))

        return self._bounded(handle)

    def _bounded(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Reply:
            try:
                async with asyncio.timeout(self.answer_seconds):
                    return await handler(request)
            except TimeoutError:
                raise UnavailableError(
                    f"The answer was not ready within {self.answer_seconds:g} s.",
                    code="too_slow",
                    retry_after_seconds=2,
                ) from None

        return handle

    async def _metrics(self, request: Request) -> Reply:
        asked = decoded(request.payload, AskMetrics)
        pipeline = pipeline_named(self.pipelines, asked.pipeline)

        async def make() -> Answer:
            answer, source = await self.metrics.all(pipeline, asked.limit)
            return tagged(answer, source=source)

        return conditional(await self.cache.get(pipeline.name, (None, asked.limit), make), request.headers)

    async def _metric(self, request: Request) -> Reply:
        asked = decoded(request.payload, AskMetric)
        pipeline = pipeline_named(self.pipelines, asked.pipeline)
        metric = metric_named(pipeline, asked.metric)
        limit = asked.limit or MOST_ROWS

        async def make() -> Answer:
            answer, source = await self.metrics.one(pipeline, metric, limit, fresh=asked.fresh)
            return tagged(answer, source=source)

        if asked.fresh:
            return conditional(await make(), request.headers)
        return conditional(await self.cache.get(pipeline.name, (metric.name, limit), make), request.headers)

    async def _analysis(self, request: Request) -> Reply:
        asked = decoded(request.payload, AskAnalysis)
        pipeline = pipeline_named(self.pipelines, asked.pipeline)
        found = await within(self.store_seconds, "mongo", self.documents.processed(pipeline))
        if found is None:
            raise not_analysed(pipeline)
        return conditional(tagged(found, source="mongo"), request.headers)

    async def _metric_key(self, asked: AskMetricKey) -> Any:
        pipeline = pipeline_named(self.pipelines, asked.pipeline)
        return {"found": await self.metrics.at(pipeline, metric_named(pipeline, asked.metric), asked.key)}

    async def _document(self, asked: AskDocument) -> Any:
        return await self.states.state(pipeline_named(self.pipelines, asked.pipeline), asked.id)

    async def _documents(self, asked: AskDocuments) -> Any:
        pipeline = pipeline_named(self.pipelines, asked.pipeline)
        # One store alone is asked, so it may have nearly all of the time; sorting many documents takes some.
        return await listing.page(self.documents, pipeline, asked, 0.9 * self.answer_seconds)

    async def _rows(self, asked: AskRows) -> Any:
        pipeline = pipeline_named(self.pipelines, asked.pipeline)
        return await listing.rows(self.documents, pipeline, asked, 0.9 * self.answer_seconds)

    async def _ledger(self, _asked: Nothing) -> Any:
        return await self.bookkeeper.ledger(self.store_seconds)

    async def _dead_list(self, asked: AskDeadList) -> Any:
        return await within(self.store_seconds, "postgres", deadletters.page(self.facts, asked))

    async def _dead_groups(self, asked: AskDeadGroups) -> Any:
        return await within(self.store_seconds, "postgres", deadletters.groups(self.facts, asked))

    async def _dead_show(self, asked: AskDeadShow) -> Any:
        return await within(self.store_seconds, "postgres", deadletters.show(self.facts, asked.id))

    async def _dead_replay(self, asked: AskDeadReplay) -> Any:
        return await within(self.store_seconds, "postgres", audit.progress(self.facts, asked.id))

    async def _dead_audit(self, asked: AskDeadAudit) -> Any:
        return await within(self.store_seconds, "postgres", audit.page(self.facts, asked))

    async def _jobs(self, _asked: Nothing) -> Any:
        return await self.jobs.list()

    async def _start_job(self, request: Request) -> Reply:
        run = await self.jobs.start(decoded(request.payload, AskRunJob))
        return Reply(encoded(run), 202, {"Location": run["links"]["self"]})

    async def _health(self, _asked: Nothing) -> Any:
        return self.health.stores
