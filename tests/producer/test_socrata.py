"""The reader of Socrata portals, against one that behaves and misbehaves: every row once, or its gap named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from headrace.settings import ProducerSettings, Settings
from producer.formats import Row, SourceError
from producer.origins import portal as portal_module
from producer.origins.socrata import Dataset, resource, socrata_source
from producer.source import Place, Source
from tests.producer.portal_stand_in import Fault, PortalStandIn, broken_off, portal, refusal, truncated

# No Redis listens there, which must never keep a data set from being read.
NOWHERE = SecretStr("redis://127.0.0.1:1/0")
LIMITS = ProducerSettings(socrata_page_rows=100, socrata_timeout_seconds=2)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits out a real backoff."""
    monkeypatch.setattr(portal_module, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(portal_module, "_MOST_SECONDS", 0.002)
    monkeypatch.setenv("NO_PROXY", "*")


class Reader:
    """One reading, and what it said."""

    def __init__(self, server: PortalStandIn, settings: Settings | None = None, **more: Any) -> None:
        self.settings = settings or Settings(redis_url=NOWHERE, producer=LIMITS)
        refresh, fields = more.pop("refresh", False), more.pop("fields", ())
        options = {"token": None, "where": None, "max_rows": None, **more}
        self.dataset = Dataset(server.url, self.settings.producer, **options)
        self.source: Source = socrata_source(self.dataset, self.settings, refresh=refresh, fields=fields)
        self.rows: list[Row] = []
        self.error = ""

    async def read(self, after: Place | None = None) -> Reader:
        try:
            async for row in self.source.rows(after):
                self.rows.append(row)
        except SourceError as error:
            self.error = str(error)
        return self

    @property
    def numbers(self) -> list[int]:
        return [row.number for row in self.rows]

    @property
    def figures(self) -> dict[str, Any]:
        return self.source.figures()


def whole(reader: Reader, server: PortalStandIn) -> bool:
    """Return whether each row of the portal was read once, in its order, without the portal's own fields."""
    expected = [
        Row(number, {"n": row["n"], "license_status": row["license_status"]}, key=row[":id"])
        for number, row in enumerate(server.rows, start=1)
    ]
    return reader.rows == expected


def sometimes(share: float, seed: int = 1) -> Callable[[], bool]:
    chance = random.Random(seed)
    return lambda: chance.random() < share


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 1050])
async def test_every_row_is_read_once_in_order_few_pages_at_once(rows: int) -> None:
    async with portal(rows) as server:
        reader = await Reader(server).read()

    assert whole(reader, server)
    assert not reader.error
    assert reader.figures["total"] == reader.figures["read"] == rows
    assert server.most_at_once <= LIMITS.socrata_concurrency
    assert {query["$order"] for query in server.queries if "$offset" in query} == {":id"}


async def test_an_empty_data_set_is_no_failure() -> None:
    async with portal(0) as server:
        reader = await Reader(server).read()

    assert (reader.rows, reader.error) == ([], "")


async def test_no_more_rows_are_read_than_are_wanted_and_that_is_said() -> None:
    async with portal(1050) as server:
        reader = await Reader(server, max_rows=250).read()

    assert reader.numbers == list(range(1, 251))
    assert reader.figures["cut_at_max_items"]
    assert "1050 rows, more than --max-items" in reader.source.notes[-1]


async def test_a_condition_selects_before_anything_is_counted() -> None:
    async with portal(300) as server:
        reader = await Reader(server, where="license_status='Active'").read()

    assert len(reader.rows) == reader.figures["total"] == 200


async def test_a_later_run_begins_where_the_last_one_ended() -> None:
    async with portal(350) as server:
        reader = await Reader(server).read(Place(230, "row-x"))

    assert reader.numbers == list(range(231, 351))


async def test_the_token_goes_in_its_header_only() -> None:
    async with portal(10) as server:
        reader = await Reader(server, token="s3cret").read()

    assert server.tokens == {"s3cret"}
    assert "s3cret" not in f"{server.queries}{reader.source.name}{reader.source.notes}"


async def failing_half_of_the_time(kind: str) -> Fault:
    due = sometimes(0.5)

    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        if not due():
            return None
        match kind:
            case "429":
                return refusal(429, "Slow down", **{"Retry-After": "0"})
            case "500":
                return refusal(500, "Our bad")
            case "202":
                return web.Response(status=202)
            case "truncated":
                return await truncated(request)
            case "broken_off":
                return await broken_off(request)
            case "no_list":
                return web.json_response({"message": "hello"})
        return web.Response(text="<html>a proxy</html>", content_type="text/html")

    return fault


