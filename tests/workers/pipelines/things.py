"""Pipelines for the tests of workers: one with a metric of every kind and a transform that fails as it is told."""

from __future__ import annotations

import os
from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from headrace.pipeline import Count, GroupBy, Latest, Maximum, Minimum, Pipeline, Sum, Trend


class Thing(BaseModel):
    """A thing; `mode` says what its transform does."""

    model_config = ConfigDict(extra="forbid")

    name: str
    group: str | None = None
    size: int = 0
    price: Decimal | None = None
    at: datetime | None = None
    tags: list[str] = []
    mode: str = ""


class StoredThing(BaseModel):
    name: str
    group: str | None
    size: int
    price: Decimal | None
    at: datetime | None
    tags: list[str]
    weight: float = 0.5
    filler: str = ""


def transform(thing: Thing) -> StoredThing:
    stored = StoredThing(**thing.model_dump(exclude={"mode"}))
    match thing.mode:
        case "refuse":
            raise ValueError("Refused as asked.")
        case "bug":
            raise KeyError("secret")
        case "die":
            os._exit(3)
        case "nan":
            return stored.model_copy(update={"weight": float("nan")})
        case "grow":
            return stored.model_copy(update={"filler": "x" * 700_000})
    return stored


things = Pipeline(
    name="things",
    accepts=Thing,
    yields=StoredThing,
    transform=transform,
    example={"name": "a"},
    metrics=[
        Count("total"),
        Count("groups", by="group"),
        Count("tags", by="tags[]"),
        Sum("worth", of="price", by="group"),
        Minimum("least", of="size"),
        Maximum("greatest", of="price", by="tags[]"),
        Latest("latest", at="at", of=("name",), by="group"),
        Trend("per_minute", every="1m"),
        Trend("per_hour", every="1h", of="size", at="at"),
    ],
)


class Parcel(BaseModel):
    number: str
    weight: int = 1


parcels = Pipeline(
    name="parcels",
    accepts=Parcel,
    example={"number": "1"},
    key=("number",),
    metrics=[Sum("weight", of="weight")],
)


class Member(BaseModel):
    number: int
    status: str = "new"


members = Pipeline(
    name="members",
    accepts=Member,
    example={"number": 1},
    key=("number",),
    entity=True,
    metrics=[GroupBy("statuses", by="status")],
)
