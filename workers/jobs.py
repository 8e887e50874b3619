"""The jobs of the workers: reconciliations, the fetch of licences, the students' analysis, the history's trimming.

Students are cleaned document by document where they pass (pipelines/students.py), so no job is needed for that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from headrace import telemetry
from headrace.child import run_command
from headrace.job import Job, JobFailedError, Run
from headrace.settings import JobSettings
from headrace.storage.job_runs import JobRuns

log = telemetry.logger(__name__)


def jobs(history: JobRuns, settings: JobSettings) -> list[Job]:
    """Return the jobs of this service."""

    async def fetch_licenses(_run: Run) -> Mapping[str, Any]:
        # Straight to NATS: the workers have its password, and no token for the gateway. What was read an hour ago and
        # is in the cache would be nothing new.
        portal = ("--socrata", settings.socrata_url or "", "--no-cache")
        return await run_command("produce", "licenses", *portal, "--direct", "--json")

    async def analyse_students(_run: Run) -> Mapping[str, Any]:
        told = await run_command("analyse", "students", "--json")
        analysis = told.get("analysis") or {}
        # The analysis itself is where its readers look for it.
        return {"changed": told.get("changed"), **{key: analysis.get(key) for key in ("revision", "documents")}}

    async def trim_history(run: Run) -> Mapping[str, Any]:
        before = run.scheduled_at - timedelta(days=settings.history_days)
        return {"deleted": await history.trim(before), "before": before.isoformat()}

    async def reconcile(_run: Run) -> Mapping[str, Any]:
        # Each night further back, and with all facts counted once more.
        return await _reconciled("--since", "24h")

    async def reconcile_all(_run: Run) -> Mapping[str, Any]:
        return await _reconciled("--counts")

    return [
        Job(
            name="reconcile",
            about="Compares what was accepted in the last day with streams and stores; fails where something differs.",
            when="25 * * * *",
            work=reconcile,
            retries=1,
            backoff_seconds=120,
            timeout_seconds=1800,
        ),
        Job(
            name="reconcile_all",
            about="Compares all that was ever accepted, newest first, and counts all facts once more.",
            when="10 2 * * *",
            work=reconcile_all,
            missed="once",
            timeout_seconds=7200,
        ),
        Job(
            name="licenses_fetch",
            about="Fetches new business licences from Socrata.",
            when="@hourly",
            work=fetch_licenses,
            retries=1,
            backoff_seconds=300,
            missed="once",
            timeout_seconds=3000,
            off=None if settings.socrata_url else "HEADRACE_JOBS__SOCRATA_URL names no Socrata resource",
        ),
        Job(
            name="students_analysis",
            about="Computes the statistics of the student records anew.",
            when="15 * * * *",
            work=analyse_students,
            retries=1,
            missed="once",
            timeout_seconds=1800,
            off=None
            if _installed("statsmodels")
            else "requirements/analysis.txt is not installed: make analysis, or build the image with it",
        ),
        Job(
            name="history_trim",
            about="Deletes runs from the jobs' history that are older than jobs.history_days.",
            when="40 3 * * *",
            work=trim_history,
            retries=3,
            missed="once",
        ),
    ]


async def _reconciled(*options: str) -> Mapping[str, Any]:
    try:
        told = await run_command("reconcile", "--json", *options)
    except JobFailedError as error:
        _alert(error.result or {})
        raise
    _alert(told)
    return told


def _alert(told: Mapping[str, Any]) -> None:
    for one in told.get("pipelines", ()):
        telemetry.reconcile_findings.labels(one["pipeline"]).set(one["open"])
        if one["open"]:
            kinds = sorted({f"{finding['kind']} in {finding['where']}" for finding in one["findings"]})
            log.error("reconcile_found", pipeline=one["pipeline"], open=one["open"], kinds=kinds)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
