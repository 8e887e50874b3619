"""Uploading and `produce`: every row is accounted for, and the same source sent again stores nothing twice.

The gateway here is a stand-in with the contract's answers, real schemas and real ids.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from aiohttp import web
from typer.testing import CliRunner

from cli.produce import produce
from gateway.body import documents
from gateway.headers import read_headers
from headrace.acceptance import examine
from headrace.document import digest
from headrace.errors import HeadraceError, problem_of
from pipelines.deliveries import deliveries
from pipelines.invoices import invoices
from pipelines.searches import searches
from producer import upload as upload_module
from producer.formats import Row, SourceError
from producer.outlets import attempts
from producer.upload import Chunk, Progress, RefusedRow, flowing, upload

PIPELINES = {"deliveries": deliveries, "invoices": invoices, "searches": searches}

SAMPLES = Path(upload_module.__file__).parent / "samples"

app = typer.Typer()
app.command()(produce)


class Gateway:
    """Takes documents as the contract says; `script` holds what is answered first; None lets it answer itself."""

    def __init__(self) -> None:
        self.url = ""
        self.stored: dict[str, str] = {}
        self.bodies: list[bytes] = []
        self.documents = 0
        self.body_max_bytes = 16 << 20
        self.script: list[Callable[[], web.Response | None]] = []
        self.tokens: set[str | None] = set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.tokens.add(request.headers.get("Authorization"))
        if self.script and (scripted := self.script.pop(0)()) is not None:
            return scripted
        if len(body) > self.body_max_bytes:
            return web.json_response({"code": "too_large", "detail": "Too large."}, status=413)
        pipeline = request.match_info["pipeline"]
        found, bulk = documents(
            body, read_headers((name.lower(), value) for name, value in request.raw_headers), 20_000
        )
        items = [self._store(pipeline, incoming.data, incoming.key) for incoming in found]
        if not bulk:
            return web.json_response(items[0], status=items[0].get("status", 202))
        rejected = sum("errors" in item for item in items)
        answer = {"accepted": len(items) - rejected, "rejected": rejected, "items": items}
        return web.json_response(answer, status=202 if not rejected else 207 if answer["accepted"] else 422)

    async def about(self, request: web.Request) -> web.Response:
        pipeline = PIPELINES.get(request.match_info["pipeline"])
        if pipeline is None:
            return web.json_response({"code": "unknown_pipeline", "detail": "There is no such pipeline."}, status=404)
        return web.json_response({"name": pipeline.name, "key": list(pipeline.key)})

    def _store(self, pipeline: str, body: bytes, key: str | None) -> dict[str, Any]:
        try:
            found, line = examine(PIPELINES[pipeline], "me", body, key, max_bytes=1 << 18)
        except HeadraceError as error:
            problem = problem_of(error)
            return {"status": 422, "code": problem["code"], "errors": problem["errors"]}
        assert self.stored.setdefault(found, digest(line)) == digest(line), "another document under the same key"
        self.documents += 1
        return {"id": found}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gateway]:
    fake = Gateway()
    started: Future[str] = Future()
    loop = asyncio.new_event_loop()

    over = asyncio.Event()

    async def serve() -> None:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_post("/v1/documents/{pipeline}", fake.take)
        application.router.add_get("/v1/pipelines/{pipeline}", fake.about)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        started.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}")
        # An event and not loop.stop, which a test that is over at once would call before the loop runs for good.
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    fake.url = started.result(10)
    monkeypatch.setenv("HEADRACE_URL", fake.url)
    monkeypatch.setenv("HEADRACE_TOKEN", "t0ken")
    # No test waits out a real backoff.
    monkeypatch.setattr(attempts, "_FIRST_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)
    yield fake
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def run(*arguments: str, exit_code: int = 0) -> tuple[dict[str, Any], str]:
    """Return the summary on stdout and what was said on stderr."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    summary = json.loads(result.stdout)
    assert summary["rows"] == summary["accepted"] + summary["refused"]
    return summary, result.stderr


def lines(tmp_path: Path, count: int, *, bad: tuple[int, ...] = (), name: str = "lines.ndjson") -> Path:
    """Write so many invoice lines; those whose number is in `bad` have no customer."""
    path = tmp_path / name
    with path.open("wb") as file:
        for number in range(1, count + 1):
            customer = None if number in bad else number
            document = dict(invoices.example) | {"CustomerID": customer, "Quantity": number}
            file.write(msgspec.json.encode(document) + b"\n")
    return path


