"""Answers about dead letters, and what was done with them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_DEAD_ID, EXAMPLE_ID, EXAMPLE_TIME, Answer, FieldProblem


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
    "id": EXAMPLE_DEAD_ID,
    "pipeline": "searches",
    "stage": "refine",
    "code": "transform_refused",
    "reason": "No advertiser in hotel_advertisers has an offer, so there is no cheapest one; add an offer.",
    "pointer": "",
    "errors": [],
    "attempts": 1,
    "sender": "ada",
    "received_at": EXAMPLE_TIME,
    "dead_at": "2026-11-23T08:15:30.456789Z",
    "state": "dead",
    "replays": 0,
}


class DeadLetterPage(Answer):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    next: str | None

    example: ClassVar[Any] = {"items": [_LETTER], "next": None}


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

    example: ClassVar[Any] = {
        "pipeline": "searches",
        "stage": "refine",
        "code": "transform_refused",
        "pointer": "",
        "count": 12,
        "first_at": "2026-11-23T07:00:00.000000Z",
        "last_at": EXAMPLE_TIME,
        "sample_id": EXAMPLE_DEAD_ID,
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

    example: ClassVar[Any] = {
        **_LETTER,
        "block": EXAMPLE_ID,
        "body": '{"user_id":"001adddd-6a55-4cd0-a1a1-9ca20e20d488","hotel_id":"6036"}',
        "body_base64": None,
        "history": [
            {
                "stage": "refine",
                "code": "transform_refused",
                "reason": _LETTER["reason"],
                "attempts": 1,
                "dead_at": _LETTER["dead_at"],
                "block": EXAMPLE_ID,
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
    "id": EXAMPLE_DEAD_ID,
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

    example: ClassVar[Any] = {
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

    example: ClassVar[Any] = {
        "id": EXAMPLE_ID,
        "action": "replay",
        "state": "done",
        "matched": 5000,
        "replayed": 5000,
        "left_out": 0,
        "samples": [],
        "problem": None,
        "at": EXAMPLE_TIME,
        "ended_at": EXAMPLE_TIME,
    }


class DeadLetterReplay(_Action):
    """A replay is on its way; `/v1/dead-letters/replays/{id}` says how far it is."""

    replayed: int = Field(description="documents that are in the stream again by now")
    left_out: int = Field(description="dead letters that it cannot take; they stay")

    example: ClassVar[Any] = DeadLetterProgress.example


class DeadLetterDiscard(_Action):
    """Dead letters are discarded."""

    discarded: int

    example: ClassVar[Any] = {
        "id": EXAMPLE_ID,
        "action": "discard",
        "state": "done",
        "matched": 12,
        "discarded": 12,
        "samples": [],
        "problem": None,
        "at": EXAMPLE_TIME,
        "ended_at": EXAMPLE_TIME,
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

    example: ClassVar[Any] = {
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

    example: ClassVar[Any] = {"items": [AuditedAction.example], "next": None}
