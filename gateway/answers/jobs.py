"""Answers about jobs and their runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_ID, Answer


class JobRunLinks(BaseModel):
    self: str


class JobRun(Answer):
    """One run of a job."""

    id: str
    job: str
    cause: Literal["schedule", "manual"]
    requested_by: str | None
    outcome: Literal["queued", "running", "waiting", "succeeded", "failed", "missed"]
    attempt: int = Field(description="how often it was begun")
    scheduled_at: datetime = Field(description="when its schedule wanted it, or when it was asked for")
    started_at: datetime | None
    ended_at: datetime | None
    retry_at: datetime | None = Field(description="when the next attempt is due, while it waits for one")
    seconds: float | None = Field(description="from its first attempt to its end")
    missed_before: int = Field(description="times the job was due before it while nobody could be told")
    worker: str | None = Field(description="host, process and service of the last attempt")
    result: dict[str, Any] | None
    error: str | None
    links: JobRunLinks

    example: ClassVar[Any] = {
        "id": EXAMPLE_ID,
        "job": "users_count",
        "cause": "schedule",
        "requested_by": None,
        "outcome": "succeeded",
        "attempt": 1,
        "scheduled_at": "2026-11-23T08:15:00.000000Z",
        "started_at": "2026-11-23T08:15:00.012345Z",
        "ended_at": "2026-11-23T08:15:00.034345Z",
        "retry_at": None,
        "seconds": 0.022,
        "missed_before": 0,
        "worker": "mill:4711:auth",
        "result": {"count": 42},
        "error": None,
        "links": {"self": f"/v1/jobs/users_count/runs/{EXAMPLE_ID}"},
    }


class JobRunPage(Answer):
    items: list[JobRun]
    next: str | None

    example: ClassVar[Any] = {"items": [JobRun.example], "next": None}


class JobLinks(BaseModel):
    self: str
    runs: str


class Job(Answer):
    """Work that runs on a schedule."""

    name: str
    about: str
    service: str
    schedule: str
    zone: str
    next_run_at: datetime | None = Field(description="null while it is paused or off")
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    off: str | None = Field(description="why it does not run here at all")
    retries: int
    backoff_seconds: float = Field(description="the wait before the first retry; it doubles with each")
    missed: Literal["skip", "once"] = Field(description="whether a late run is dropped, or one makes up for all")
    timeout_seconds: float
    last_run: JobRun | None
    links: JobLinks

    example: ClassVar[Any] = {
        "name": "users_count",
        "about": "Notes how many users are registered, a row each minute.",
        "service": "auth",
        "schedule": "* * * * *",
        "zone": "UTC",
        "next_run_at": "2026-11-23T08:16:00.000000Z",
        "paused": False,
        "paused_at": None,
        "paused_by": None,
        "off": None,
        "retries": 2,
        "backoff_seconds": 5.0,
        "missed": "skip",
        "timeout_seconds": 30.0,
        "last_run": JobRun.example,
        "links": {"self": "/v1/jobs/users_count", "runs": "/v1/jobs/users_count/runs"},
    }


class JobList(Answer):
    items: list[Job]

    example: ClassVar[Any] = {"items": [Job.example]}