@pytest.mark.parametrize("kind", ["429", "500", "202", "truncated", "broken_off", "no_list", "html"])
async def test_a_portal_that_fails_half_of_the_time_is_read_whole_in_the_end(kind: str) -> None:
    async with portal(1050, await failing_half_of_the_time(kind)) as server:
        patient = Settings(redis_url=NOWHERE, producer=LIMITS.model_copy(update={"socrata_attempts": 20}))
        reader = await Reader(server, patient).read()

    assert whole(reader, server)
    assert not reader.error
    assert reader.figures["retries"] > 0


async def test_a_slow_page_is_asked_for_again() -> None:
    async def fault(number: int, _: web.Request) -> web.StreamResponse | None:
        if number == 3:
            await asyncio.sleep(30)
        return None

    async with portal(250, fault) as server:
        hasty = Settings(redis_url=NOWHERE, producer=LIMITS.model_copy(update={"socrata_timeout_seconds": 0.3}))
        reader = await Reader(server, hasty).read()

    assert whole(reader, server)
    assert reader.figures["retries"] >= 1


async def test_it_waits_as_long_as_the_portal_asks() -> None:
    async def fault(number: int, _: web.Request) -> web.StreamResponse | None:
        return refusal(429, "Slow down", **{"Retry-After": "0.3"}) if number == 2 else None

    async with portal(10, fault) as server:
        began = asyncio.get_running_loop().time()
        await Reader(server).read()

    assert asyncio.get_running_loop().time() - began >= 0.3


def page_at(*offsets: int, status: int = 503) -> Fault:
    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        return refusal(status, "Our bad") if request.query.get("$offset", "") in map(str, offsets) else None

    return fault


async def test_a_page_that_stays_broken_is_named_by_its_rows_and_the_others_are_read() -> None:
    async with portal(1050, page_at(300, 400, 900)) as server:
        reader = await Reader(server).read()

    assert reader.numbers == [*range(1, 301), *range(501, 901), *range(1001, 1051)]
    assert reader.error.startswith("Rows 301 to 500, 901 to 1000 of 1050 could not be read (status 503, after 6 att")
    assert reader.figures["gaps"] == [[300, 499], [900, 999]]


async def test_the_last_page_broken_is_a_gap_up_to_the_last_row() -> None:
    async with portal(250, page_at(200)) as server:
        reader = await Reader(server).read()

    assert reader.numbers == list(range(1, 201))
    assert reader.error.startswith("Rows 201 to 250 of 250 could not be read")


async def test_a_portal_that_goes_away_is_not_asked_for_every_page() -> None:
    gone = False

    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        nonlocal gone
        # By rows: pages are asked for side by side, and may arrive in any order.
        beyond = int(request.query.get("$offset", 0)) >= 500
        gone = gone or beyond
        counts = "$offset" not in request.query
        return refusal(503, "Away") if beyond or (gone and counts) else None

    async with portal(50_000, fault) as server:
        reader = await Reader(server).read()

    assert reader.numbers == list(range(1, 501))
    assert reader.error.startswith("Rows 501 to 50000 of 50000 could not be read")
    assert server.requests < 60


async def test_a_portal_that_is_not_there_is_said_to_be() -> None:
    async with portal(1) as server:
        pass
    reader = await Reader(server).read()

    assert "Rows 1 to the end could not be read (no connection" in reader.error


