"""Answers about pipelines and the versions of their schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_TIME, Answer


class MetricInfo(BaseModel):
    name: str
    kind: Literal["count", "sum", "minimum", "maximum", "latest", "trend", "group_by", "distinct"]
    by: list[str] = Field(description="fields that make its key")
    of: str | list[str] | None = Field(None, description="field that it works on, or fields that it picks")
    at: str | None = Field(None, description="field with the event's own time")
    every_seconds: int | None = Field(None, description="width of its buckets of time")
    link: str


class ViewInfo(BaseModel):
    method: Literal["GET", "POST"]
    path: str
    summary: str


class PipelineLinks(BaseModel):
    self: str
    documents: str
    analytics: str
    analysis: str | None = Field(None, description="where it has one")


class PipelineInfo(Answer):
    """A kind of document."""

    name: str
    description: str
    version: int
    mode: Literal["event", "entity"] = Field(
        description="event keeps every document, entity the newest version by `key`"
    )
    key: list[str]
    accepts: dict[str, Any] = Field(description="JSON Schema of what is sent")
    yields: dict[str, Any] = Field(description="JSON Schema of what is stored")
    metrics: list[MetricInfo]
    views: list[ViewInfo]
    document: dict[str, Any] = Field(alias="example", description="a valid document")
    links: PipelineLinks


class PipelineList(Answer):
    items: list[PipelineInfo]


class RegisteredSchema(BaseModel):
    """That a version of a schema is registered."""

    pipeline: str
    version: int
    registered_at: datetime
    mode: Literal["event", "entity"]


class SchemaList(Answer):
    items: list[RegisteredSchema]

    example: ClassVar[Any] = {
        "items": [{"pipeline": "invoices", "version": 2, "registered_at": EXAMPLE_TIME, "mode": "event"}]
    }


class SchemaVersion(RegisteredSchema):
    """One version of a pipeline's schema."""

    key: list[str]
    accepts: dict[str, Any] = Field(description="JSON Schema of what is sent")
    yields: dict[str, Any] = Field(description="JSON Schema of what is stored")
    fields: dict[str, str] = Field(description="type in Postgres of each stored field, by path")


class SchemaVersions(Answer):
    """All versions, newest first."""

    pipeline: str
    items: list[SchemaVersion]

    example: ClassVar[Any] = {
        "pipeline": "invoices",
        "items": [
            {
                **SchemaList.example["items"][0],
                "key": [],
                "accepts": {
                    "type": "object",
                    "properties": {"Quantity": {"type": "integer"}},
                    "required": ["Quantity"],
                },
                "yields": {"type": "object", "properties": {"quantity": {"type": "integer"}}, "required": ["quantity"]},
                "fields": {"quantity": "bigint"},
            }
        ],
    }
