"""GET /v1/schemas: the versions of each pipeline's schema, as they are registered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import Response

from gateway.access import ANY_TOKEN
from gateway.answers.pipelines import SchemaList, SchemaVersions
from gateway.routing import JSON, Routes
from headrace.messaging.schemas import versions
from headrace.registry import pipeline_named


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/schemas",
        "listSchemas",
        tag="pipelines",
        summary="List the registered schemas",
        access=ANY_TOKEN,
        answer=SchemaList,
        problems=("jetstream_unavailable",),
    )
    async def listed() -> Response:
        """The newest version of each pipeline's schema, in order of name."""
        names = sorted(door.pipelines)
        found = await asyncio.gather(*(versions(door.bus, door.settings, name) for name in names))
        newest = [one[-1] for one in found if one]
        told = (
            {name: getattr(one, name) for name in ("pipeline", "version", "registered_at", "mode")} for one in newest
        )
        return _json({"items": list(told)})

    @routes.add(
        "GET",
        "/v1/schemas/{pipeline}",
        "showSchemas",
        tag="pipelines",
        summary="Show the versions of a schema",
        access=ANY_TOKEN,
        answer=SchemaVersions,
        problems=("unknown_pipeline", "jetstream_unavailable"),
    )
    async def one(pipeline: str) -> Response:
        """Every version, newest first: what was taken and what was stored."""
        name = pipeline_named(door.pipelines, pipeline).name
        found = await versions(door.bus, door.settings, name)
        return _json({"pipeline": name, "items": found[::-1]})


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)
