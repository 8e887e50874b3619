"""What became of the documents of one request, judged from the answer alone. Pure.

accepted   the server gave it an id, so it promised to keep it
refused    the server said no, for a reason it names: nothing was stored
failed     anything else; `unknown` says that it may have been stored all the same
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

_INDEX = re.compile(r"/[0-9]+(?=/|$)")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    retry_after_seconds: float | None = None


class SendError(Exception):
    """No answer came. `reason` is a stable snake_case name; `unknown` says that the request may have had effect."""

    def __init__(self, reason: str, *, unknown: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused document: its place in the request, the reason it is counted under, and the broken rules."""

    index: int
    reason: str
    status: int
    errors: list[dict[str, Any]]


@dataclass(slots=True)
class Outcome:
    """What became of each document of one request; ids are the 16 bytes of a UUID."""

    ids: list[bytes] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    failed: int = 0
    failure: str = ""
    unknown: bool = False
    stored: bool = False


class _Single(msgspec.Struct):
    id: str
    status: str = "accepted"


class _Item(msgspec.Struct):
    id: str | None = None
    status: int | str = 0
    code: str = ""
    errors: list[dict[str, Any]] = []


class _Many(msgspec.Struct):
    items: list[_Item]


class _Problem(msgspec.Struct):
    code: str = ""
    errors: list[dict[str, Any]] = []
    items: list[_Item] = []


_single = msgspec.json.Decoder(_Single)
_many = msgspec.json.Decoder(_Many)
_problem = msgspec.json.Decoder(_Problem)

_OUTCOME_UNKNOWN = "outcome_unknown"


def outcome_of(answer: Answer, documents: int, *, bulk: bool) -> Outcome:
    """Return what became of each of the request's documents; their numbers always add up to `documents`."""
    if answer.status in (200, 202, 207):
        try:
            return _accepted_many(answer.body, documents) if bulk else _accepted(answer.body)
        except (msgspec.MsgspecError, ValueError):
            return Outcome(failed=documents, failure="bad_answer", unknown=True)
    return _not_accepted(answer, documents)


def failure_of(error: SendError, documents: int) -> Outcome:
    return Outcome(failed=documents, failure=error.reason, unknown=error.unknown)


def _accepted(body: bytes) -> Outcome:
    answer = _single.decode(body)
    return Outcome(ids=[_id(answer.id)], stored=answer.status == "stored")


def _accepted_many(body: bytes, documents: int) -> Outcome:
    """Raises ValueError where the answer does not speak of every document."""
    items = _many.decode(body).items
    if len(items) != documents:
        raise ValueError("an answer about other documents than were sent")
    outcome = Outcome()
    for index, item in enumerate(items):
        if item.id is not None and not item.errors:
            outcome.ids.append(_id(item.id))
        else:
            status = item.status if isinstance(item.status, int) else 422
            outcome.refused.append(Refusal(index, _reason(item.code, status, item.errors), status, item.errors))
    return outcome


def _not_accepted(answer: Answer, documents: int) -> Outcome:
    try:
        problem = _problem.decode(answer.body)
    except msgspec.MsgspecError:
        problem = _Problem()
    refused = 400 <= answer.status < 500
    # A 503 that names its cause is a clear no; without one it may come from anything on the way.
    if answer.status == 503 and problem.code and problem.code != _OUTCOME_UNKNOWN:
        refused = True
    if not refused:
        return Outcome(failed=documents, failure=problem.code or f"http_{answer.status}", unknown=True)
    items = problem.items if len(problem.items) == documents else []
    return Outcome(
        refused=[
            Refusal(
                index,
                _reason(
                    (item.code if item else "") or problem.code, answer.status, item.errors if item else problem.errors
                ),
                answer.status,
                item.errors if item else problem.errors,
            )
            for index, item in enumerate(items or [None] * documents)
        ]
    )


def _id(text: str) -> bytes:
    identity = bytes.fromhex(text.replace("-", ""))
    if len(identity) != 16:
        raise ValueError("an id that is no UUID")
    return identity


def _reason(code: str, status: int, errors: list[dict[str, Any]]) -> str:
    """Return the code and the first broken rule; the same field of different list elements is one reason."""
    name = code or ("invalid_document" if status == 422 else f"http_{status}")
    if not errors:
        return name
    pointer = _INDEX.sub("/*", str(errors[0].get("pointer", "")))[:120]
    return " ".join(part for part in (name, pointer, str(errors[0].get("code", ""))[:60]) if part)
