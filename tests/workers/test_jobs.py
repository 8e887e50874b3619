"""The jobs of the workers: licences are fetched by a child process, straight onto the stream."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp.web
import pytest

from headrace.document import new_id
from headrace.job import Job, JobFailedError, Run
from headrace.settings import JobSettings, Settings
from headrace.storage.job_runs import open_job_runs
from headrace.telemetry import REGISTRY
from headrace.topology import RAW
from producer.samples import sample
from producer.sources import read
from tests.producer.portal_stand_in import portal, refusal
from tests.workers.plant import Plant
from workers.jobs import jobs


async def run(name: str, settings: Settings, url: str) -> Mapping[str, Any] | None:
    """Run a job's work once, as the runner does."""
    async with open_job_runs(settings.postgres_url.get_secret_value(), 5) as history:
        return await job(name, JobSettings(socrata_url=url), history).work(
            Run(new_id(), name, "schedule", datetime.now(UTC), 1)
        )


def job(name: str, settings: JobSettings, history: Any = None) -> Job:
    return next(one for one in jobs(history, settings) if one.name == name)


@pytest.fixture
def environment(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a child process of the workers inherits."""
    settings = plant.settings
    for name in ("nats_url", "postgres_url", "mongo_url", "redis_url"):
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", getattr(settings, name).get_secret_value())
    monkeypatch.setenv("HEADRACE_NAMESPACE", settings.namespace)
    monkeypatch.setenv("HEADRACE_PRODUCER__SOCRATA_ATTEMPTS", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    return settings


async def test_licenses_are_fetched_by_a_child_process_that_needs_no_token(plant: Plant, environment: Settings) -> None:
    path = sample("licenses")
    assert path
    rows = [dict(row.document) for row in read("licenses", path) if row.document][:7]
    async with portal(0) as server:
        server.rows = [{":id": f"row-{number}", **row} for number, row in enumerate(rows)]
        result = await run("licenses_fetch", environment, server.url)

    assert result
    assert (result["rows"], result["accepted"]) == (7, 7)
    info = await plant.bus.client.jetstream().stream_info(plant.topology.stream(RAW))
    assert info.state.messages >= 1


async def test_a_portal_that_refuses_fails_the_run_with_its_own_words(environment: Settings) -> None:
    async def forbidden(_number: int, _request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return refusal(403, "Invalid app_token specified")

    async with portal(7, forbidden) as server:
        with pytest.raises(JobFailedError, match="Invalid app_token specified"):
            await run("licenses_fetch", environment, server.url)


async def test_a_reconciliation_that_finds_something_fails_and_is_a_metric(
    plant: Plant, environment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PIPELINES", str(environment.pipelines))
    await plant.submit("things", {"name": "a"}, {"name": "a"}, times=["2026-01-31T12:59:00.000000Z"] * 2)
    await plant.work()

    async def work() -> Mapping[str, Any] | None:
        async with open_job_runs(environment.postgres_url.get_secret_value(), 5) as history:
            found = job("reconcile_all", JobSettings(), history)
            return await found.work(Run(new_id(), found.name, "schedule", datetime.now(UTC), 1))

    well = await work()
    before = REGISTRY.get_sample_value("headrace_reconcile_findings", {"pipeline": "things"})
    await plant.fetch("DELETE FROM facts.things WHERE id = (SELECT max(id::text)::uuid FROM facts.things)")
    with pytest.raises(JobFailedError) as caught:
        await work()

    assert well
    assert (well["healthy"], before) == (True, 0)
    assert "things: " in caught.value.detail
    assert caught.value.result
    [things] = [one for one in caught.value.result["pipelines"] if one["pipeline"] == "things"]
    assert {(one["kind"], one["where"], one["count"]) for one in things["findings"]} >= {("missing", "facts", 1)}
    assert (REGISTRY.get_sample_value("headrace_reconcile_findings", {"pipeline": "things"}) or 0) >= 1


def test_what_is_not_set_up_here_is_off_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    assert job("licenses_fetch", JobSettings()).off == "HEADRACE_JOBS__SOCRATA_URL names no Socrata resource"
    assert job("licenses_fetch", JobSettings(socrata_url="http://127.0.0.1/x.json")).off is None
    assert "requirements/analysis.txt is not installed" in (job("students_analysis", JobSettings()).off or "")
    assert job("history_trim", JobSettings()).off is None


def test_licenses_have_one_retry_after_five_minutes() -> None:
    fetch = job("licenses_fetch", JobSettings())

    assert (fetch.when, fetch.retries, fetch.backoff_seconds) == ("@hourly", 1, 300)
