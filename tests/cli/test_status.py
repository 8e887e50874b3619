"""status: what counts as degraded and down, and what it shows."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cli.health import Snapshot, judge, rates
from cli.status import duration
from tests.cli.stand_in import TOKEN, Ended, StandIn, ended, line, start

Run = Callable[..., Awaitable[Ended]]

WORKER = {"name": "workers", "stages": ["refine"]}


def consumer(name: str = "refine", oldest: float | None = 0.0) -> dict[str, Any]:
    return {"name": name, "stream": "RAW", "oldest_pending_seconds": oldest}


@pytest.mark.parametrize(
    ("snapshot", "reasons"),
    [
        (Snapshot(checks={"nats": {"ok": True}}, ledger={"a": line(5, 3)}), []),
        (Snapshot(checks={"mongo": {"ok": False, "detail": "away"}}), ["mongo: away"]),
        (Snapshot(ledger={"a": line(5, 3, balanced=False)}), ["ledger of a: accepted is not stored"]),
        (Snapshot(reconciled={"a": {"at": "x", "findings": 3, "repaired": 1}}), ["reconciliation of a found 2"]),
        (Snapshot(reconciled={"a": {"at": "x", "findings": 3, "repaired": 3}}), []),
        (Snapshot(services=[WORKER], consumers=[consumer(oldest=31)]), ["stage refine: its oldest block"]),
        (Snapshot(services=[WORKER], consumers=[consumer(oldest=29), consumer(oldest=None)]), []),
        (Snapshot(services=[WORKER], consumers=[consumer("facts")]), ["stage facts: no live worker"]),
        (Snapshot(streams=[{"name": "RAW", "fill": 0.95}, {"name": "DEAD", "fill": 0.85}]), ["stream RAW: 95% full"]),
        (
            Snapshot(unknown={"mesh": "no", "ledger": "no", "version": "slow"}),
            ["mesh, ledger: unknown: no", "version: unknown: slow"],
        ),
    ],
)
def test_whatever_is_not_as_it_should_be_is_a_reason(snapshot: Snapshot, reasons: list[str]) -> None:
    found = judge(snapshot, None)

    assert len(found) == len(reasons)
    assert all(text.startswith(start) for text, start in zip(found, reasons, strict=True))


def test_a_ledger_that_is_out_of_balance_at_one_look_only_is_no_reason() -> None:
    wrong, right = (Snapshot(ledger={"a": line(5, 3, balanced=balanced)}) for balanced in (False, True))

    assert judge(wrong, right) == []
    assert len(judge(wrong, wrong)) == 1


def test_rates_are_what_the_books_grew_by() -> None:
    before = Snapshot(ledger={"a": line(100, 50)}, ledger_at="2026-11-23T08:00:00Z")
    now = Snapshot(ledger={"a": line(400, 150), "new": line(1, 1)}, ledger_at="2026-11-23T08:00:02Z")

    assert rates(now, before) == {"a": {"accepted": 150.0, "stored": 50.0}}
    assert rates(now, now) == {}
    assert rates(now, None) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (119, "119 s"), (120, "2 m"), (7199, "119 m"), (7200, "2 h"), (3 * 86400, "3 d")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_all_well_is_exit_0_and_shows_everything(run: Run, gateway: StandIn) -> None:
    gateway.ledger = {"things": line(1234, 1234)}
    result = await run("status")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"ok  {gateway.url}  9.9.9")
    assert all(word in result.out for word in ("things", "1,234", "refine", "workers", "25.0%"))
    assert "\x1b" not in result.out


async def test_json_has_the_rates_between_two_looks(run: Run, gateway: StandIn) -> None:
    gateway.ledger = {"things": line(10, 10)}
    report = (await run("status", "--json")).lines[0]

    assert gateway.ledger_calls == 2
    assert (report["status"], report["reasons"]) == ("ok", [])
    assert report["rates"] == {"things": {"accepted": 0.0, "stored": 0.0}}


async def test_a_dependency_that_is_away_is_exit_1(run: Run, gateway: StandIn) -> None:
    gateway.checks = {"nats": {"ok": True}, "mongo": {"ok": False, "detail": "mongo did not answer"}}
    result = await run("status")

    assert result.code == 1
    assert "mongo: mongo did not answer" in result.out


async def test_what_the_token_does_not_let_one_see_is_not_called_well(run: Run) -> None:
    result = await run("status", "--token", "wrong")

    assert result.code == 1
    assert "mesh, ledger, dead letters: unknown" in result.out


async def test_no_gateway_is_exit_2(run: Run) -> None:
    result = await run("status", "--json", HEADRACE_URL="http://127.0.0.1:1")

    assert result.code == 2
    assert result.lines[0]["status"] == "down"


async def test_watch_goes_on_until_interrupted(tmp_path: Path, gateway: StandIn) -> None:
    environment = {"HEADRACE_URL": gateway.url, "HEADRACE_TOKEN": TOKEN}
    process = await start(tmp_path, "status", "--watch", "--json", environment=environment)
    assert process.stdout is not None
    reports = [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    result = await ended(process)

    assert [report["status"] for report in reports] == ["ok", "ok"]
    assert (result.code, result.err) == (130, "")
