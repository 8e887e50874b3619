"""Following: nothing twice, nothing missed, oldest first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from cli.api import Api
from cli.following import Follower, parse_since
from producer.target import Headrace
from tests.cli.stand_in import PIPELINE, TOKEN, StandIn

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.fixture
async def api(gateway: StandIn) -> AsyncIterator[Api]:
    async with Api(Headrace(gateway.url, TOKEN)) as api:
        yield api


async def ids(follower: Follower) -> list[str]:
    return [one["id"] for one in await follower.new()]


async def test_what_was_there_before_is_not_news(api: Api, gateway: StandIn) -> None:
    for seconds in range(20):
        gateway.store(seconds)
    follower = Follower(api, PIPELINE, None)

    assert await ids(follower) == []
    assert await ids(follower) == []


async def test_news_come_oldest_first_and_once_even_over_many_pages(api: Api, gateway: StandIn) -> None:
    gateway.store(0)
    follower = Follower(api, PIPELINE, None)
    await follower.new()
    news = [gateway.store(10 + number / 10) for number in range(10)]

    assert await ids(follower) == news
    assert await ids(follower) == []


async def test_the_first_document_of_an_empty_pipeline_is_news(api: Api, gateway: StandIn) -> None:
    follower = Follower(api, PIPELINE, None)

    assert await ids(follower) == []
    assert await ids(follower) == []
    first = gateway.store(1)
    assert await ids(follower) == [first]


async def test_a_document_stored_after_a_later_one_is_not_missed(api: Api, gateway: StandIn) -> None:
    gateway.store(0)
    follower = Follower(api, PIPELINE, None)
    await follower.new()
    later = gateway.store(12)
    assert await ids(follower) == [later]
    sooner = gateway.store(10)

    assert await ids(follower) == [sooner]


async def test_since_begins_there(api: Api, gateway: StandIn) -> None:
    gateway.store(1)
    wanted = [gateway.store(seconds) for seconds in (30, 31, 32, 33, 60)]
    follower = Follower(api, PIPELINE, NOW + timedelta(seconds=30))

    assert await ids(follower) == wanted
    assert await ids(follower) == []


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("2d", NOW - timedelta(days=2)),
        ("2026-11-23T07:00:00Z", NOW - timedelta(hours=1)),
        ("2026-11-23T08:00:00+01:00", NOW - timedelta(hours=1)),
        ("2026-11-23", NOW - timedelta(hours=8)),
    ],
)
def test_since_is_a_time_or_how_long_ago(text: str, time: datetime) -> None:
    assert parse_since(text, NOW) == time


@pytest.mark.parametrize("text", ["", "soon", "5", "5w", "-5m"])
def test_since_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="--since"):
        parse_since(text, NOW)
