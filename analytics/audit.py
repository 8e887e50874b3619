"""Who did what with dead letters, and how far it is: the rows of `dead_actions`, newest first."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from analytics.cursor import cursor_of, place_of
from analytics.requests import AskDeadAudit
from headrace.document import parse_id
from headrace.errors import RequestError
from headrace.storage import dead_letters
from headrace.storage.postgres import Facts

_PAGE: Final = "SELECT * FROM dead_actions WHERE $1::bigint IS NULL OR seq < $1 ORDER BY seq DESC LIMIT $2"


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page ended."""

    seq: int


async def page(facts: Facts, asked: AskDeadAudit) -> dict[str, Any]:
    """Return {items, next}, newest first."""
    before = place_of(asked.cursor, Place).seq if asked.cursor is not None else None
    found = await facts.fetch(_PAGE, before, asked.limit + 1)
    shown = found[: asked.limit]
    return {
        "items": [dead_letters.audited(row, brief=True) for row in shown],
        "next": cursor_of(Place(shown[-1]["seq"])) if len(found) > asked.limit else None,
    }


async def progress(facts: Facts, action_id: str) -> dict[str, Any]:
    """Return all that is known of a replay or a discard, and how far it is.

    Raises:
        RequestError: there is none of this id (404 `replay_not_found`).
    """
    try:
        row = await dead_letters.action(facts, parse_id(action_id))
    except ValueError:
        row = None
    if row is None:
        raise RequestError("There is no replay of this id.", code="replay_not_found", status=404)
    return dead_letters.audited(row)
