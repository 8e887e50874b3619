"""The schema registry on a real server: versions by themselves, and a start that would break one is refused."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, create_model

from headrace.messaging.connection import Bus
from headrace.messaging.schemas import SchemaChangeError, check, register, versions
from headrace.pipeline import Pipeline
from headrace.settings import SchemaSettings, Settings


def things(**fields: Any) -> Pipeline:
    model: type[BaseModel] = create_model("Thing", **fields)
    return Pipeline(name="things", accepts=model, example={"name": "a", "size": 1})


FIRST = things(name=(str, ...), size=(int, ...))
WIDER = things(name=(str, ...), size=(int, ...), note=(str, ""))
NARROWER = things(name=(str, ...), size=(int, Field(ge=0)))
RETYPED = things(name=(str, ...), size=(Decimal, ...))


async def numbers(bus: Bus, settings: Settings) -> list[int]:
    return [one.version for one in await versions(bus, settings, "things")]


async def test_a_schema_is_registered_once_however_many_services_start(bus: Bus, settings: Settings) -> None:
    await asyncio.gather(*(register(bus, settings, [FIRST]) for _ in range(8)))
    await register(bus, settings, [FIRST])

    [one] = await versions(bus, settings, "things")
    assert (one.version, one.mode, one.fields) == (1, "event", {"name": "text", "size": "bigint"})
    assert one.accepts == FIRST.accepts.model_json_schema()
    assert one.registered_at


async def test_a_compatible_change_gets_the_next_version_by_itself(bus: Bus, settings: Settings) -> None:
    await register(bus, settings, [FIRST])
    await asyncio.gather(*(register(bus, settings, [WIDER]) for _ in range(4)))

    assert await numbers(bus, settings) == [1, 2]


async def test_a_change_can_be_tried_without_registering_it(bus: Bus, settings: Settings) -> None:
    await check(bus, settings, [FIRST])
    await register(bus, settings, [FIRST])
    await check(bus, settings, [WIDER])
    with pytest.raises(SchemaChangeError, match="breaks version 1"):
        await check(bus, settings, [RETYPED])

    assert await numbers(bus, settings) == [1]


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (NARROWER, "/accepts/size: It must be >= 0 and had to be anything."),
        (RETYPED, "/yields/size: It would be stored as numeric and is stored as bigint"),
        (FIRST, "/yields/note: It is stored no more"),
    ],
)
async def test_a_change_that_breaks_the_version_before_is_refused_with_the_reason(
    bus: Bus, settings: Settings, pipeline: Pipeline, said: str
) -> None:
    await register(bus, settings, [FIRST])
    await register(bus, settings, [WIDER])

    with pytest.raises(SchemaChangeError) as refused:
        await register(bus, settings, [pipeline])

    assert "breaks version 2" in refused.value.detail
    assert said in refused.value.detail
    assert await numbers(bus, settings) == [1, 2]


async def test_a_higher_version_of_the_authors_does_not_allow_it(bus: Bus, settings: Settings) -> None:
    await register(bus, settings, [FIRST])
    higher = Pipeline(name="things", accepts=NARROWER.accepts, example={"name": "a", "size": 1}, version=7)

    with pytest.raises(SchemaChangeError):
        await register(bus, settings, [higher])


async def test_a_setting_allows_it(bus: Bus, settings: Settings) -> None:
    await register(bus, settings, [FIRST])
    told = settings.model_copy(update={"schemas": SchemaSettings(allow_incompatible=True)})

    await register(bus, told, [NARROWER])
    await register(bus, settings, [NARROWER])

    assert await numbers(bus, settings) == [1, 2]


async def test_a_pipeline_that_was_never_registered_has_no_versions(bus: Bus, settings: Settings) -> None:
    assert await versions(bus, settings, "things") == []
    await register(bus, settings, [FIRST])
    assert await versions(bus, settings, "other") == []
