"""Under which id a message goes when it comes again."""

from __future__ import annotations

from typing import Any, Literal, cast

from gateway.bridge.carry import Carrier, Received
from headrace.settings import MqttSettings


def carrier(keyless: Literal["new", "content"] = "new") -> Carrier:
    nothing = cast(Any, None)
    return Carrier(nothing, nothing, nothing, {}, MqttSettings(keyless=keyless), 64)


MESSAGE = Received("ingest/a", b"{}", 1)
AGAIN = Received("ingest/a", b"{}", 1, again=True)


def test_equal_messages_are_two_documents() -> None:
    one = carrier()

    assert one.name(MESSAGE) != one.name(MESSAGE)


def test_by_content_equal_messages_of_a_topic_are_one() -> None:
    one, other = carrier("content"), carrier("content")

    assert one.name(MESSAGE) == other.name(AGAIN)
    assert one.name(MESSAGE) != one.name(Received("ingest/b", b"{}", 1))
    assert one.name(MESSAGE) != one.name(Received("ingest/a", b"[]", 1))


def test_what_could_not_be_acknowledged_has_its_id_when_it_comes_again() -> None:
    one = carrier()
    first, second = one.name(MESSAGE), one.name(MESSAGE)
    one.orphaned(MESSAGE, first)
    one.orphaned(MESSAGE, second)

    assert one.name(Received("ingest/a", b"[]", 1, again=True)) not in {first, second}
    # A new message that is equal by chance is not the old one.
    assert one.name(MESSAGE) not in {first, second}
    assert [one.name(AGAIN), one.name(AGAIN)] == [first, second]
    assert one.name(AGAIN) not in {first, second}
