"""The README keeps its word: its pipeline, run as it stands, from a user's own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.servers import reachable_directory
from tests.system.stores import mongo_ids, query
from tests.system.system import READY_SECONDS, System, up
from tests.waiting import eventually

README = Path(__file__).resolve().parents[2] / "README.md"
_PIPELINE = re.compile(r"<!-- pipeline:start -->\n```python\n(.*?)```\n<!-- pipeline:end -->", re.DOTALL)


def pipeline_text() -> str:
    found = _PIPELINE.search(README.read_text())
    assert found, "the README shows no pipeline"
    return found[1]


def test_the_pipeline_in_the_readme_is_under_forty_lines() -> None:
    assert len(pipeline_text().splitlines()) < 40


async def test_the_pipeline_in_the_readme_works_from_a_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "payments.py").write_text(pipeline_text())
    with reachable_directory() as directory:
        async with up(directory, environment={"HEADRACE_PIPELINES": str(tmp_path)}, arguments=["--reload"]) as system:
            described = await system.get("/v1/pipelines/payments")
            example = described["example"]
            async with system.session.post(
                f"{system.url}/v1/documents/payments", json=example, headers={"Prefer": "wait=30"}
            ) as answer:
                assert answer.status == 200, await answer.text()
                state = await answer.json()
            async with system.session.post(f"{system.url}/v1/documents/payments", json={"payer": ""}) as refused:
                problem = await refused.json()

            assert state["status"] == "stored"
            assert state["document"]["fee"] == "0.125"
            assert refused.status == 422
            assert {error["pointer"] for error in problem["errors"]} == {"/payer", "/amount", "/currency", "/paid_at"}
            assert await mongo_ids(system.facts, "payments") == [state["id"]]
            rows = await query(system.facts, "SELECT payer, amount, fee FROM facts.payments")
            assert [(row["payer"], str(row["amount"]), str(row["fee"])) for row in rows] == [("ada", "12.50", "0.125")]
            fees = await system.get("/v1/analytics/payments/fees")
            assert fees["data"] == {"EUR": 0.125}
            assert "/v1/documents/payments" in (await system.get("/openapi.json"))["paths"]

            await _edited_files_are_taken_up(system, tmp_path / "payments.py")


async def _edited_files_are_taken_up(system: System, file: Path) -> None:
    """The same Headrace goes on: with the new file once it loads, and with the old one while it does not."""
    log = system.directory / "logs" / "gateway.log"
    before = system.pids()
    _charge("payment.amount /", file)
    await eventually(_async(lambda: "pipelines_broken" in log.read_text()), seconds=READY_SECONDS)
    assert system.pids() == before

    # It loads, but no start would take it.
    _edit("max_length=64", "max_length=5", file)
    await eventually(_async(lambda: "breaks version 1" in log.read_text()), seconds=READY_SECONDS)
    assert system.pids() == before

    _charge("payment.amount / 50", file)
    reloading = ("gateway", "workers", "analytics")
    await eventually(
        _async(lambda: all(system.pids().get(name, before[name]) != before[name] for name in reloading)),
        seconds=READY_SECONDS,
    )
    await system.ready()
    example = (await system.get("/v1/pipelines/payments"))["example"]
    status, state = await system.post("payments", json.dumps(example).encode(), wait=30)

    assert status == 200, state
    assert state["document"]["fee"] == "0.25"
    unchanged = {name: pid for name, pid in before.items() if name not in reloading}
    assert {name: system.pids()[name] for name in unchanged} == unchanged


def _charge(fee: str, file: Path) -> None:
    _edit("payment.amount / 100", fee, file)


def _edit(old: str, new: str, file: Path) -> None:
    file.write_text(pipeline_text().replace(old, new))


def _async(holds: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return holds()

    return look
