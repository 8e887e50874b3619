"""The same id again: a repeat, a conflict, or an entity that changed back."""

from __future__ import annotations

import msgspec
import pytest

from headrace.document import Envelope
from workers.outcome import Item
from workers.repeats import conflicts, first_of_each, latest_repeats


def item(document_id: str, sha256: str, second: int = 0) -> Item:
    return Item(Envelope(document_id, f"2026-01-01T00:00:{second:02}Z", "me", msgspec.Raw(b"{}"), sha256), "block")


@pytest.mark.parametrize(
    ("items", "known", "refused"),
    [
        ([], {}, set()),
        ([("a", "1"), ("b", "2")], {}, set()),
        ([("a", "1"), ("a", "1")], {}, set()),
        ([("a", "1"), ("a", "2")], {}, {1}),
        ([("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")], {}, {2}),
        ([("a", "1")], {"a": "1"}, set()),
        ([("a", "1")], {"a": "2"}, {0}),
        ([("a", "1"), ("a", "2")], {"a": "2"}, {0}),
        ([("a", "1"), ("a", "2")], {"a": "3"}, {0, 1}),
        ([("a", "1"), ("b", "1"), ("b", "2")], {"a": "1"}, {2}),
    ],
)
def test_other_bytes_under_a_known_id_are_refused(
    items: list[tuple[str, str]], known: dict[str, str], refused: set[int]
) -> None:
    given = [item(*one) for one in items]
    found = conflicts(given, first_of_each(given), known)

    assert set(found) == refused
    assert {one.error.code for one in found.values()} <= {"idempotency_conflict"}
    assert {one.error.status for one in found.values()} <= {409}


def test_the_first_of_each_id_is_what_is_offered() -> None:
    items = [item("a", "1"), item("b", "1"), item("a", "2")]

    assert first_of_each(items) == {"a": items[0], "b": items[1]}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([("a", "1", 0), ("b", "2", 1)], []),
        ([("a", "1", 0), ("b", "2", 1), ("a", "1", 2)], [2]),
        ([("a", "1", 0), ("a", "1", 3), ("a", "1", 2)], [1]),
        ([("a", "1", 2), ("a", "1", 1)], []),
        ([("a", "1", 0), ("a", "2", 1)], []),
        ([("a", "1", 0), ("a", "1", 0)], []),
    ],
)
def test_what_comes_again_later_counts_for_an_entity(items: list[tuple[str, str, int]], expected: list[int]) -> None:
    given = [item(*one) for one in items]

    assert latest_repeats(given, first_of_each(given)) == [given[place] for place in expected]
