"""Envelopes and blocks: what travels is what was sent, and ids say who made them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.document import (
    Block,
    DeadLetter,
    Envelope,
    clean_line,
    dead_letter_lines,
    dead_letters,
    derived_id,
    digest,
    envelopes,
    id_bytes,
    json_text,
    new_id,
    one_line,
    parse_id,
    parse_time,
    parts,
    raw_line,
    rfc3339,
)

TIME = "2026-01-02T03:04:05.000006Z"


def test_new_ids_differ_and_are_in_order_of_time() -> None:
    ids = [new_id() for _ in range(1000)]

    assert sorted(set(ids)) == ids
    assert {parse_id(one).version for one in ids} == {7}


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_derived_id_belongs_to_its_parts_alone(one: list[str], other: list[str]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (("a", ""), ("a",)), (('","',), ("", ""))])
def test_parts_of_a_derived_id_do_not_run_into_each_other(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert derived_id(*one) != derived_id(*other)


def test_an_id_has_the_bytes_of_its_uuid() -> None:
    one = new_id()

    assert id_bytes(one) == parse_id(one).bytes


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_is_read_back_to_the_microsecond(moment: datetime) -> None:
    text = rfc3339(moment)

    assert len(text) == 27
    assert parse_time(text) == moment


@given(st.lists(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)), min_size=2))  # noqa: DTZ001
def test_times_in_text_are_in_their_own_order(moments: list[datetime]) -> None:
    assert [rfc3339(moment) for moment in sorted(moments)] == sorted(map(rfc3339, moments))


def test_a_time_of_another_zone_is_told_in_utc() -> None:
    vienna = timezone(timedelta(hours=2))

    assert rfc3339(datetime(2026, 6, 1, 1, 30, tzinfo=vienna)) == "2026-05-31T23:30:00.000000Z"


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z", "12"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53)), st.text())
def test_a_raw_line_carries_the_very_bytes_of_the_document(document: dict[str, object], sender: str) -> None:
    data = one_line(json.dumps(document, indent=1).encode())
    line = raw_line(new_id(), TIME, json_text(sender), data)
    [found] = envelopes(line)

    assert line.count(b"\n") == 1
    assert bytes(found.data) == data
    assert found.subject == sender
    assert (found.time, found.sha256, found.ordinal) == (TIME, "", 0)


@given(st.text(), st.integers(0, 999), st.dictionaries(st.text(), st.text()))
def test_a_clean_line_is_read_back_whole(sender: str, ordinal: int, document: dict[str, str]) -> None:
    data = json_text(document)
    envelope = Envelope(new_id(), TIME, sender, msgspec.Raw(b"{}"), ordinal=ordinal)
    [found] = envelopes(clean_line(envelope, digest(b"{}"), data))

    assert found == Envelope(envelope.id, TIME, sender, msgspec.Raw(data), digest(b"{}"), ordinal)


@pytest.mark.parametrize(
    "body", [b"5", b"[]", b'{"id":"x"}', b"{", b'{"id":1,"time":"","subject":"","data":{}}', b"\xff", b"\x00" * 9]
)
def test_what_is_no_block_is_refused(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        envelopes(body)


@given(st.binary(), st.text())
def test_a_dead_letter_keeps_any_bytes(body: bytes, reason: str) -> None:
    letter = DeadLetter(
        new_id(), "p", "refine", "code", reason, 3, TIME, "me", new_id(), 1, TIME, body,
        [{"pointer": "/a", "code": "c", "message": reason}],
    )  # fmt: skip
    lines = dead_letter_lines([letter, letter])

    assert dead_letters(b"".join(lines)) == [letter, letter]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


def test_a_block_says_its_id_and_size_in_its_headers() -> None:
    headers = Block("b", "p", b"", 7).headers("m")

    assert headers == {"Headrace-Block": "b", "Headrace-Count": "7", "Nats-Msg-Id": "m"}


@pytest.mark.parametrize(
    ("lengths", "max_count", "max_bytes", "expected"),
    [
        ([], 10, 10, []),
        ([1], 10, 10, [[1]]),
        ([5, 5, 1], 10, 10, [[5, 5], [1]]),
        ([5, 5, 1], 2, 100, [[5, 5], [1]]),
        ([50, 1], 10, 10, [[50], [1]]),
        ([1, 50, 1], 10, 10, [[1], [50], [1]]),
        ([50, 50], 10, 10, [[50], [50]]),
        ([10, 1], 10, 10, [[10], [1]]),
        ([1, 1, 1], 1, 10, [[1], [1], [1]]),
    ],
)
def test_lines_are_cut_by_count_and_bytes(
    lengths: list[int], max_count: int, max_bytes: int, expected: list[list[int]]
) -> None:
    found = parts([b"x" * length for length in lengths], max_count, max_bytes)

    assert [[len(line) for line in part] for part in found] == expected


@given(st.lists(st.binary(max_size=30)), st.integers(1, 10), st.integers(1, 60))
def test_no_line_is_lost_or_moved_by_cutting(lines: list[bytes], max_count: int, max_bytes: int) -> None:
    found = list(parts(lines, max_count, max_bytes))

    assert [line for part in found for line in part] == lines
    assert all(part and len(part) <= max_count for part in found)
    assert all(sum(map(len, part)) <= max_bytes or len(part) == 1 for part in found)
