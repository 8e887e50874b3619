"""What a rebuild leaves beside the stores when it is killed: read by nobody, and in nobody's way but the disk's."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.pipeline import GroupBy, Pipeline
from headrace.storage.facts_shadow import forget_shadow
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projection


async def forget_shadows(
    facts: Facts, documents: Documents, projection: Projection, pipelines: Iterable[Pipeline]
) -> None:
    """Drop the shadows of these pipelines; only for who runs alone (workers/rebuild_lock.py).

    Raises:
        UnavailableError: a store is away.
    """
    await forget_shadow(facts)
    for pipeline in pipelines:
        await documents.shadow().drop(pipeline)
        metrics = [metric.name for metric in pipeline.metrics if not isinstance(metric, GroupBy)]
        await projection.shadow().clear(pipeline.name, metrics)