async def test_without_a_count_pages_are_read_until_one_is_empty() -> None:
    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        return refusal(500, "Our bad") if request.query.get("$select") == "count(*)" else None

    async with portal(1050, fault) as server:
        reader = await Reader(server).read()

    assert whole(reader, server)
    assert reader.figures["total"] is None
    assert "did not count its rows" in reader.source.notes[-1]


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "correct --where"), (401, "--app-token-file"), (403, "--app-token-file"), (404, "no such data set")],
)
async def test_a_question_that_is_refused_is_not_asked_again(status: int, advice: str) -> None:
    async def fault(_: int, _request: web.Request) -> web.StreamResponse | None:
        return refusal(status, "No\n such column")

    async with portal(1050, fault) as server:
        reader = await Reader(server).read()

    assert advice in reader.error
    assert f"status {status}, No such column" in reader.error
    assert server.requests <= 1 + LIMITS.socrata_concurrency


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    async def fault(_: int, _request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": "http://elsewhere.example/"})

    async with portal(10, fault) as server:
        reader = await Reader(server, token="s3cret").read()

    assert "redirects to http://elsewhere.example/" in reader.error


async def test_a_portal_that_gives_fewer_rows_at_once_than_asked_for_leaves_none_out() -> None:
    async with portal(1050) as server:
        server.most_rows = 30
        reader = await Reader(server).read()

    assert whole(reader, server)


async def test_what_ignores_the_limit_is_no_data_set() -> None:
    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        return None if "count(*)" in request.query["$select"] else web.json_response([{"n": n} for n in range(500)])

    async with portal(500, fault) as server:
        reader = await Reader(server).read()

    assert "500 rows where 100 were asked for" in reader.error


@pytest.mark.parametrize("change", ["grows", "shrinks"])
async def test_a_data_set_that_changes_while_it_is_read_is_said_to_have(change: str) -> None:
    async def fault(number: int, _: web.Request) -> web.StreamResponse | None:
        if number == 4 and change == "grows":
            server.rows += [server.row(5000 + n, f"row-z{n:03}") for n in range(120)]
        elif number == 4:
            del server.rows[-40:]
        return None

    async with portal(1000, fault) as server:
        reader = await Reader(server).read()

    # What was added behind is read, too.
    assert len(reader.rows) == len(server.rows)
    assert f"counted 1000 rows before, {len(server.rows)} after" in reader.source.notes[-1]
    assert not reader.error


async def test_a_row_that_is_no_object_is_one_that_cannot_be_read() -> None:
    async with portal(3) as server:
        server.rows[1] = "odd"  # type: ignore[call-overload]
        reader = await Reader(server).read()

    assert [row.problem for row in reader.rows] == [None, "JSON, but not an object", None]


async def test_a_pipeline_with_a_field_for_it_is_told_when_a_row_was_changed() -> None:
    async with portal(3) as server:
        server.rows[0] |= {":updated_at": "2026-01-31T12:00:00.000Z", ":created_at": "2026-01-01T12:00:00.000Z"}
        server.rows[1] |= {":updated_at": "2026-01-31T12:00:00.000Z", "updated_at": "its own"}
        told = await Reader(server, fields=("n", "updated_at")).read()
        untold = await Reader(server, fields=("n",)).read()

    assert [(row.document or {}).get("updated_at") for row in told.rows] == [
        "2026-01-31T12:00:00.000Z",
        "its own",
        None,
    ]
    assert "created_at" not in (told.rows[0].document or {})
    assert "updated_at" not in (untold.rows[0].document or {})


async def test_a_data_set_is_asked_for_once_in_its_life_in_redis(settings: Settings) -> None:
    kept = settings.model_copy(update={"producer": LIMITS})
    async with portal(250) as server:
        first = await Reader(server, kept).read()
        asked = server.requests
        second = await Reader(server, kept).read()
        rest = await Reader(server, kept).read(Place(120, "row-x"))
        assert server.requests == asked

        other = await Reader(server, kept, max_rows=50).read()
        refreshed = await Reader(server, kept, refresh=True).read()

    assert whole(first, server)
    assert whole(second, server)
    assert whole(refreshed, server)
    assert second.figures["from_cache"]
    assert rest.numbers == list(range(121, 251))
    assert (len(other.rows), other.figures["from_cache"], refreshed.figures["from_cache"]) == (50, False, False)


@pytest.mark.parametrize("rows", [0, 250])
async def test_neither_an_empty_data_set_nor_part_of_one_is_kept(settings: Settings, rows: int) -> None:
    kept = settings.model_copy(update={"producer": LIMITS})
    async with portal(rows, page_at(100) if rows else None) as server:
        await Reader(server, kept).read()
        server.fault = None
        server.rows = PortalStandIn(300).rows
        reader = await Reader(server, kept).read()

    assert whole(reader, server)
    assert len(reader.rows) == 300


async def test_a_copy_has_the_life_that_is_set(settings: Settings) -> None:
    from redis.asyncio import Redis

    kept = settings.model_copy(update={"producer": LIMITS})
    async with portal(10) as server, Redis.from_url(settings.redis_url.get_secret_value()) as client:
        await Reader(server, kept).read()
        (key,) = [key async for key in client.scan_iter(match=f"headrace:{settings.namespace}dataset:*", count=1000)]
        life = await client.ttl(key)

    assert 3500 < life <= 3600


async def test_without_redis_it_says_so_and_reads_on() -> None:
    async with portal(250) as server:
        reader = await Reader(server).read()

    assert whole(reader, server)
    assert any("Redis cannot keep the data set" in note for note in reader.source.notes)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("w7w3-xahh", "not a URL"),
        ("ftp://portal.example/resource/w7w3-xahh.json", "not a URL"),
        ("https://portal.example/resource/w7w3-xahh.csv", "must end in .json"),
        ("https://portal.example/resource/w7w3-xahh.json?$limit=5", "give --where and --max-items"),
        ("https://me:pass@portal.example/resource/w7w3-xahh.json", "must not hold a password"),
    ],
)
def test_what_is_no_address_of_a_data_set_is_refused(url: str, why: str) -> None:
    with pytest.raises(SourceError, match=why.replace(".", r"\.")) as refused:
        resource(url)

    assert "pass@" not in str(refused.value)


def test_an_address_may_leave_out_its_ending_and_have_filters() -> None:
    assert str(resource("https://p.example/resource/w7w3-xahh?borough=BRONX")) == (
        "https://p.example/resource/w7w3-xahh.json?borough=BRONX"
    )
