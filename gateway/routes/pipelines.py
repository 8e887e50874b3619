"""GET /v1/pipelines: what there is, told from the registry; nothing is asked of anybody."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response

from gateway.access import ANY_TOKEN
from gateway.answers.pipelines import PipelineInfo, PipelineList
from gateway.routing import JSON, Routes
from headrace.pipeline import Distinct, Latest, Metric, Pipeline, Trend
from headrace.registry import pipeline_named


def add(routes: Routes) -> None:
    pipelines = routes.door.pipelines
    told = {name: about(pipeline) for name, pipeline in sorted(pipelines.items())}
    every = msgspec.json.encode({"items": list(told.values())})
    each = {name: msgspec.json.encode(one) for name, one in told.items()}
    shown = next(iter(told.values()), None)

    @routes.add(
        "GET",
        "/v1/pipelines",
        "listPipelines",
        tag="pipelines",
        summary="List the pipelines",
        access=ANY_TOKEN,
        answer=PipelineList,
        example={"items": [shown] if shown else []},
    )
    async def listed() -> Response:
        """Every kind of document, in order of name."""
        return Response(every, media_type=JSON)

    @routes.add(
        "GET",
        "/v1/pipelines/{pipeline}",
        "showPipeline",
        tag="pipelines",
        summary="Show a pipeline",
        access=ANY_TOKEN,
        answer=PipelineInfo,
        example=shown,
        problems=("unknown_pipeline",),
    )
    async def one(pipeline: str) -> Response:
        """Schemas in and out, metrics, an example."""
        return Response(each[pipeline_named(pipelines, pipeline).name], media_type=JSON)


def about(pipeline: Pipeline) -> dict[str, Any]:
    """Return what clients may know of a pipeline."""
    analytics = f"/v1/analytics/{pipeline.name}"
    return {
        "name": pipeline.name,
        "description": pipeline.description,
        "version": pipeline.version,
        "mode": "entity" if pipeline.entity else "event",
        "key": list(pipeline.key),
        "accepts": pipeline.accepts.model_json_schema(mode="validation"),
        "yields": pipeline.yields.model_json_schema(mode="serialization"),
        "metrics": [_about_metric(metric, analytics) for metric in pipeline.metrics],
        "views": [{"method": view.method, "path": view.path, "summary": view.summary} for view in pipeline.views],
        "example": dict(pipeline.example),
        "links": {
            "self": f"/v1/pipelines/{pipeline.name}",
            "documents": f"/v1/documents/{pipeline.name}",
            "analytics": analytics,
            **({"analysis": f"/v1/analyses/{pipeline.name}"} if pipeline.analysis else {}),
        },
    }


def _about_metric(metric: Metric, analytics: str) -> dict[str, Any]:
    # What a trend sums is a field, what a latest picks are many.
    of = list(metric.of) if isinstance(metric, Latest) else metric.value_path
    if isinstance(metric, Distinct):
        of = metric.of
    at = metric.at if isinstance(metric, Latest | Trend) else None
    told = {"of": of or None, "at": at, "every_seconds": metric.every_seconds}
    return {
        "name": metric.name,
        "kind": metric.kind,
        "by": list(metric.key_paths),
        **{name: value for name, value in told.items() if value is not None},
        "link": f"{analytics}/{metric.name}",
    }