def problem(status: int, *, retry_after: str | None = None, code: str = "busy") -> Callable[[], web.Response]:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return lambda: web.json_response({"code": code, "detail": f"Because of {code}."}, status=status, headers=headers)


class Taker:
    """An outlet that takes everything and remembers how it came."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        self.chunks.append(chunk)
        return []


async def taken(rows: list[Row], **more: Any) -> list[Chunk]:
    outlet = Taker()
    await upload(outlet, flowing(rows), refuse=lambda _: None, progress=Progress(), advance=lambda _: None, **more)
    return outlet.chunks


async def test_large_documents_go_in_smaller_chunks() -> None:
    found = await taken([Row(number, {"text": "x" * 1_000_000}) for number in range(1, 11)])

    assert [chunk.numbers[0] for chunk in found] == [1, 5, 9]
    assert all(sum(map(len, chunk.bodies)) <= upload_module.CHUNK_BYTES for chunk in found)


async def test_a_low_rate_is_kept_by_small_chunks_not_by_long_silences() -> None:
    found = await taken([Row(number, {"n": number}) for number in range(1, 61)], documents_per_second=200)

    assert {len(chunk.numbers) for chunk in found} == {20}


async def test_a_source_that_breaks_off_has_all_its_rows_sent_first() -> None:
    outlet = Taker()

    async def rows() -> AsyncIterator[Row]:
        yield Row(1, {"n": 1})
        yield Row(2, {"n": 2})
        raise SourceError("cut off")

    with pytest.raises(SourceError, match="cut off"):
        await upload(outlet, rows(), refuse=lambda _: None, progress=Progress(), advance=lambda _: None)

    assert [chunk.numbers for chunk in outlet.chunks] == [[1, 2]]


async def test_a_row_that_has_no_json_is_refused_and_the_others_go() -> None:
    refused: list[RefusedRow] = []
    outlet = Taker()
    rows = [Row(1, {"n": 1}), Row(2, {"n": object()}), Row(3, {"n": "\ud800"}), Row(4, {"n": 4})]

    await upload(outlet, flowing(rows), refuse=refused.append, progress=Progress(), advance=lambda _: None)

    assert [chunk.numbers for chunk in outlet.chunks] == [[1, 4]]
    assert [row.row for row in refused] == [2, 3]


def test_every_row_is_accepted_or_refused_by_number_field_and_rule(gateway: Gateway, tmp_path: Path) -> None:
    path = lines(tmp_path, 1200, bad=(2, 777))
    with path.open("a") as file:
        file.write("{broken\n")

    summary, said = run("invoices", "--file", str(path), "--refused", "refused.ndjson")

    assert (summary["rows"], summary["accepted"], summary["refused"]) == (1201, 1198, 3)
    assert summary["complete"]
    assert len(gateway.stored) == gateway.documents == 1198
    assert gateway.tokens == {"Bearer t0ken"}
    refused = [json.loads(line) for line in Path("refused.ndjson").read_text().splitlines()]
    assert [(line["row"], line["errors"][0]["pointer"], line["errors"][0]["code"]) for line in refused] == [
        (2, "/CustomerID", "string_type"),
        (777, "/CustomerID", "string_type"),
        (1201, "", "unreadable_row"),
    ]
    assert "row 777 refused: /CustomerID string_type" in said


def test_the_same_file_sent_again_stores_nothing_twice(gateway: Gateway, tmp_path: Path) -> None:
    path = lines(tmp_path, 1200, bad=(3,))
    run("invoices", "--file", str(path))
    first = dict(gateway.stored)

    path.rename(tmp_path / "renamed.ndjson")
    summary, _ = run("invoices", "--file", str(tmp_path / "renamed.ndjson"))

    assert summary["accepted"] == 1199
    assert gateway.stored == first


def test_a_run_that_stopped_early_is_completed_by_the_next(gateway: Gateway, tmp_path: Path) -> None:
    path = lines(tmp_path, 1200, bad=(3,))

    part, _ = run("invoices", "--file", str(path), "--limit", "700")
    run("invoices", "--file", str(path))

    assert part["accepted"] == 699
    assert len(gateway.stored) == 1199
    assert gateway.documents == 699 + 1199


def test_another_file_has_other_ids(gateway: Gateway, tmp_path: Path) -> None:
    run("invoices", "--file", str(lines(tmp_path, 10)))
    run("invoices", "--file", str(lines(tmp_path, 11)))

    assert len(gateway.stored) == 21


def test_refusals_beyond_twenty_are_counted_not_shown(gateway: Gateway, tmp_path: Path) -> None:
    summary, said = run("invoices", "--file", str(lines(tmp_path, 30, bad=tuple(range(1, 31)))))

    assert summary["refused"] == 30
    assert said.count("refused: /CustomerID") == 20
    assert "10 more refused" in said


@pytest.mark.parametrize(
    "hiccup", [problem(503, retry_after="0"), problem(429, retry_after="0"), problem(503), problem(500), problem(408)]
)
def test_a_busy_gateway_gets_the_same_chunk_again(gateway: Gateway, tmp_path: Path, hiccup: Any) -> None:
    gateway.script = [hiccup, hiccup]

    summary, _ = run("invoices", "--file", str(lines(tmp_path, 20)))

    assert (summary["accepted"], summary["retries"]) == (20, 2)
    assert len(set(gateway.bodies)) == 1
    assert len(gateway.bodies) == 3


def test_a_gateway_that_stays_busy_ends_the_run(gateway: Gateway, tmp_path: Path) -> None:
    gateway.script = [problem(503, retry_after="0", code="stream_full")] * 50

    summary, said = run("invoices", "--file", str(lines(tmp_path, 20)), exit_code=1)

    assert (summary["rows"], summary["complete"]) == (0, False)
    assert "Because of stream_full." in said
    assert len(gateway.bodies) == 10


@pytest.mark.parametrize("status", [400, 401, 403, 404, 415])
def test_a_gateway_that_refuses_the_request_ends_the_run_at_once(gateway: Gateway, tmp_path: Path, status: int) -> None:
    gateway.script = [problem(status, code="no_scope")]

    summary, said = run("invoices", "--file", str(lines(tmp_path, 1200)), exit_code=1)

    assert (summary["rows"], summary["retries"]) == (0, 0)
    assert "Because of no_scope." in said
    assert len(gateway.bodies) == 1


def test_a_chunk_that_is_too_large_goes_one_by_one_under_the_same_ids(gateway: Gateway, tmp_path: Path) -> None:
    path = lines(tmp_path, 40, bad=(5,))
    run("invoices", "--file", str(path))
    before = dict(gateway.stored)

    gateway.body_max_bytes = 2000
    summary, _ = run("invoices", "--file", str(path))

    assert (summary["accepted"], summary["refused"]) == (39, 1)
    assert gateway.stored == before


def test_a_single_document_that_is_too_large_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    gateway.body_max_bytes = 100

    summary, said = run("invoices", "--file", str(lines(tmp_path, 2)))

    assert summary["refused"] == 2
    assert "row 1 refused: too_large Too large." in said


def test_an_answer_of_something_else_is_not_taken_for_success(gateway: Gateway, tmp_path: Path) -> None:
    gateway.script = [lambda: web.Response(text="<h1>Welcome</h1>")]

    summary, said = run("invoices", "--file", str(lines(tmp_path, 2)), exit_code=1)

    assert summary["accepted"] == 0
    assert "not one of Headrace" in said


def test_a_gateway_that_is_away_is_named_as_the_reason(gateway: Gateway, tmp_path: Path) -> None:
    summary, said = run("invoices", "--file", str(lines(tmp_path, 2)), "--url", "http://127.0.0.1:9", exit_code=1)

    assert summary["accepted"] == 0
    assert "connection_refused" in said


@pytest.mark.parametrize(("pipeline", "rows", "refused"), [("invoices", 200, 6), ("searches", 177, 0)])
def test_without_a_file_the_sample_is_sent(gateway: Gateway, pipeline: str, rows: int, refused: int) -> None:
    summary, _ = run(pipeline)

    assert (summary["rows"], summary["refused"]) == (rows, refused)
    assert len(gateway.stored) == rows - refused


def test_shuffled_and_repeated_locations_of_another_file_are_the_same_documents(
    gateway: Gateway, tmp_path: Path
) -> None:
    header, *rows = SAMPLES.joinpath("deliveries.csv").read_text().splitlines(keepends=True)
    run("deliveries")
    first = dict(gateway.stored)
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text(header + "".join(reversed(rows)) + "".join(rows[:30]))

    summary, _ = run("deliveries", "--file", str(shuffled))

    assert summary["rows"] == 102 + 30
    assert summary["accepted"] + summary["refused"] == summary["rows"]
    # Of the 98 good rows, six stand in the sample twice.
    assert len(first) == 92
    assert gateway.stored == first


def test_a_burst_of_a_seed_is_stored_once(gateway: Gateway) -> None:
    burst = ("--orders", "5", "--locations", "4", "--interval", "0.01", "--workers", "2", "--seed", "3")
    summary, _ = run("deliveries", *burst)
    run("deliveries", *burst)

    assert (summary["rows"], summary["accepted"], summary["refused"]) == (20, 20, 0)
    assert len(gateway.stored) == 20
    run("deliveries", *burst[:-2])
    assert len(gateway.stored) == 40


def test_a_burst_that_is_refused_says_which_locations(gateway: Gateway) -> None:
    gateway.script = [problem(503, retry_after="0", code="stream_full"), problem(422, code="invalid_document")]

    summary, said = run("deliveries", "--orders", "1", "--locations", "3", "--interval", "0")

    assert (summary["rows"], summary["accepted"], summary["refused"], summary["retries"]) == (3, 2, 1, 1)
    assert "row 1 refused: invalid_document" in said


def test_a_burst_that_nobody_takes_ends_with_the_reason(gateway: Gateway) -> None:
    gateway.script = [problem(403, code="no_scope")] * 9

    summary, said = run("deliveries", "--orders", "4", "--interval", "0", exit_code=1)

    assert (summary["accepted"], summary["complete"]) == (0, False)
    assert "Because of no_scope." in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deliveries", "--workers", "8"], "give it too"),
        (["deliveries", "--tracks", "rows.csv"], "give it too"),
        (["invoices", "--orders", "8"], "with deliveries only"),
        (["deliveries", "--orders", "8", "--generate", "9"], "--orders goes without"),
    ],
)
def test_options_of_a_burst_that_do_not_fit_are_refused(gateway: Gateway, arguments: list[str], message: str) -> None:
    found = CliRunner().invoke(app, arguments)

    assert found.exit_code == 2
    assert message in found.output
    assert gateway.bodies == []


def test_a_seed_makes_the_same_documents_under_the_same_ids(gateway: Gateway) -> None:
    run("invoices", "--generate", "300", "--seed", "4")
    first = dict(gateway.stored)
    run("invoices", "--generate", "600", "--seed", "4")
    assert len(gateway.stored) == 600
    assert gateway.stored.items() >= first.items()

    run("invoices", "--generate", "300", "--seed", "5")

    assert len(gateway.stored) == 900


def test_without_a_seed_documents_are_new_each_time(gateway: Gateway) -> None:
    run("searches", "--generate", "50")
    run("searches", "--generate", "50")

    assert len(gateway.stored) == 100


def test_a_share_of_made_up_documents_may_be_bad(gateway: Gateway) -> None:
    summary, _ = run("invoices", "--generate", "1000", "--seed", "1", "--bad-share", "0.2")

    assert 150 < summary["refused"] < 250
    assert len(gateway.stored) == summary["accepted"]


def test_a_dry_run_sends_nothing_and_finds_what_refine_would(gateway: Gateway) -> None:
    summary, said = run("searches", "--dry-run")

    assert (summary["rows"], summary["refused"]) == (177, 1)
    assert "transform_refused No advertiser in hotel_advertisers has an offer" in said
    assert gateway.bodies == []


def test_a_rate_spreads_the_chunks(gateway: Gateway, tmp_path: Path) -> None:
    summary, _ = run("invoices", "--file", str(lines(tmp_path, 1500)), "--rate", "5000")

    # The third chunk is due 1,000 documents after the first.
    assert summary["seconds"] >= 0.2
    assert summary["accepted"] == 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "has no sample"),
        (["mine", "--generate", "5"], "no generator for pipeline 'mine'"),
        (["mine", "--file", "rows.csv", "--dry-run"], "no pipeline 'mine' here"),
        (["invoices", "--file", "none.csv"], "No such file"),
    ],
)
def test_what_cannot_be_sent_is_said(gateway: Gateway, arguments: list[str], message: str) -> None:
    Path("rows.csv").write_text("a\n1\n")

    summary, said = run(*arguments, exit_code=1)

    assert message in said
    assert message in summary["error"]


def test_a_running_up_is_found_by_its_file(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_URL")
    monkeypatch.delenv("HEADRACE_TOKEN")
    Path(".headrace").mkdir()
    Path(".headrace/up.json").write_text(json.dumps({"ready": True, "url": gateway.url, "token": "of-the-up"}))

    run("invoices", "--limit", "5")

    assert gateway.tokens == {"Bearer of-the-up"}


def test_without_a_gateway_it_says_how_to_name_one(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_URL")

    _, said = run("invoices", exit_code=1)

    assert "--url" in said
    assert "HEADRACE_URL" in said
