"""The registered schemas over HTTP."""

from __future__ import annotations

import json

from gateway.answers.pipelines import SchemaList, SchemaVersions
from headrace.messaging.schemas import register
from tests.gateway.system import Gateway


async def test_registered_schemas_are_listed_and_shown(gateway: Gateway) -> None:
    key = gateway.key()
    pipelines = gateway.door.pipelines
    _, before, _ = await gateway.ask("GET", "/v1/schemas/searches", key=key)
    await register(gateway.door.bus, gateway.door.settings, pipelines.values())

    _, listed, _ = await gateway.ask("GET", "/v1/schemas", key=key)
    status, shown, _ = await gateway.ask("GET", "/v1/schemas/searches", key=key)

    assert json.loads(before) == {"pipeline": "searches", "items": []}
    told = SchemaList.model_validate_json(listed)
    assert [(one.pipeline, one.version) for one in told.items] == [(name, 1) for name in sorted(pipelines)]
    [one] = SchemaVersions.model_validate_json(shown).items
    assert status == 200
    assert one.accepts == pipelines["searches"].accepts.model_json_schema()
    assert one.fields["min_offer.price"] == "bigint"


async def test_an_unknown_pipeline_has_no_schemas(gateway: Gateway) -> None:
    status, problem, _ = await gateway.problem("GET", "/v1/schemas/nope", key=gateway.key())

    assert (status, problem["code"]) == (404, "unknown_pipeline")
