"""Repeats and conflicts: the same id again, with the same bytes or with others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from headrace.document import parse_time
from headrace.errors import DocumentError, FieldError
from workers.outcome import Item, Refused


def first_of_each(items: Sequence[Item]) -> dict[str, Item]:
    """Return the first item of each id."""
    firsts: dict[str, Item] = {}
    for item in items:
        firsts.setdefault(item.envelope.id, item)
    return firsts


def latest_repeats(items: Sequence[Item], firsts: Mapping[str, Item]) -> list[Item]:
    """Return, of each id that comes again with the same bytes, its latest envelope where that is not the first.

    An entity that changes and changes back is told so by a repeat; its record has to follow.
    """
    latest: dict[str, Item] = {}
    for item in items:
        envelope = item.envelope
        so_far = latest.get(envelope.id, firsts[envelope.id])
        if envelope.sha256 == so_far.envelope.sha256 and _time(item) > _time(so_far):
            latest[envelope.id] = item
    return list(latest.values())


def _time(item: Item) -> datetime:
    return parse_time(item.envelope.time)


def conflicts(items: Sequence[Item], firsts: Mapping[str, Item], known: Mapping[str, str]) -> dict[int, Refused]:
    """Return the items, by place, whose id belongs to other bytes.

    Args:
        firsts: what was offered to the store.
        known: digest as stored, of ids that were there before; it wins over `firsts`.
    """
    if not known and len(firsts) == len(items):
        return {}
    refused = {}
    for place, item in enumerate(items):
        winner = known.get(item.envelope.id) or firsts[item.envelope.id].envelope.sha256
        if winner != item.envelope.sha256:
            refused[place] = Refused(
                DocumentError(
                    "Another document has this Idempotency-Key.",
                    code="idempotency_conflict",
                    status=409,
                    errors=[FieldError("", "idempotency_conflict", "Send it under a key of its own.")],
                )
            )
    return refused
