"""Jobs, as other services may ask about them: the list, their runs, run now, pause and resume."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from analytics.cursor import cursor_of, invalid_cursor, place_of
from analytics.requests import AskJob, AskJobRun, AskJobRuns, AskRunJob
from headrace.document import derived_id, new_id, parse_id, parse_time, rfc3339
from headrace.errors import RequestError
from headrace.job import JOB_NAME, MANUAL, Schedule
from headrace.messaging.connection import Bus
from headrace.messaging.schedules import request_run
from headrace.settings import Settings
from headrace.storage.job_runs import JobRuns, Tick, unknown_job

_TIMES: Final = ("scheduled_at", "started_at", "ended_at", "retry_at")


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page of runs ended."""

    job: str
    scheduled_at: str
    id: str


@dataclass(frozen=True)
class JobDesk:
    """What the endpoints of jobs need."""

    bus: Bus
    settings: Settings
    history: JobRuns

    async def list(self) -> dict[str, Any]:
        """Return every job, in order of name."""
        now = datetime.now(UTC)
        return {"items": [_job(row, now) for row in await self.history.jobs()]}

    async def show(self, asked: AskJob) -> dict[str, Any]:
        return _job(await self._row(asked.name), datetime.now(UTC))

    async def runs(self, asked: AskJobRuns) -> dict[str, Any]:
        """Return {items, next}, newest first."""
        before = None
        if asked.cursor is not None:
            place = place_of(asked.cursor, Place)
            if place.job != asked.name:
                raise invalid_cursor()
            try:
                before = parse_time(place.scheduled_at), parse_id(place.id)
            except ValueError:
                raise invalid_cursor() from None
        await self._row(asked.name)
        found = await self.history.runs(asked.name, asked.limit + 1, before)
        shown = found[: asked.limit]
        more = len(found) > len(shown)
        last = Place(asked.name, rfc3339(shown[-1]["scheduled_at"]), str(shown[-1]["id"])) if more else None
        return {"items": [_run(row) for row in shown], "next": cursor_of(last) if last else None}

    async def run(self, asked: AskJobRun) -> dict[str, Any]:
        """Return one run.

        Raises:
            RequestError: 404, there is none.
        """
        await self._row(asked.name)
        row = None
        with contextlib.suppress(ValueError):
            row = await self.history.run(asked.name, str(UUID(asked.id)))
        if row is None:
            raise RequestError(f"Job {asked.name} has no run of this id.", code="job_run_not_found", status=404)
        return _run(row)

    async def start(self, asked: AskRunJob) -> dict[str, Any]:
        """Have a job run as soon as it can; return the run, which may have been asked for before under the same key.

        Raises:
            RequestError: 409, the job is off.
        """
        job = await self._row(asked.name)
        if job["off"]:
            raise RequestError(f"Job {asked.name} is off: {job['off']}.", code="job_off", status=409)
        run_id = new_id() if asked.key is None else derived_id("run", asked.name, asked.by or "", asked.key)
        known = await self.history.run(asked.name, run_id)
        if known is None:
            tick = Tick(run_id, MANUAL, datetime.now(UTC), asked.by)
            # Known to the broker first: a run that only the history knew of would wait for ever.
            await request_run(self.bus, self.settings, job["service"], asked.name, tick)
            await self.history.request(asked.name, tick)
            known = await self.history.run(asked.name, run_id)
            assert known
        return _run(known)

    async def pause(self, asked: AskRunJob) -> dict[str, Any]:
        await self._row(asked.name)
        await self.history.pause(asked.name, asked.by)
        return await self.show(AskJob(asked.name))

    async def resume(self, asked: AskRunJob) -> dict[str, Any]:
        await self._row(asked.name)
        await self.history.resume(asked.name)
        return await self.show(AskJob(asked.name))

    async def _row(self, name: str) -> Mapping[str, Any]:
        # What cannot be a name may be text that Postgres does not take.
        found = await self.history.jobs(name) if JOB_NAME.fullmatch(name) else []
        if not found:
            raise unknown_job(name, [row["name"] for row in await self.history.jobs()])
        return found[0]


def _job(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    runs_on = row["off"] is None and row["paused_at"] is None
    return {
        "name": row["name"],
        "about": row["about"],
        "service": row["service"],
        "schedule": row["schedule"],
        "zone": row["zone"],
        "next_run_at": rfc3339(Schedule(row["cron"], row["zone"]).after(now)) if runs_on else None,
        "paused": row["paused_at"] is not None,
        "paused_at": rfc3339(row["paused_at"]) if row["paused_at"] else None,
        "paused_by": row["paused_by"],
        "off": row["off"],
        "retries": row["retries"],
        "backoff_seconds": row["backoff_seconds"],
        "missed": row["missed"],
        "timeout_seconds": row["timeout_seconds"],
        "last_run": _run(row["last"]) if row["last"] else None,
        "links": {"self": f"/v1/jobs/{row['name']}", "runs": f"/v1/jobs/{row['name']}/runs"},
    }


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: _moment(row[name]) for name in _TIMES}
    started, ended = times["started_at"], times["ended_at"]
    return {
        "id": str(row["id"]),
        "job": row["job"],
        "cause": row["cause"],
        "requested_by": row["requested_by"],
        "outcome": row["outcome"],
        "attempt": row["attempt"],
        **{name: rfc3339(time) if time else None for name, time in times.items()},
        "seconds": round((ended - started).total_seconds(), 3) if started and ended else None,
        "missed_before": row["missed_before"],
        "worker": row["worker"],
        "result": row["result"],
        "error": row["error"],
        "links": {"self": f"/v1/jobs/{row['job']}/runs/{row['id']}"},
    }


def _moment(value: datetime | str | None) -> datetime | None:
    return parse_time(value) if isinstance(value, str) else value
