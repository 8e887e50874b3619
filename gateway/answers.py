"""The shapes of answers, each with an example: OpenAPI shows them, and tests hold real answers against them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

_ID = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"
_DEAD_ID = "019aae5e-9d07-7b10-8f0e-1d3b9c2a4f02"
_TIME = "2026-11-23T08:15:30.123456Z"


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    example: ClassVar[Any]


class FieldProblem(BaseModel):
    """One broken rule."""

    pointer: str = Field(description="RFC 6901 pointer to what breaks it; empty for the whole")
    code: str
    message: str


class ProblemDetails(Answer):
    """What went wrong, by RFC 9457."""

    type: str = Field(description="URI of this kind of problem")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable name of this kind of problem, snake_case")
    request_id: str = Field(description="what the logs call this request; the header X-Request-Id has it too")
    errors: list[FieldProblem] | None = Field(None, description="every rule that the input breaks, up to 20")
    retry_after_seconds: float | None = Field(None, description="when it makes sense to try again")

    example = {
        "type": "urn:headrace:problem:scope_missing",
        "title": "Not allowed",
        "status": 403,
        "detail": "The token lacks the scope dead:read.",
        "code": "scope_missing",
        "request_id": _ID,
    }


class Account(Answer):
    """A user."""

    username: str
    scopes: list[str]

    example = {"username": "ada", "scopes": ["documents:write", "documents:read", "analytics:read"]}


class AuditEntry(BaseModel):
    """What somebody did to an account."""

    at: str
    by: str = Field(description="who did it")
    action: str = Field(description="such as logged_in, login_failed, password_changed, user_disabled, key_created")
    account: str = Field(description="whom it concerns; a digest where nobody has the name that was typed")
    client: str | None = Field(description="address that the request came from")
    detail: dict[str, Any] = Field(description="ids and names; never a secret")


class AuditPage(Answer):
    """The audit of accounts, newest first."""

    items: list[AuditEntry]
    next: str | None

    example = {
        "items": [
            {
                "at": "2026-01-06T14:03:27.415926Z",
                "by": "operator",
                "action": "user_disabled",
                "account": "ada",
                "client": None,
                "detail": {},
            }
        ],
        "next": "4711",
    }


class Caller(Answer):
    """Who the token speaks for, and what it allows."""

    username: str
    scopes: list[str]
    expires_at: int = Field(description="seconds since 1970")

    example = {"username": "ada", "scopes": ["analytics:read", "documents:write"], "expires_at": 1795421730}


class Tokens(Answer):
    """A pair of tokens, as OAuth2 names them (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="seconds")
    refresh_token: str = Field(description="good for one use")
    scope: str = Field(description="what was granted, separated by spaces")

    example = {
        "access_token": "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "token_type": "bearer",
        "expires_in": 900,
        "refresh_token": "hrr_5Yd1V0yqk0mUuBq3m2rC0s7dQe2J9b1Xf4t8aLwPzNc",
        "scope": "documents:write documents:read analytics:read",
    }


class ApiKey(Answer):
    """An API key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None

    example = {
        "id": "0f3a9c1d5e7b2468",
        "name": "invoice importer",
        "scopes": ["documents:write:invoices"],
        "created_at": _TIME,
        "expires_at": None,
    }


class NewApiKey(ApiKey):
    """An API key, shown this once. It is sent as a bearer token."""

    key: str

    example = {**ApiKey.example, "key": "hr_0f3a9c1d5e7b2468_5Yd1V0yqk0mUuBq3m2rC0s7dQe2J9b1Xf4t8aLwPzNc"}


class Link(BaseModel):
    self: str


class Receipt(Answer):
    """The document is on disk."""

    id: str
    status: Literal["accepted"]
    links: Link

    example = {"id": _ID, "status": "accepted", "links": {"self": f"/v1/documents/invoices/{_ID}"}}


class BulkItem(BaseModel):
    """What became of the document at this index: its id, or why it was refused."""

    id: str | None = None
    status: int | Literal["accepted", "stored", "dead"] | None = Field(
        None, description="422 where it was refused; after Prefer: wait, where the document is"
    )
    code: str | None = None
    errors: list[FieldProblem] | None = None


class BulkReceipt(Answer):
    """The accepted documents are on disk."""

    accepted: int
    rejected: int
    items: list[BulkItem] = Field(description="in the order of the request")

    example = {"accepted": 2, "rejected": 0, "items": [{"id": _ID}, {"id": _DEAD_ID}]}


class Sinks(BaseModel):
    documents: Literal["pending", "stored"]
    facts: Literal["pending", "stored"]


class StoredProblem(BaseModel):
    """Why the document was refused behind the door."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    stage: str
    dead_at: datetime
    errors: list[FieldProblem] | None = None


