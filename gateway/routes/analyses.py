"""GET /v1/analyses: what statistics found in a pipeline's documents; `headrace analyse` computes it."""

from __future__ import annotations

from fastapi import Request, Response

from gateway.access import scoped
from gateway.answers.analytics import AnalysisAnswer
from gateway.routes.analytics import FRESH, condition
from gateway.routing import Routes, passed
from headrace.registry import pipeline_named


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/analyses/{pipeline}",
        "showAnalysis",
        tag="analytics",
        summary="A pipeline's analysis",
        access=scoped("analytics:read"),
        answer=AnalysisAnswer,
        cached=True,
        headers=("Headrace-Source",),
        problems=(
            *("unknown_pipeline", "analysis_not_found", "answer_too_large"),
            *("analytics_unavailable", "mongo_unavailable"),
        ),
    )
    async def analysis(request: Request, pipeline: str) -> Response:
        """As it was last computed: `documents` says from how many, `computed_at` when."""
        pipeline_named(door.pipelines, pipeline)
        return passed(
            await door.ask("analytics", "analysis", {"pipeline": pipeline}, headers=condition(request)), FRESH
        )
