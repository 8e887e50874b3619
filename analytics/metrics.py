"""Reads metrics: small ones from Redis, large ones ranked from Postgres, and all from there while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from analytics.deadline import within
from analytics.health import Health
from analytics.shapes import counted, grouped, ranked, ranking, value_of
from headrace.document import json_text
from headrace.errors import RequestError, UnavailableError
from headrace.pipeline import Distinct, GroupBy, Metric, Pipeline
from headrace.rollup import NO_BUCKET
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projected, Projection

MOST_ROWS: Final = 100_000
# Up to here all rows are read and put in order here; beyond, Postgres returns only those asked for.
_FEW_ROWS: Final = 10_000

Answered = tuple[dict[str, Any], str]


class Metrics:
    def __init__(self, facts: Facts, projection: Projection, health: Health, store_seconds: float) -> None:
        self._facts = facts
        self._projection = projection
        self._health = health
        self._store_seconds = store_seconds

    async def all(self, pipeline: Pipeline, limit: int) -> Answered:
        """Return the summary of every metric, and the stores that it came from."""
        found = await asyncio.gather(*(self.one(pipeline, metric, limit) for metric in pipeline.metrics))
        answer = {"pipeline": pipeline.name, "metrics": [one for one, _ in found]}
        return answer, ", ".join(sorted({source for _, source in found}))

    async def one(self, pipeline: Pipeline, metric: Metric, limit: int = MOST_ROWS, *, fresh: bool = False) -> Answered:
        """Return a metric's answer, and the store that it came from.

        Args:
            fresh: whether it holds all that was committed before it was asked for; a projection may lag.

        Raises:
            UnavailableError: the stores that could say are away.
        """
        if isinstance(metric, GroupBy):
            asked = self._facts.grouped(pipeline, metric.key_paths, MOST_ROWS)
            return grouped(metric, await within(self._store_seconds, "postgres", asked), limit), "postgres"
        if isinstance(metric, Distinct):
            values = await within(self._store_seconds, "postgres", self._facts.distinct(pipeline, metric.of))
            return {"metric": metric.name, "kind": metric.kind, "count": 1, "data": {}, "value": values}, "postgres"
        total, rows, source = await self._rows(pipeline.name, metric, limit, fresh=fresh)
        return counted(metric, total, rows), source

    async def at(self, pipeline: Pipeline, metric: Metric, key: Sequence[str | None]) -> Any:
        """Return what stands at a key of a metric without buckets, or None.

        Raises:
            UnavailableError: the stores that could say are away.
        """
        place = (metric.name, json_text(list(key)).decode(), NO_BUCKET)
        if self._health.projection_whole:
            try:
                asked = self._projection.row(pipeline.name, metric.name, place[1])
                if row := await within(self._store_seconds / 2, "redis", asked):
                    return value_of(metric, row)
            except UnavailableError:
                pass
        found = await within(self._store_seconds, "postgres", self._facts.rollups(pipeline.name, [place]))
        return value_of(metric, found[0]) if found else None

    async def _rows(
        self, pipeline: str, metric: Metric, limit: int, *, fresh: bool
    ) -> tuple[int, Sequence[Projected], str]:
        if self._health.projection_whole and not fresh:
            try:
                rows = await within(self._store_seconds / 2, "redis", self._projected(pipeline, metric.name))
                if rows is not None:
                    return len(rows), ranked(metric, rows)[:limit], "redis"
            except UnavailableError:
                # Redis is a projection of what Postgres has, so its absence is no reason not to answer.
                pass
        asked = self._facts.ranked_rollups(pipeline, metric.name, ranking(metric), limit)
        total, first = await within(self._store_seconds, "postgres", asked)
        return total, first, "postgres"

    async def _projected(self, pipeline: str, metric: str) -> list[Projected] | None:
        """Return a metric's rows, or None where they are too many to be all read, or perhaps not projected."""
        size = await self._projection.size(pipeline, metric)
        return await self._projection.read(pipeline, metric) if 0 < size <= _FEW_ROWS else None


def metric_named(pipeline: Pipeline, name: str) -> Metric:
    """Return a metric.

    Raises:
        RequestError: there is none of that name (404 `unknown_metric`).
    """
    found = pipeline.metric(name)
    if found is None:
        known = ", ".join(metric.name for metric in pipeline.metrics) or "none"
        raise RequestError(
            f"Pipeline {pipeline.name!r} has no metric {name[:80]!r}; it has: {known}.",
            code="unknown_metric",
            status=404,
        )
    return found
