"""Dead letters, from their index in Postgres: listed, grouped, shown with all that happened to them."""

from __future__ import annotations

import base64
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from analytics.cursor import cursor_of, place_of
from analytics.requests import AskDeadGroups, AskDeadList
from headrace.document import DeadLetter, parse_id, parse_time, rfc3339
from headrace.errors import DocumentError, FieldError, RequestError, problem_of
from headrace.storage.dead_letters import CHOSEN, Selection
from headrace.storage.postgres import Facts

_PAGE: Final = 100
_MOST_GROUPS: Final = 1000

_LIST: Final = f"""
SELECT seq, document_id, pipeline, stage, code, reason, pointer, errors, attempts, sender, received_at, dead_at, state,
       replays, CASE WHEN $10 THEN body END AS body
FROM dead_letters WHERE {CHOSEN} AND ($8::bigint IS NULL OR seq < $8) ORDER BY seq DESC LIMIT $9
"""
_GROUPS: Final = f"""
SELECT g.pipeline, g.stage, g.code, g.pointer, g.n, g.first_at, g.last_at, d.document_id
FROM (SELECT pipeline, stage, code, pointer, count(*) AS n, min(dead_at) AS first_at, max(dead_at) AS last_at,
             max(seq) AS seq
      FROM dead_letters WHERE {CHOSEN} GROUP BY pipeline, stage, code, pointer) AS g
JOIN dead_letters d ON d.seq = g.seq
ORDER BY g.n DESC, g.pipeline, g.stage, g.code, g.pointer LIMIT $8
"""
_OF_DOCUMENT: Final = """
SELECT d.*, a.made_by, a.at AS decided_at, a.patch_sha256, a.reason AS why
FROM dead_letters d LEFT JOIN dead_actions a ON a.id = d.action WHERE document_id = $1 ORDER BY d.seq DESC
"""
# A page with bodies ends before it is too large to be carried by the bus in a moment.
_BODIES_BYTES: Final = 4 << 20


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page ended."""

    seq: int


async def page(facts: Facts, asked: AskDeadList) -> dict[str, Any]:
    """Return {items, next}, newest first; with bodies, a page may end early."""
    limit = asked.limit or _PAGE
    before = place_of(asked.cursor, Place).seq if asked.cursor is not None else None
    found = await facts.fetch(_LIST, *_chosen(asked).arguments(), before, limit + 1, asked.body)
    shown = found[:limit]
    if asked.body:
        shown = shown[: _fitting([len(row["body"]) for row in shown])]
    return {
        "items": [{**_summary(row), **(_readable(row["body"]) if asked.body else {})} for row in shown],
        "next": cursor_of(Place(shown[-1]["seq"])) if len(found) > len(shown) else None,
    }


def _chosen(asked: AskDeadGroups) -> Selection:
    for name in ("pipeline", "stage", "code", "pointer"):
        if "\x00" in (getattr(asked, name) or ""):
            raise DocumentError(
                f"The request is not valid: {name}.",
                code="invalid_value",
                errors=[FieldError(f"/{name}", "nul_character", "Text must not hold U+0000; remove it.")],
            )
    return Selection(None, asked.pipeline, asked.stage, asked.code, asked.pointer, asked.after, asked.before)


def _fitting(sizes: list[int]) -> int:
    """Return how many bodies make a page: at least one, and no more than fit."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > _BODIES_BYTES:
            return count
    return len(sizes)


async def groups(facts: Facts, asked: AskDeadGroups) -> list[dict[str, Any]]:
    """Return what the dead letters have in common, most first; `sample_id` is the newest of each group."""
    return [
        {
            "pipeline": row["pipeline"],
            "stage": row["stage"],
            "code": row["code"],
            "pointer": row["pointer"],
            "count": row["n"],
            "first_at": rfc3339(row["first_at"]),
            "last_at": rfc3339(row["last_at"]),
            "sample_id": str(row["document_id"]),
        }
        for row in await facts.fetch(_GROUPS, *_chosen(asked).arguments(), _MOST_GROUPS)
    ]


async def show(facts: Facts, document_id: str) -> dict[str, Any]:
    """Return a dead letter by its document's id: its bytes, and each time that the document was refused.

    Bytes that are no text are in `body_base64`, and `body` is null then. A stage after refine was given the
    stored form, so that is what its letter holds.

    Raises:
        RequestError: there is none (404 `dead_letter_not_found`).
    """
    found = await of_document(facts, document_id)
    if not found:
        raise RequestError("There is no dead letter of this id.", code="dead_letter_not_found", status=404)
    chosen = next((row for row in found if row["state"] == "dead"), found[0])
    body: bytes = chosen["body"]
    return {
        **_summary(chosen),
        "block": str(chosen["block"]),
        **_readable(body),
        "history": [
            {
                "stage": row["stage"],
                "code": row["code"],
                "reason": row["reason"],
                "attempts": row["attempts"],
                "dead_at": rfc3339(row["dead_at"]),
                "block": str(row["block"]),
                "state": row["state"],
                "decided": _decided(row),
            }
            for row in reversed(found)
        ],
    }


async def of_document(facts: Facts, document_id: str) -> list[asyncpg.Record]:
    """Return every dead letter of a document, newest first; none for what is no id."""
    try:
        identity: UUID = parse_id(document_id)
    except ValueError:
        return []
    return await facts.fetch(_OF_DOCUMENT, identity)


def letter_of(row: asyncpg.Record) -> DeadLetter:
    """Return a row of the index as the letter it was made from."""
    return DeadLetter(
        id=str(row["document_id"]),
        pipeline=row["pipeline"],
        stage=row["stage"],
        code=row["code"],
        reason=row["reason"],
        attempts=row["attempts"],
        time=rfc3339(row["received_at"]),
        subject=row["sender"],
        block=str(row["block"]),
        ordinal=row["ordinal"],
        dead_at=rfc3339(row["dead_at"]),
        body=row["body"],
        errors=_errors(row),
        sha256=row["sha256"],
        replays=row["replays"],
    )


def problem(letter: DeadLetter) -> dict[str, Any]:
    """Return why a document is dead, as a problem with the stage and time of its refusal."""
    status = 409 if letter.code == "idempotency_conflict" else 422
    errors = [FieldError(**error) for error in letter.errors]
    return {
        **problem_of(DocumentError(letter.reason, code=letter.code, status=status, errors=errors)),
        "stage": letter.stage,
        "dead_at": rfc3339(parse_time(letter.dead_at)),
    }


def _summary(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": str(row["document_id"]),
        "pipeline": row["pipeline"],
        "stage": row["stage"],
        "code": row["code"],
        "reason": row["reason"],
        "pointer": row["pointer"],
        "errors": _errors(row),
        "attempts": row["attempts"],
        "sender": row["sender"],
        "received_at": rfc3339(row["received_at"]),
        "dead_at": rfc3339(row["dead_at"]),
        "state": row["state"],
        "replays": row["replays"],
    }


def _decided(row: asyncpg.Record) -> dict[str, Any] | None:
    """Return who took a letter out of the dead, when and why."""
    if row["made_by"] is None:
        return None
    return {
        "action": str(row["action"]),
        "by": row["made_by"],
        "at": rfc3339(row["decided_at"]),
        "patch_sha256": row["patch_sha256"],
        "reason": row["why"],
    }


def _errors(row: asyncpg.Record) -> list[dict[str, str]]:
    return msgspec.json.decode(row["errors"], type=list[dict[str, str]])


def _readable(body: bytes) -> dict[str, str | None]:
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}
