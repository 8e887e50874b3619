"""Makes Redis anew from Postgres while all goes on: in a shadow, compared with what is there, then swapped in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace import failpoints
from headrace.pipeline import GroupBy, Pipeline
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projected, Projection

Place = tuple[str, int]


@dataclass(frozen=True)
class Difference:
    """How Redis differed from Postgres, in rows of one metric.

    Attributes:
        rows: how many there are now.
        missing, wrong, foreign: not in Redis; of another value or older; in Redis and not in Postgres.
    """

    pipeline: str
    metric: str
    rows: int
    missing: int
    wrong: int
    foreign: int

    @property
    def none(self) -> bool:
        return not (self.missing or self.wrong or self.foreign)


async def rebuild_redis(facts: Facts, projection: Projection, pipeline: Pipeline, *, swap: bool) -> list[Difference]:
    """Make a pipeline's projection anew; return how the one that was there differed, metric by metric.

    Workers may go on: what they commit meanwhile is projected again after the swap, guarded by its version.

    Args:
        swap: whether the shadow takes its place; else it is only compared.

    Raises:
        UnavailableError: Postgres or Redis is away; the workers then repair what is not done.
    """
    metrics = [metric.name for metric in pipeline.metrics if not isinstance(metric, GroupBy)]
    shadow = projection.shadow()
    await shadow.clear(pipeline.name, metrics)
    try:
        await _project_all(facts, shadow, pipeline.name)
        differences = [await _compared(facts, projection, shadow, pipeline.name, metric) for metric in metrics]
        failpoints.hit("rebuild.made", "redis")
        if swap:
            # First of all: who comes to an end in the middle of a swap is followed by the workers' own repair.
            await facts.projection_failed()
            await projection.replace_by(shadow, pipeline.name, metrics)
            failpoints.hit("rebuild.swapped", "redis")
            # A worker that projected before the swap had committed before that: its rows are read here.
            await _project_all(facts, projection, pipeline.name)
    finally:
        await shadow.clear(pipeline.name, metrics)
    return differences


async def _project_all(facts: Facts, projection: Projection, pipeline: str) -> None:
    async for rows in facts.all_rollups(pipeline):
        await projection.project(pipeline, rows)


async def _compared(facts: Facts, projection: Projection, shadow: Projection, pipeline: str, metric: str) -> Difference:
    live = _by_place(await projection.read(pipeline, metric))
    made = _by_place(await shadow.read(pipeline, metric))
    missing = [place for place in made if place not in live]
    wrong = sum(_is_wrong(live[place], row) for place, row in made.items() if place in live)
    # What was committed after the shadow was made is in Redis alone by now, and no error.
    foreign = await _unknown(facts, pipeline, [row for place, row in live.items() if place not in made])
    return Difference(pipeline, metric, len(made), len(missing), wrong, foreign)


def _is_wrong(live: Projected, made: Projected) -> bool:
    return live.version < made.version or (live.version == made.version and live != made)


async def _unknown(facts: Facts, pipeline: str, rows: Iterable[Projected]) -> int:
    """Return how many rows Postgres does not have."""
    places = [(row.metric, row.key, datetime.fromtimestamp(row.bucket, UTC)) for row in rows]
    found = await facts.rollups(pipeline, places) if places else []
    return len(places) - len(found)


def _by_place(rows: Iterable[Projected]) -> Mapping[Place, Projected]:
    return {(row.key, row.bucket): row for row in rows}
