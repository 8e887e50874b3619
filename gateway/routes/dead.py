"""/v1/dead-letters: documents that were accepted and then refused for good; what people decide about them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from gateway.access import scoped
from gateway.answers.dead_letters import (
    AuditedAction,
    DeadLetterActionPage,
    DeadLetterDiscard,
    DeadLetterGroup,
    DeadLetterPage,
    DeadLetterReplay,
    DeadLetterShown,
    DeadLetterTrial,
)
from gateway.forward import asker, json_of
from gateway.routing import JSON, Routes, page, passed
from headrace.document import rfc3339
from headrace.moment import Moment

_STORE_PROBLEMS: Final = ("analytics_unavailable", "postgres_unavailable")
_DECISION_PROBLEMS: Final = (
    *("malformed_json", "dead_letter_not_found", "too_large", "unsupported_media_type", "unsupported_encoding"),
    *("invalid_request", "too_many_replays", "workers_unavailable", "postgres_unavailable"),
)
# Travels to the workers in one message of at most 1 MiB.
_BODY_MAX_BYTES: Final = 512 * 1024

Word = Annotated[str | None, Query(max_length=300)]
When = Annotated[Moment | None, Query()]


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/dead-letters",
        "listDeadLetters",
        tag="dead letters",
        summary="List dead letters",
        access=scoped("dead:read"),
        answer=DeadLetterPage,
        headers=("Link",),
        problems=("invalid_request", "invalid_value", "invalid_cursor", *_STORE_PROBLEMS),
    )
    async def listed(
        request: Request,
        pipeline: Word = None,
        stage: Word = None,
        code: Word = None,
        pointer: Word = None,
        after: When = None,
        before: When = None,
        cursor: Annotated[str | None, Query(min_length=1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        body: bool = False,
    ) -> Response:
        """Newest first; those that were replayed or discarded are not in it.

        `after` and `before` are of the refusal. With `body=true` each has its bytes; such a page may end early.
        """
        filters = _filters(pipeline, stage, code, pointer, after, before)
        asked: dict[str, Any] = {**filters, "cursor": cursor, "limit": limit}
        shown = {**filters, "limit": str(limit)}
        if body:
            asked["body"] = True
            shown["body"] = "true"
        return page(await door.ask("analytics", "dead.list", asked), request.url.path, shown)

    @routes.add(
        "GET",
        "/v1/dead-letters/groups",
        "groupDeadLetters",
        tag="dead letters",
        summary="Dead letters by reason",
        access=scoped("dead:read"),
        answer=DeadLetterGroup,
        many=True,
        problems=("invalid_request", "invalid_value", *_STORE_PROBLEMS),
    )
    async def groups(
        pipeline: Word = None,
        stage: Word = None,
        code: Word = None,
        pointer: Word = None,
        after: When = None,
        before: When = None,
    ) -> Response:
        """What they have in common, the most frequent first."""
        filters = _filters(pipeline, stage, code, pointer, after, before)
        return passed(await door.ask("analytics", "dead.groups", filters))

    @routes.add(
        "GET",
        "/v1/dead-letters/audit",
        "auditDeadLetters",
        tag="dead letters",
        summary="Who replayed and discarded what",
        access=scoped("dead:read"),
        answer=DeadLetterActionPage,
        headers=("Link",),
        problems=("invalid_request", "invalid_cursor", *_STORE_PROBLEMS),
    )
    async def audit(
        request: Request,
        cursor: Annotated[str | None, Query(min_length=1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Newest first: who, when, which dead letters, with which patch, why, and how far it is. Kept for good.

        Of many ids, the first ten are listed, and a long patch is left out; `/v1/dead-letters/replays/{id}` has all.
        """
        reply = await door.ask("analytics", "dead.audit", {"cursor": cursor, "limit": limit})
        return page(reply, request.url.path, {"limit": str(limit)})

    @routes.add(
        "POST",
        "/v1/dead-letters/replay",
        "replayDeadLetters",
        tag="dead letters",
        summary="Replay dead letters, or try it out",
        access=scoped("dead:write"),
        answer=DeadLetterReplay,
        status=202,
        also={200: DeadLetterTrial},
        body=_body(_REPLAY, _REPLAY_EXAMPLES, []),
        problems=(*_DECISION_PROBLEMS, "invalid_patch"),
    )
    async def replay(request: Request) -> Response:
        """Give documents back to the stream under their own ids, as they came or patched (RFC 6902).

        With `dry_run`, today's pipeline judges them and nothing is stored; where `next` is not null, there are more:
        ask again with `after` set to it. Without, the answer comes when all are in the stream or after two seconds;
        what is not done by then goes on by itself, whatever happens to the process that does it. What a replay
        cannot take stays a dead letter, is counted in `left_out` and told in `samples`.
        """
        payload = await json_of(request, _BODY_MAX_BYTES)
        return passed(await door.ask("workers", "dead.replay", payload, headers=asker(request)))

    @routes.add(
        "GET",
        "/v1/dead-letters/replays/{id}",
        "showReplay",
        tag="dead letters",
        summary="How far a replay or a discard is",
        access=scoped("dead:read"),
        answer=AuditedAction,
        problems=("replay_not_found", *_STORE_PROBLEMS),
    )
    async def progress(id: str) -> Response:  # noqa: A002  # the path's own word
        """All that the audit has on it; `problem` says what it waits for, if anything."""
        return passed(await door.ask("analytics", "dead.replay", {"id": id}))

    @routes.add(
        "DELETE",
        "/v1/dead-letters",
        "discardDeadLetters",
        tag="dead letters",
        summary="Discard dead letters",
        access=scoped("dead:write"),
        answer=DeadLetterDiscard,
        also={202: DeadLetterDiscard},
        body=_body(_DISCARD, _DISCARD_EXAMPLES, ["reason"]),
        problems=_DECISION_PROBLEMS,
    )
    async def discard(request: Request) -> Response:
        """Take dead letters out of the list for good, with the reason; their bytes are kept.

        202 where there are so many that it goes on after the answer.
        """
        payload = await json_of(request, _BODY_MAX_BYTES)
        return passed(await door.ask("workers", "dead.discard", payload, headers=asker(request)))

    @routes.add(
        "GET",
        "/v1/dead-letters/{id}",
        "showDeadLetter",
        tag="dead letters",
        summary="Show a dead letter",
        access=scoped("dead:read"),
        answer=DeadLetterShown,
        problems=("dead_letter_not_found", *_STORE_PROBLEMS),
    )
    async def shown(id: str) -> Response:  # noqa: A002  # the path's own word
        """Its bytes, every broken rule, and all that happened to it."""
        return passed(await door.ask("analytics", "dead.show", {"id": id}))


