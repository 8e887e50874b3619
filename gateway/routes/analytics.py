"""GET /v1/analytics: what a pipeline counts. The analytics service knows the answer and its ETag."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query, Request, Response

from gateway.access import scoped
from gateway.answers.analytics import MetricAnswer, MetricsAnswer
from gateway.routing import Routes, passed
from headrace.registry import pipeline_named

# Answers change with every block that is stored; a second is what a dashboard can bear.
FRESH: Final = {"Cache-Control": "private, max-age=1"}
_MOST_ROWS: Final = 100_000
STORE_PROBLEMS: Final = ("analytics_unavailable", "postgres_unavailable", "answer_too_large")


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/analytics/{pipeline}",
        "listMetrics",
        tag="analytics",
        summary="Every metric of a pipeline",
        access=scoped("analytics:read"),
        answer=MetricsAnswer,
        cached=True,
        headers=("Headrace-Source",),
        problems=("unknown_pipeline", "invalid_request", *STORE_PROBLEMS),
    )
    async def metrics(
        request: Request, pipeline: str, limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 10
    ) -> Response:
        """Each metric with its first `limit` keys."""
        pipeline_named(door.pipelines, pipeline)
        asked = {"pipeline": pipeline, "limit": limit}
        return passed(await door.ask("analytics", "metrics", asked, headers=condition(request)), FRESH)

    @routes.add(
        "GET",
        "/v1/analytics/{pipeline}/{metric}",
        "showMetric",
        tag="analytics",
        summary="One metric",
        access=scoped("analytics:read"),
        answer=MetricAnswer,
        cached=True,
        headers=("Headrace-Source",),
        problems=("unknown_pipeline", "unknown_metric", "invalid_request", *STORE_PROBLEMS),
    )
    async def metric(
        request: Request,
        pipeline: str,
        metric: str,
        limit: Annotated[int | None, Query(ge=1, le=_MOST_ROWS)] = None,
    ) -> Response:
        """In order, the first `limit` keys; without it all of them."""
        pipeline_named(door.pipelines, pipeline)
        asked = {"pipeline": pipeline, "metric": metric, "limit": limit}
        return passed(await door.ask("analytics", "metric", asked, headers=condition(request)), FRESH)


def condition(request: Request) -> dict[str, str]:
    """Return the header by which a client says what it has already."""
    tags = request.headers.get("if-none-match")
    return {} if tags is None else {"If-None-Match": tags}
