"""Answers about the whole: ledger, services, health."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.answers.common import EXAMPLE_ID, EXAMPLE_TIME, Answer


class Stored(BaseModel):
    documents: int
    facts: int


class LedgerLine(BaseModel):
    """What became of everything that one pipeline accepted."""

    accepted: int
    stored: Stored
    dead: int
    discarded: int
    in_flight: int
    duplicates: int
    balanced: bool = Field(description="whether accepted = stored + duplicates + dead + discarded + in_flight")


class Backlog(BaseModel):
    pending: int
    ack_pending: int


class Reconciled(BaseModel):
    """What was accepted from `since` to `until`, held against streams and stores document by document."""

    at: datetime
    since: datetime
    until: datetime
    findings: int
    repaired: int


class Ledger(Answer):
    """The books, by pipeline."""

    pipelines: dict[str, LedgerLine]
    at: datetime = Field(description="when the count began")
    asked_at: datetime = Field(description="when this was asked; a count that began later is of after this request")
    reconciled: dict[str, Reconciled] = Field({}, description="the last reconciliation of each pipeline that had one")
    backlog: dict[str, Backlog] = Field(description="blocks before each stage")

    example: ClassVar[Any] = {
        "pipelines": {
            "invoices": {
                "accepted": 1000,
                "stored": {"documents": 990, "facts": 990},
                "dead": 8,
                "discarded": 0,
                "in_flight": 0,
                "duplicates": 2,
                "balanced": True,
            }
        },
        "at": EXAMPLE_TIME,
        "asked_at": EXAMPLE_TIME,
        "reconciled": {
            "invoices": {"at": EXAMPLE_TIME, "since": EXAMPLE_TIME, "until": EXAMPLE_TIME, "findings": 0, "repaired": 0}
        },
        "backlog": {"refine": {"pending": 0, "ack_pending": 0}},
    }


class LiveService(BaseModel):
    """A process of the mesh, with what it says of itself."""

    model_config = ConfigDict(extra="allow")

    name: str
    id: str
    version: str
    pid: int
    since: datetime
    requests: int
    errors: int


class Consumer(BaseModel):
    """A stage's place in its stream; null where the stage does not exist yet."""

    name: str
    stream: str
    pending_blocks: int | None
    ack_pending_blocks: int | None
    oldest_pending_seconds: float | None = Field(description="age of the oldest block that is not settled; 0 if none")


class StreamInfo(BaseModel):
    name: str
    fill: float = Field(description="size over the limit beyond which it refuses")


class Mesh(Answer):
    """Who is alive, and how far the stages are."""

    services: list[LiveService]
    consumers: list[Consumer]
    streams: list[StreamInfo]
    at: datetime

    example: ClassVar[Any] = {
        "services": [
            {
                "name": "auth",
                "id": EXAMPLE_ID,
                "version": "0.1.0",
                "pid": 4242,
                "since": EXAMPLE_TIME,
                "requests": 17,
                "errors": 0,
            }
        ],
        "consumers": [
            {
                "name": "refine",
                "stream": "RAW",
                "pending_blocks": 3,
                "ack_pending_blocks": 1,
                "oldest_pending_seconds": 0.21,
            }
        ],
        "streams": [{"name": "RAW", "fill": 0.01}],
        "at": EXAMPLE_TIME,
    }


class Alive(Answer):
    status: Literal["alive"]

    example: ClassVar[Any] = {"status": "alive"}


class Check(BaseModel):
    ok: bool
    detail: str | None = Field(None, description="why not")


class Readiness(Answer):
    """Whether documents are accepted, and how each thing is that this depends on."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]

    example: ClassVar[Any] = {
        "status": "degraded",
        "checks": {
            "nats": {"ok": True},
            "streams": {"ok": True},
            "revocations": {"ok": True},
            "keys": {"ok": True},
            "auth": {"ok": True},
            "analytics": {"ok": True},
            "mongo": {"ok": False, "detail": "mongo did not answer within 2 s."},
            "postgres": {"ok": True},
            "redis": {"ok": True},
        },
    }


class Version(Answer):
    name: Literal["headrace"]
    version: str

    example: ClassVar[Any] = {"name": "headrace", "version": "0.1.0"}