def _filters(
    pipeline: str | None,
    stage: str | None,
    code: str | None,
    pointer: str | None,
    after: datetime | None,
    before: datetime | None,
) -> dict[str, str]:
    words = {"pipeline": pipeline, "stage": stage, "code": code, "pointer": pointer}
    times = {name: rfc3339(value) for name, value in (("after", after), ("before", before)) if value is not None}
    return {**{name: value for name, value in words.items() if value is not None}, **times}


def _body(schema: dict[str, Any], examples: dict[str, Any], required: list[str]) -> dict[str, Any]:
    content = {
        "schema": {"type": "object", "additionalProperties": False, **schema, "required": required},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"required": True, "content": {JSON: content}}


_ID: Final = "019aae5e-9d07-7b10-8f0e-1d3b9c2a4f02"
_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_PATCH: Final = {
    "type": "array",
    "minItems": 1,
    "maxItems": 100,
    "description": "JSON Patch (RFC 6902)",
    "items": {
        "type": "object",
        "required": ["op", "path"],
        "properties": {
            "op": {"enum": ["add", "remove", "replace", "move", "copy", "test"]},
            "path": {"type": "string", "description": "JSON Pointer (RFC 6901)"},
            "from": {"type": "string", "description": "JSON Pointer, of move and copy"},
            "value": {"description": "of add, replace and test"},
        },
    },
}
_CHOSEN: Final = {
    "ids": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": {"type": "string", "format": "uuid"}},
    "filter": {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            **dict.fromkeys(("pipeline", "stage", "code", "pointer"), _TEXT),
            "after": {**_TIME, "description": "refused after this"},
            "before": {**_TIME, "description": "refused before this"},
        },
    },
}
_REASON: Final = {"type": "string", "minLength": 1, "maxLength": 500, "description": "kept in the audit"}
_REPLAY: Final = {
    "description": "exactly one of `ids`, `filter` and `patches` chooses the dead letters",
    "properties": {
        **_CHOSEN,
        "patch": {**_PATCH, "description": "JSON Patch (RFC 6902) of each document"},
        "patches": {
            "type": "object",
            "minProperties": 1,
            "description": "a JSON Patch for each of these documents, by id",
            "additionalProperties": _PATCH,
        },
        "dry_run": {"type": "boolean", "default": False},
        "after": {"type": "integer", "minimum": 0, "description": "of a dry run: `next` of the one before"},
        "rate": {"type": "number", "minimum": 1, "description": "documents a second, at most"},
        "force": {
            "type": "boolean",
            "default": False,
            "description": "also what was replayed too often, or is in conflict with a stored document",
        },
        "reason": _REASON,
    },
}
_DISCARD: Final = {
    "description": "exactly one of `ids` and `filter` chooses the dead letters",
    "properties": {**_CHOSEN, "reason": _REASON},
}
_REPLAY_EXAMPLES: Final = {
    "try it out": {
        "filter": {"pipeline": "invoices", "code": "invalid_document", "pointer": "/Quantity"},
        "patch": [{"op": "move", "from": "/Qty", "path": "/Quantity"}],
        "dry_run": True,
    },
    "replay": {"ids": [_ID], "reason": "the transform is mended"},
}
_DISCARD_EXAMPLES: Final = {"discard": {"ids": [_ID], "reason": "sent by a test"}}
