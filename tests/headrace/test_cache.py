"""Answers are shared and kept for a moment, never beyond what they were computed from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from headrace.cache import Cache
from headrace.errors import UnavailableError


@dataclass(frozen=True)
class Answer:
    body: bytes


Kept = Cache[Answer]


class Kitchen:
    """Makes answers, and counts them; a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.made = 0
        self.now = 0.0
        self.hold: asyncio.Event | None = None
        self.error: Exception | None = None

    async def make(self) -> Answer:
        self.made += 1
        number = self.made
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return Answer(b"%d" % number)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def cache(kitchen: Kitchen) -> Kept:
    return Cache(1.0, kitchen.clock)


async def test_an_answer_is_kept_for_its_time_and_no_longer(kitchen: Kitchen, cache: Kept) -> None:
    assert (await cache.get("a", "x", kitchen.make)).body == b"1"
    kitchen.now = 0.9
    assert (await cache.get("a", "x", kitchen.make)).body == b"1"
    kitchen.now = 1.0
    assert (await cache.get("a", "x", kitchen.make)).body == b"2"


async def test_questions_and_pipelines_are_told_apart(kitchen: Kitchen, cache: Kept) -> None:
    bodies = [(await cache.get(*key, kitchen.make)).body for key in (("a", "x"), ("a", "y"), ("b", "x"))]
    assert bodies == [b"1", b"2", b"3"]
    cache.drop("a")
    bodies = [(await cache.get(*key, kitchen.make)).body for key in (("a", "x"), ("b", "x"))]
    assert bodies == [b"4", b"3"]


async def test_those_who_ask_at_the_same_time_share_one_answer(kitchen: Kitchen, cache: Kept) -> None:
    kitchen.hold = asyncio.Event()
    asking = [asyncio.create_task(cache.get("a", "x", kitchen.make)) for _ in range(5)]
    await asyncio.sleep(0)
    # The first to ask may lose patience; the others get their answer all the same.
    asking[0].cancel()
    await asyncio.sleep(0)
    kitchen.hold.set()

    assert {(await task).body for task in asking[1:]} == {b"1"}


async def test_an_answer_begun_before_a_change_is_not_given_after_it(kitchen: Kitchen, cache: Kept) -> None:
    kitchen.hold = asyncio.Event()
    before = asyncio.create_task(cache.get("a", "x", kitchen.make))
    await asyncio.sleep(0)
    cache.drop("a")
    after = asyncio.create_task(cache.get("a", "x", kitchen.make))
    await asyncio.sleep(0)
    kitchen.hold.set()

    assert ((await before).body, (await after).body) == (b"1", b"2")
    assert (await cache.get("a", "x", kitchen.make)).body == b"2"


async def test_a_failure_is_not_kept(kitchen: Kitchen, cache: Kept) -> None:
    kitchen.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await cache.get("a", "x", kitchen.make)
    kitchen.error = None

    assert (await cache.get("a", "x", kitchen.make)).body == b"2"


async def test_old_answers_make_room(kitchen: Kitchen, cache: Kept) -> None:
    for number in range(1000):
        await cache.get("a", number, kitchen.make)

    assert (await cache.get("a", 999, kitchen.make)).body == b"1000"
    assert (await cache.get("a", 0, kitchen.make)).body == b"1001"


async def test_a_question_may_say_how_long_its_answer_holds(kitchen: Kitchen, cache: Kept) -> None:
    assert (await cache.get("a", "x", kitchen.make, seconds=3600)).body == b"1"
    kitchen.now = 3599
    assert (await cache.get("a", "x", kitchen.make, seconds=3600)).body == b"1"
    cache.drop_all()
    assert (await cache.get("a", "x", kitchen.make, seconds=3600)).body == b"2"
