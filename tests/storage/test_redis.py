"""Redis holds a projection: absolute values, each only ever replaced by a newer one."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from headrace.errors import UnavailableError
from headrace.storage.redis import Projected, Projection, as_json

ONE = Projected("m", '["a"]', 0, 1, None, None, None, 1)


async def test_what_is_written_is_read_back_exactly(projection: Projection) -> None:
    rows = [
        ONE,
        Projected("m", '["a[0]","é\\""]', 1767225600, 2**62, Decimal("0.10"), None, None, 2),
        Projected("m", "[]", -60, 3, Decimal("-1E-20"), datetime(2026, 1, 1, 0, 0, 0, 5, UTC), '{"a":[1,null]}', 9),
        Projected("m", "[null]", 0, 1, Decimal(10**30), None, '"text"', 1),
    ]
    await projection.project("p", rows)

    assert sorted(await projection.read("p", "m"), key=str) == sorted(rows, key=str)
    assert await projection.size("p", "m") == 4
    assert await projection.read("p", "other") == []


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 10])))
async def test_an_older_write_changes_nothing(projection: Projection, order: tuple[int, ...]) -> None:
    for version in order:
        await projection.project("p", [replace(ONE, count=version * 100, version=version)])

    assert await projection.read("p", "m") == [replace(ONE, count=1000, version=10)]


async def test_writes_that_race_end_with_the_newest(projection: Projection) -> None:
    rows = [replace(ONE, key=f'["{key}"]', count=v, version=v) for v in range(1, 30) for key in range(20)]
    await asyncio.gather(*(projection.project("p", rows[start::5]) for start in range(5)))

    assert {(one.count, one.version) for one in await projection.read("p", "m")} == {(29, 29)}


async def test_more_rows_than_one_call_takes_are_all_written(projection: Projection) -> None:
    rows = [replace(ONE, metric=metric, key=f"[{n}]") for metric in "mn" for n in range(2500)]
    await projection.project("p", rows)

    assert [await projection.size("p", metric) for metric in "mn"] == [2500, 2500]


async def test_clearing_takes_one_pipeline_s_metrics(projection: Projection) -> None:
    for pipeline in ("p", "q"):
        await projection.project(pipeline, [ONE, replace(ONE, metric="n")])
    await projection.clear("p", ["m"])
    await projection.clear("p", [])

    assert [await projection.size(*place) for place in (("p", "m"), ("p", "n"), ("q", "m"))] == [0, 1, 1]


async def test_the_run_is_known_until_the_data_is_gone(projection: Projection, redis: Redis, namespace: str) -> None:
    first = await projection.run_id()
    assert await projection.run_id() == first

    async for key in redis.scan_iter(match=f"*{namespace}*"):
        await redis.delete(key)
    assert await projection.run_id() != first


async def test_a_server_that_refuses_writes_is_away(projection: Projection, redis: Redis, namespace: str) -> None:
    await redis.set(f"headrace:{namespace}p:m", "of another kind")
    with pytest.raises(UnavailableError) as caught:
        await projection.project("p", [ONE])

    assert caught.value.code == "redis_unavailable"


async def test_a_connection_that_was_reset_unnoticed_is_a_server_that_is_away(
    projection: Projection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ping(_client: Redis) -> None:
        # As uvloop says it; asyncio's own loop raises a ConnectionError.
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True …>; the handler is closed")

    monkeypatch.setattr(Redis, "ping", ping)
    with pytest.raises(UnavailableError) as caught:
        await projection.ping()

    assert caught.value.code == "redis_unavailable"


@pytest.mark.parametrize(
    ("value", "number"),
    [("1", 1), ("1.00", 1), ("-0.5", -0.5), ("1E+3", 1000), ("123456789012345678", 123456789012345678)],
)
def test_a_decimal_is_the_nearest_json_number(value: str, number: float) -> None:
    found = as_json(Decimal(value))

    assert (found, type(found)) == (number, type(number))
