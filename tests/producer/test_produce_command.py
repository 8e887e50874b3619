"""`headrace produce` with every kind of source, as its user types it: exact totals, clear messages, whatever breaks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from headrace.pipeline import Pipeline
from producer.origins import portal as portal_module
from tests.producer import test_upload
from tests.producer.portal_stand_in import portal, refusal
from tests.producer.test_upload import Gateway, lines, problem, run

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


class Licence(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int
    license_status: str


licences = Pipeline(
    name="licences", accepts=Licence, key=("n",), entity=True, example={"n": 1, "license_status": "Active"}
)
# Without a natural key, ids follow from the rows' own names.
events = Pipeline(name="events", accepts=Licence, example={"n": 1, "license_status": "Active"})


@pytest.fixture(autouse=True)
def pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_upload.PIPELINES, "licences", licences)
    monkeypatch.setitem(test_upload.PIPELINES, "events", events)
    monkeypatch.setattr(portal_module, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(portal_module, "_MOST_SECONDS", 0.002)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("HEADRACE_PRODUCER__SOCRATA_PAGE_ROWS", "100")


async def produced(*arguments: str, exit_code: int = 0) -> tuple[dict[str, Any], str]:
    """Run the command beside the servers of the test's own loop."""
    return await asyncio.to_thread(run, *arguments, exit_code=exit_code)


@pytest.mark.parametrize("pipeline", ["licences", "events"])
async def test_a_portal_is_sent_whole_and_sent_again_stores_nothing_twice(gateway: Gateway, pipeline: str) -> None:
    async with portal(1050) as server:
        server.rows[7]["n"] = "seven"
        first, said = await produced(pipeline, "--socrata", server.url)
        stored = dict(gateway.stored)
        await produced(pipeline, "--socrata", server.url)

    assert (first["rows"], first["accepted"], first["refused"]) == (1050, 1049, 1)
    assert first["reading"]["total"] == first["reading"]["read"] == 1050
    assert "row 8 refused: /n int_parsing" in said
    assert gateway.stored == stored
    assert len(stored) == 1049


async def test_a_gap_of_a_portal_is_named_and_read_by_the_next_run(gateway: Gateway) -> None:
    async def fault(_: int, request: web.Request) -> web.StreamResponse | None:
        return refusal(500, "Our bad") if request.query.get("$offset") == "600" else None

    async with portal(1050, fault) as server:
        first, said = await produced("licences", "--socrata", server.url, "--resume", exit_code=1)
        server.fault, asked = None, len(server.queries)
        second, _ = await produced("licences", "--socrata", server.url, "--resume")
        offsets = {int(query["$offset"]) for query in server.queries[asked:] if "$offset" in query}

    assert (first["rows"], first["complete"], first["reading"]["gaps"]) == (950, False, [[600, 699]])
    assert "Rows 601 to 700 of 1050 could not be read (status 500, after 6 attempts)" in said
    # What was sent from behind the gap is sent again, what lies safely before it is not.
    assert min(offsets) >= 500
    assert second["resumed"] == {"rows": 1050, "accepted": 1050, "refused": 0}
    assert len(gateway.stored) == 1050
    assert "Traceback" not in said


