"""Tallies: which documents were accepted, told in a header, without order."""

from __future__ import annotations

import pytest

from headrace.document import Envelope, given_back_line, new_id, raw_line
from headrace.identity import BARE_SENDER
from headrace.tally import Tally, accepted, is_whole, mark, told

TIME = "2026-01-31T12:59:59.123456Z"
LATER = "2026-01-31T13:00:00.000000Z"
EMPTY = Tally()


def test_a_tally_tells_no_order_and_every_repeat() -> None:
    one, two, three = new_id(), new_id(), new_id()

    assert Tally.of([one, two, three]) == Tally.of([three, one, two])
    assert Tally.of([one, two]) != Tally.of([one, three])
    assert Tally.of([one, one, two]).digest != Tally.of([two]).digest
    assert Tally.of([one, one]) - Tally.of([one]) == Tally.of([one])
    assert Tally.of([one]) + Tally.of([two, three]) - Tally.of([one, two, three]) == EMPTY


def test_a_block_tells_the_documents_of_each_minute() -> None:
    ids = [new_id() for _ in range(4)]
    lines = [
        raw_line(ids[0], TIME, b'"me"', b"{}"),
        raw_line(ids[1], LATER, b'"me"', b"{}"),
        given_back_line(Envelope(ids[2], TIME, "me", b"{}", replays=1)),  # type: ignore[arg-type]
        raw_line(ids[3], TIME, b'"%b"' % BARE_SENDER.encode(), b"{}"),
    ]
    body = b"".join(lines)

    header = accepted("the block", lines, body)

    assert told(header) == {
        "2026-01-31T12:59": Tally.of([ids[0], ids[2], mark(ids[3], BARE_SENDER, "the block")]),
        "2026-01-31T13:00": Tally.of([ids[1]]),
    }
    assert is_whole(header, body)
    assert not is_whole(header, body.replace(b"{}", b"[]", 1))
    assert is_whole("", body)


def test_a_header_never_outgrows_a_message() -> None:
    lines = [raw_line(new_id(), f"2026-01-31T{n // 60:02}:{n % 60:02}:00.000000Z", b'"me"', b"{}") for n in range(300)]

    assert accepted("b", lines, b"") == ""
    assert len(accepted("b", lines[:200], b"")) < 12_000


@pytest.mark.parametrize(
    "header",
    ["", "x", "00000000 yes", "00000000 2026-01-31T12:59=1/ab", f"00000000 2026-13-31T12:59=1/{'0' * 32}",
     f"00000000 2026-01-31T12:59=-1/{'0' * 32}", f"00000000 2026-01-31T12:59=1/{'z' * 32}"],
)  # fmt: skip
def test_what_no_gateway_says_is_nothing(header: str) -> None:
    assert told(header) == {}