class DocumentState(Answer):
    """Where a document is."""

    id: str
    pipeline: str
    status: Literal["accepted", "stored", "dead"]
    received_at: datetime
    sinks: Sinks
    document: dict[str, Any] | None = Field(description="the stored form, once it is stored")
    problem: StoredProblem | None

    example = {
        "id": _ID,
        "pipeline": "invoices",
        "status": "accepted",
        "received_at": _TIME,
        "sinks": {"documents": "pending", "facts": "pending"},
        "document": None,
        "problem": None,
    }


class ListedDocument(BaseModel):
    id: str
    received_at: datetime
    document: dict[str, Any]


class DocumentPage(Answer):
    """Stored documents; `next` continues the list where it is not null."""

    items: list[ListedDocument]
    next: str | None

    example = {"items": [], "next": None}


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

    example = {"items": [{"pipeline": "invoices", "version": 2, "registered_at": _TIME, "mode": "event"}]}


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

    example = {
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


class MetricAnswer(Answer):
    """A metric now. `data` is {key: value} in order, or a list of points in time for a trend."""

    metric: str
    kind: str
    count: int = Field(description="how many keys there are in all")
    data: dict[str, Any] | list[dict[str, Any]]
    value: Any = Field(None, description="the one value of a metric without a key")

    example = {"metric": "lines_by_country", "kind": "count", "count": 2, "data": {"United Kingdom": 512, "France": 33}}


class MetricsAnswer(Answer):
    """Every metric of a pipeline, each with its first keys."""

    pipeline: str
    metrics: list[MetricAnswer]

    example = {"pipeline": "invoices", "metrics": [MetricAnswer.example]}


class AnalysisMethod(BaseModel):
    """Which code computed it."""

    module: str
    version: int = Field(description="of the method")


class AnalysisAnswer(Answer):
    """What a pipeline's analysis found. `result` is the analysis's own; docs/students.md explains that of students."""

    pipeline: str
    revision: int = Field(description="1 for the first result, one more for each that took its place")
    documents: int = Field(description="how many it was computed from")
    digest: str = Field(description="SHA-256 of what it was computed from, whatever ids the documents have")
    analysis: AnalysisMethod
    libraries: dict[str, str] = Field(description="versions that computed it")
    computed_at: datetime
    result: dict[str, Any]

    example = {
        "pipeline": "students",
        "revision": 3,
        "documents": 649,
        "digest": "9f2b7c1e5d3a48608c1f0e7d6b5a49382716f5e4d3c2b1a0998877665544a3c1",
        "analysis": {"module": "pipelines.analyses.students", "version": 1},
        "libraries": {"python": "3.11.9", "statsmodels": "0.15.0", "scikit-learn": "1.9.1"},
        "computed_at": _TIME,
        "result": {
            "regression": {
                "target": "G3",
                "confidence": 0.95,
                "background": {
                    "rows": 649,
                    "r_squared": 0.36,
                    "terms": [{"term": "failures", "coefficient": -1.41, "low": -1.84, "high": -0.98}],
                },
            }
        },
    }


class DeadLetter(BaseModel):
    """A document that was accepted and then refused for good."""

    id: str
    pipeline: str
    stage: str
    code: str
    reason: str
    pointer: str
    errors: list[FieldProblem]
    attempts: int
    sender: str
    received_at: datetime
    dead_at: datetime
    state: str
    replays: int = Field(description="how often the document had been replayed before")
    body: str | None = Field(None, description="what was refused, where it is text; with `body=true`")
    body_base64: str | None = Field(None, description="what was refused, where it is no text; with `body=true`")


_LETTER = {
    "id": _DEAD_ID,
    "pipeline": "searches",
    "stage": "refine",
    "code": "transform_refused",
    "reason": "No advertiser in hotel_advertisers has an offer, so there is no cheapest one; add an offer.",
    "pointer": "",
    "errors": [],
    "attempts": 1,
    "sender": "ada",
    "received_at": _TIME,
    "dead_at": "2026-11-23T08:15:30.456789Z",
    "state": "dead",
    "replays": 0,
}


class DeadLetterPage(Answer):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    next: str | None

    example = {"items": [_LETTER], "next": None}


class DeadLetterGroup(Answer):
    """Dead letters with one reason."""

    pipeline: str
    stage: str
    code: str
    pointer: str
    count: int
    first_at: datetime
    last_at: datetime
    sample_id: str

    example = {
        "pipeline": "searches",
        "stage": "refine",
        "code": "transform_refused",
        "pointer": "",
        "count": 12,
        "first_at": "2026-11-23T07:00:00.000000Z",
        "last_at": _TIME,
        "sample_id": _DEAD_ID,
    }


class Decision(BaseModel):
    """Who took a letter out of the dead."""

    action: str = Field(description="id in the audit")
    by: str
    at: datetime
    patch_sha256: str | None
    reason: str | None


class Refusal(BaseModel):
    """One time that the document was refused."""

    stage: str
    code: str
    reason: str
    attempts: int
    dead_at: datetime
    block: str
    state: Literal["dead", "replaying", "replayed", "discarded"]
    decided: Decision | None


class DeadLetterShown(DeadLetter, Answer):
    """A dead letter with its bytes and all that happened to it."""

    block: str
    body: str | None = Field(description="what was refused, where it is text")
    body_base64: str | None = Field(description="what was refused, where it is no text")
    history: list[Refusal]

    example = {
        **_LETTER,
        "block": _ID,
        "body": '{"user_id":"001adddd-6a55-4cd0-a1a1-9ca20e20d488","hotel_id":"6036"}',
        "body_base64": None,
        "history": [
            {
                "stage": "refine",
                "code": "transform_refused",
                "reason": _LETTER["reason"],
                "attempts": 1,
                "dead_at": _LETTER["dead_at"],
                "block": _ID,
                "state": "dead",
                "decided": None,
            }
        ],
    }


class DeadLetterFault(BaseModel):
    """Why one document cannot be replayed, or would be refused again."""

    id: str
    pipeline: str
    stage: str
    code: str
    detail: str
    errors: list[FieldProblem]


class FaultCount(BaseModel):
    code: str
    pointer: str
    count: int


_FAULT = {
    "id": _DEAD_ID,
    "pipeline": "invoices",
    "stage": "refine",
    "code": "patch_failed",
    "detail": "Operation 0 of the patch, move /Qty, finds nothing there, or would put a value into itself.",
    "errors": [{"pointer": "/Qty", "code": "patch_failed", "message": "Operation 0 (move) finds nothing there."}],
}


class DeadLetterTrial(Answer):
    """What a replay would do; nothing was stored."""

    would_pass: int
    would_fail: int
    reasons: list[FaultCount] = Field(description="why they would fail, most first")
    samples: list[DeadLetterFault] = Field(description="one of each kind of failure, up to 10")
    matched: int = Field(description="how many dead letters are chosen in all")
    next: int | None = Field(description="`after` of the next dry run, where there was no time for all of them")

    example = {
        "would_pass": 4999,
        "would_fail": 1,
        "reasons": [{"code": "patch_failed", "pointer": "/Qty", "count": 1}],
        "samples": [_FAULT],
        "matched": 5000,
        "next": None,
    }


class _Action(Answer):
    id: str
    action: Literal["replay", "discard"]
    state: Literal["running", "done"]
    matched: int = Field(description="how many dead letters were chosen when it began")
    samples: list[DeadLetterFault] = Field(description="what was left out, up to 10")
    problem: str | None = Field(description="what it waits for")
    at: datetime
    ended_at: datetime | None


class DeadLetterProgress(_Action):
    """How far a replay or a discard is."""

    replayed: int | None = Field(None, description="documents that are in the stream again")
    left_out: int | None = Field(None, description="dead letters that a replay cannot take; they stay")
    discarded: int | None = None

    example = {
        "id": _ID,
        "action": "replay",
        "state": "done",
        "matched": 5000,
        "replayed": 5000,
        "left_out": 0,
        "samples": [],
        "problem": None,
        "at": _TIME,
        "ended_at": _TIME,
    }


class DeadLetterReplay(_Action):
    """A replay is on its way; `/v1/dead-letters/replays/{id}` says how far it is."""

    replayed: int = Field(description="documents that are in the stream again by now")
    left_out: int = Field(description="dead letters that it cannot take; they stay")

    example = DeadLetterProgress.example


class DeadLetterDiscard(_Action):
    """Dead letters are discarded."""

    discarded: int

    example = {
        "id": _ID,
        "action": "discard",
        "state": "done",
        "matched": 12,
        "discarded": 12,
        "samples": [],
        "problem": None,
        "at": _TIME,
        "ended_at": _TIME,
    }


class AuditedAction(DeadLetterProgress):
    """Who decided what about dead letters, and why."""

    by: str
    token_id: str = Field(description="of the access token or API key")
    selection: dict[str, Any] = Field(description="`ids` or `filter`, as asked")
    ids: int = Field(description="how many ids were named")
    reason: str | None
    patch: list[dict[str, Any]] | dict[str, list[dict[str, Any]]] | None
    patch_sha256: str | None
    rate: float | None = Field(description="documents a second, at most")
    force: bool

    example = {
        **DeadLetterProgress.example,
        "by": "ada",
        "token_id": "0f3a9c1d5e7b2468",
        "selection": {"filter": {"pipeline": "invoices", "pointer": "/Quantity"}},
        "ids": 0,
        "reason": "the export wrote Qty",
        "patch": [{"op": "move", "from": "/Qty", "path": "/Quantity"}],
        "patch_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "rate": 5000.0,
        "force": False,
    }


class DeadLetterActionPage(Answer):
    """Replays and discards, newest first."""

    items: list[AuditedAction]
    next: str | None

    example = {"items": [AuditedAction.example], "next": None}


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
    at: datetime
    reconciled: dict[str, Reconciled] = Field({}, description="the last reconciliation of each pipeline that had one")
    backlog: dict[str, Backlog] = Field(description="blocks before each stage")

    example = {
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
        "at": _TIME,
        "reconciled": {"invoices": {"at": _TIME, "since": _TIME, "until": _TIME, "findings": 0, "repaired": 0}},
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

    example = {
        "services": [
            {
                "name": "auth",
                "id": _ID,
                "version": "0.1.0",
                "pid": 4242,
                "since": _TIME,
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
        "at": _TIME,
    }


class Alive(Answer):
    status: Literal["alive"]

    example = {"status": "alive"}


class Check(BaseModel):
    ok: bool
    detail: str | None = Field(None, description="why not")


class Readiness(Answer):
    """Whether documents are accepted, and how each thing is that this depends on."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]

    example = {
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

    example = {"name": "headrace", "version": "0.1.0"}


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

    example: ClassVar[dict[str, Any]] = {
        "id": _ID,
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
        "links": {"self": f"/v1/jobs/users_count/runs/{_ID}"},
    }


class JobRunPage(Answer):
    items: list[JobRun]
    next: str | None

    example = {"items": [JobRun.example], "next": None}


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

    example: ClassVar[dict[str, Any]] = {
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

    example = {"items": [Job.example]}