async def test_an_app_token_comes_from_a_file_or_a_setting(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    (tmp_path / "setting").write_text("from-a-setting\n")
    monkeypatch.setenv("HEADRACE_PRODUCER__SOCRATA_APP_TOKEN_FILE", str(tmp_path / "setting"))

    async with portal(10) as server:
        _, said = await produced("licences", "--socrata", server.url)
        assert server.tokens == {"from-a-setting"}
        server.tokens.clear()
        await produced("licences", "--socrata", server.url, "--app-token-file", str(tmp_path / "token"))

    assert server.tokens == {"from-a-file"}
    assert "from-a-" not in said


def test_a_run_that_broke_off_is_resumed_with_what_is_left(gateway: Gateway, tmp_path: Path) -> None:
    path = lines(tmp_path, 1700, bad=(3, 1600))
    gateway.script = [lambda: None, lambda: None, problem(403, code="no_scope")]
    first, _ = run("invoices", "--file", str(path), "--resume", exit_code=1)
    sent = gateway.documents

    second, said = run("invoices", "--file", str(path), "--resume")
    third, _ = run("invoices", "--file", str(path), "--resume")

    assert (first["rows"], first["accepted"], first["resumed"]) == (1000, 999, None)
    assert (second["rows"], second["accepted"]) == (700, 699)
    assert second["resumed"] == {"rows": 1700, "accepted": 1698, "refused": 2}
    assert "Going on after row 1000; 999 were accepted before." in said
    assert gateway.documents == sent + 699 + 1698
    # The last run had come to its end, so this one began anew.
    assert (third["rows"], third["resumed"]) == (1700, None)
    assert len(gateway.stored) == 1698


def test_another_mapping_begins_anew(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("n,status,x\n" + "".join(f"{n},Active,{n}\n" for n in range(600)))
    arguments = ["events", "--file", "t.csv", "--resume", "--map", "status=license_status"]

    run(*arguments, "--limit", "500")
    summary, _ = run(*arguments, "--drop", "x")

    assert (summary["rows"], summary["accepted"], summary["resumed"]) == (600, 600, None)


def test_a_checkpoint_that_cannot_be_read_is_named(gateway: Gateway, tmp_path: Path) -> None:
    run("invoices", "--file", str(lines(tmp_path, 600)), "--resume", "--limit", "100")
    (found,) = Path(".headrace/produce").glob("*.json")
    found.write_text("{")

    _, said = run("invoices", "--file", str(lines(tmp_path, 600)), "--resume", exit_code=1)

    assert str(found) in said
    assert "remove it to begin anew" in said


def test_columns_are_renamed_dropped_and_dated(gateway: Gateway, tmp_path: Path) -> None:
    header = "Invoice;Code;Text;Qty;When;Price;Who;Where;Colour\n"
    good = '536365;85123A;"Caf\u00e9 ""set""";6;12/31/2010 08:26;2,55;17850;France;red\n'
    (tmp_path / "t.csv").write_bytes((header + good + good.replace("12/31", "31/12")).encode("cp1252"))
    (tmp_path / "map.toml").write_text(
        'drop = ["Colour"]\n[map]\nInvoice = "InvoiceNo"\nCode = "StockCode"\nText = "Description"\nQty = "Quantity"\n'
        'When = "InvoiceDate"\nPrice = "UnitPrice"\nWho = "CustomerID"\n'
    )

    summary, said = run(
        *("invoices", "--file", "t.csv", "--encoding", "cp1252", "--map-file", "map.toml", "--map", "Where=Country"),
        *("--date-format", "InvoiceDate=%m/%d/%Y %H:%M"),
    )

    assert (summary["rows"], summary["accepted"], summary["refused"]) == (2, 1, 1)
    assert "row 2 refused: /InvoiceDate date_format It is not of the form %m/%d/%Y %H:%M." in said
    assert b'"InvoiceDate":"2010-12-31T08:26:00"' in gateway.bodies[0]
    assert "Café".encode() in gateway.bodies[0]


def test_a_misspelt_column_is_named_before_anything_is_sent(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("n,status\n1,Active\n")

    summary, said = run("events", "--file", "t.csv", "--map", "stauts=license_status", exit_code=1)

    assert summary["rows"] == 0
    assert "t.csv has no column 'stauts'; it has 'n', 'status'" in said


def test_of_json_a_column_that_no_row_has_is_noted_at_the_end(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "t.ndjson").write_text('{"n": 1, "license_status": "Active"}\n')

    summary, said = run("events", "--file", "t.ndjson", "--drop", "colour")

    assert summary["accepted"] == 1
    assert "No row has the column 'colour'" in said


def test_a_table_is_sent_and_later_only_what_came_since(gateway: Gateway, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("CREATE TABLE licences (id INTEGER PRIMARY KEY, n INTEGER, status TEXT, photo BLOB)")
        database.executemany(
            "INSERT INTO licences VALUES (?, ?, 'Active', ?)",
            [(n, n, b"x" if n == 5 else None) for n in range(1, 1301)],
        )
    arguments = ["events", "--table", "licences", "--database", f"sqlite:///{tmp_path / 't.db'}", "--resume"]
    mapping = ["--map", "n=n", "--map", "status=license_status"]

    refused, said = run(*arguments, *mapping, "--drop", "id")
    first, _ = run(*arguments, *mapping, "--drop", "*")
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("INSERT INTO licences VALUES (2000, 2000, 'Expired', NULL)")
    second, _ = run(*arguments, *mapping, "--drop", "*")

    assert "row 5 refused: /photo no_json_form" in said
    assert refused["refused"] == 1
    assert (first["rows"], first["accepted"]) == (1300, 1300)
    assert (second["rows"], second["accepted"], second["resumed"]["rows"]) == (1, 1, 1301)
    # The rows of both mappings are the same rows.
    assert len(gateway.stored) == 1301


def test_past_searches_are_sent_once_in_order_as_of_now(gateway: Gateway) -> None:
    sample = str(ROOT / "producer" / "samples" / "searches.txt")
    summary, _ = run("searches", "--file", sample, "--once", "--users", "10")
    plain, _ = run("searches", "--file", sample, "--dry-run")

    bodies = [json.loads(body) for body in gateway.bodies]
    sent = [event["data"] for body in bodies for event in body]
    assert len({search["user_id"] for search in sent}) == 10
    assert summary["accepted"] == len(sent) < plain["rows"]
    assert min(search["search_timestamp"] for search in sent) > 1_700_000_000


def test_past_searches_are_drawn_without_end_the_same_for_a_seed(gateway: Gateway) -> None:
    sample = str(ROOT / "producer" / "samples" / "searches.txt")
    arguments = ["searches", "--file", sample, "--endless", "--seed", "3", "--limit", "700"]

    run(*arguments)
    run(*arguments)

    events_sent = [event["data"] for body in gateway.bodies for event in json.loads(body)]
    first, second = events_sent[:700], events_sent[700:]
    assert [one["user_id"] for one in first] == [one["user_id"] for one in second]
    # They are events of their own moments, so none is taken for a repeat.
    assert len(gateway.stored) == 1400


@pytest.mark.parametrize("pipeline", ["searches", "invoices"])
def test_made_up_documents_have_as_many_users_as_are_wanted_and_faults(gateway: Gateway, pipeline: str) -> None:
    summary, _ = run(pipeline, "--endless", "--limit", "2000", "--users", "5", "--bad-share", "0.1")

    field = {"searches": "user_id", "invoices": "CustomerID"}[pipeline]
    users = Counter(event["data"].get(field) for body in gateway.bodies for event in json.loads(body))
    assert len([user for user, times in users.items() if user and times > 40]) == 5
    assert 100 < summary["refused"] < 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["invoices", "--file", "a.csv", "--generate", "5"], "give --file or --generate, not both"),
        (["invoices", "--socrata", "http://x", "--table", "t"], "give --socrata or --table, not both"),
        (["invoices", "--generate", "5", "--endless"], "--generate or --endless, not both"),
        (["invoices", "--socrata", "http://x", "--endless"], "--endless goes without --socrata"),
        (["invoices", "--once"], "--once goes with --file"),
        (["invoices", "--where", "a=1"], "--where goes with --socrata"),
        (["invoices", "--key-column", "a"], "--key-column goes with --table"),
        (["invoices", "--encoding", "cp1252"], "--encoding goes with --file"),
        (["invoices", "--bad-share", "0.5"], "--bad-share goes with --generate"),
        (["invoices", "--sender", "me"], "--sender goes with --direct"),
        (["invoices", "--dry-run", "--resume"], "--resume goes without --dry-run"),
        (["invoices", "--map", "a"], "write COLUMN=FIELD"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(gateway: Gateway, arguments: list[str], message: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(test_upload.app, arguments)

    assert result.exit_code == 2
    assert message in result.stderr
    assert gateway.bodies == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["invoices", "--table", "t"], "--table needs --database"),
        (["invoices", "--table", "t", "--database", "sqlite:///none.db"], "no file none.db"),
        (["invoices", "--socrata", "w7w3-xahh"], "not a URL"),
        (["invoices", "--file", "t.csv", "--encoding", "klingon"], "no such encoding"),
        (["invoices", "--file", "t.csv", "--map-file", "none.toml"], "none.toml"),
        (["invoices", "--endless", "--resume"], "--resume needs a source that stays the same"),
        (["events", "--generate", "5", "--users", "3"], "no generator for pipeline 'events'"),
    ],
)
def test_what_cannot_be_read_is_said_with_exact_totals(
    gateway: Gateway, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "t.csv").write_text("n\n1\n")
    if "none.toml" in message:
        from typer.testing import CliRunner

        result = CliRunner().invoke(test_upload.app, arguments)
        assert (result.exit_code, message in result.stderr) == (2, True)
        return

    summary, said = run(*arguments, exit_code=1)

    assert (summary["rows"], summary["complete"]) == (0, False)
    assert message in said


async def interrupted(*arguments: str, after_documents: int, gateway: Gateway) -> tuple[int, dict[str, Any], str]:
    """Run the command as a process of its own and press Ctrl-C once so many documents came; return how it ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "produce", *arguments, "--json"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        # The documents come in another thread, which sets no event of ours.
        while gateway.documents < after_documents and process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out), said.decode()


async def test_an_endless_run_ends_with_ctrl_c_and_honest_totals(gateway: Gateway) -> None:
    code, summary, said = await interrupted(
        "invoices", "--endless", "--rate", "200", after_documents=60, gateway=gateway
    )

    assert code == 0
    assert summary["accepted"] == summary["rows"] == gateway.documents >= 60
    assert "Traceback" not in said


async def test_a_file_that_ctrl_c_cuts_short_is_incomplete_and_can_be_resumed(gateway: Gateway, tmp_path: Path) -> None:
    path = str(lines(tmp_path, 900))
    code, summary, said = await interrupted(
        "invoices", "--file", path, "--rate", "300", "--resume", after_documents=60, gateway=gateway
    )
    rest, _ = await produced("invoices", "--file", path, "--resume")

    assert code == 130
    assert "Interrupted; repeat the command" in said
    assert not summary["complete"]
    assert summary["accepted"] == gateway.documents - rest["accepted"] < 900
    assert rest["resumed"]["accepted"] == len(gateway.stored) == 900


@pytest.mark.parametrize(
    ("file", "rows", "refused"),
    [
        ("invoices/OnlineRetail_semicolon.csv", 10_000, 2291),
        ("invoices/OnlineRetail_comma.csv", 495, 2),
        ("searches/search_results_data.txt", 1664, 0),
        # Bookings are no searches: each of them is refused, and says so.
        ("searches/hotel_bookings_resort.csv", 10_198, 10_198),
    ],
)
def test_every_row_of_a_real_file_is_accepted_or_refused_by_its_number(
    gateway: Gateway, tmp_path: Path, file: str, rows: int, refused: int
) -> None:
    path = DATA / file
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine; the samples stand for it")
    pipeline = file.partition("/")[0]

    summary, _ = run(pipeline, "--file", str(path), "--refused", "refused.jsonl")

    told = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert (summary["rows"], summary["accepted"], summary["refused"]) == (rows, rows - refused, refused)
    assert len(gateway.stored) == rows - refused
    assert len({one["row"] for one in told}) == len(told) == refused
    assert all(error["code"] and error["message"] for one in told for error in one["errors"])
