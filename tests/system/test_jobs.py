"""Jobs of a whole Headrace, over its API and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from gateway.answers.jobs import JobList, JobRun, JobRunPage
from tests.system.system import ROOT, System
from tests.waiting import eventually

_DEADLINE_SECONDS = 60.0


async def ask(system: System, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
    async with system.session.request(method, f"{system.url}{path}", **options) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def command(system: System, *arguments: str) -> tuple[int, str, str]:
    environment = {**os.environ, "HEADRACE_URL": system.url, "HEADRACE_TOKEN": str(system.facts["token"])}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "job", *arguments),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_every_job_is_listed_with_its_schedule_and_runs_when_asked(system: System) -> None:
    _, found, _ = await ask(system, "GET", "/v1/jobs")
    jobs = {one.name: one for one in JobList.model_validate(found).items}

    assert {name: (one.schedule, one.service, one.retries, one.backoff_seconds) for name, one in jobs.items()} == {
        "users_count": ("* * * * *", "auth", 2, 5),
        "users_count_cleaner": ("@hourly", "auth", 3, 60),
        "audit_trim": ("20 3 * * *", "auth", 3, 60),
        "licenses_fetch": ("@hourly", "workers", 1, 300),
        "students_analysis": ("15 * * * *", "workers", 1, 60),
        "history_trim": ("40 3 * * *", "workers", 3, 60),
        "ledger_check": ("*/10 * * * *", "analytics", 2, 30),
        "reconcile": ("25 * * * *", "workers", 1, 120),
        "reconcile_all": ("10 2 * * *", "workers", 0, 60),
    }
    assert {name: one.next_run_at is None for name, one in jobs.items() if one.off} == {"licenses_fetch": True}

    for name in ("users_count_cleaner", "history_trim", "ledger_check"):
        status, run, headers = await ask(system, "POST", f"/v1/jobs/{name}/runs", headers={"Idempotency-Key": "once"})
        assert (status, headers["Location"]) == (202, f"/v1/jobs/{name}/runs/{run['id']}")
        _, again, _ = await ask(system, "POST", f"/v1/jobs/{name}/runs", headers={"Idempotency-Key": "once"})
        assert again["id"] == run["id"]

        async def succeeded(path: str = headers["Location"]) -> bool:
            _, found, _ = await ask(system, "GET", path)
            assert found["outcome"] in ("queued", "running", "succeeded"), found
            return bool(JobRun.model_validate(found).outcome == "succeeded")

        await eventually(succeeded, seconds=_DEADLINE_SECONDS)
        _, page, _ = await ask(system, "GET", f"/v1/jobs/{name}/runs?limit=1000")
        runs = JobRunPage.model_validate(page).items
        assert [one.id for one in runs].count(run["id"]) == 1


async def test_pages_of_a_jobs_history_follow_each_other(system: System) -> None:
    for _ in range(3):
        assert (await ask(system, "POST", "/v1/jobs/history_trim/runs"))[0] == 202
    _, whole, _ = await ask(system, "GET", "/v1/jobs/history_trim/runs?limit=1000")
    seen: list[str] = []
    path = "/v1/jobs/history_trim/runs?limit=1"
    while path:
        _, page, headers = await ask(system, "GET", path)
        seen += [one["id"] for one in page["items"]]
        path = headers["Link"].partition(">")[0].strip("<") if "Link" in headers else ""

    assert len(seen) >= 3
    assert seen == [one["id"] for one in whole["items"]]


async def test_what_cannot_be_asked_of_a_job_is_a_problem(system: System) -> None:
    for method, path, status, code in (
        ("GET", "/v1/jobs/nope", 404, "unknown_job"),
        ("GET", "/v1/jobs/a%00b/runs", 404, "unknown_job"),
        ("POST", "/v1/jobs/nope/pause", 404, "unknown_job"),
        ("POST", "/v1/jobs/licenses_fetch/runs", 409, "job_off"),
        ("GET", "/v1/jobs/users_count/runs/nope", 404, "job_run_not_found"),
        ("GET", "/v1/jobs/users_count/runs?cursor=nope", 422, "invalid_cursor"),
        ("GET", "/v1/jobs/users_count/runs?limit=0", 422, "invalid_request"),
    ):
        found, problem, _ = await ask(system, method, path)
        assert (found, problem["code"]) == (status, code), path


async def test_jobs_from_the_command_line(system: System) -> None:
    code, out, _ = await command(system, "pause", "audit_trim", "--json")
    assert (code, json.loads(out)["paused"], json.loads(out)["next_run_at"]) == (0, True, None)
    code, out, _ = await command(system, "run", "audit_trim", "--wait", "--json")
    assert (code, json.loads(out)["outcome"], json.loads(out)["requested_by"]) == (0, "succeeded", "admin")
    code, out, _ = await command(system, "resume", "audit_trim", "--json")
    assert (code, json.loads(out)["paused"]) == (0, False)
    code, out, _ = await command(system, "history", "audit_trim", "--json")
    assert (code, json.loads(out.splitlines()[0])["result"]["deleted"]) == (0, 0)
    code, out, _ = await command(system, "ls")
    assert code == 0
    assert "off: HEADRACE_JOBS__SOCRATA_URL names no Socrata resource" in out
    code, out, err = await command(system, "run", "nope")
    assert (code, out) == (1, "")
    assert "There is no job 'nope'; there are: audit_trim, " in err
