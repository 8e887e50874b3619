"""/v1/jobs: what runs on a schedule, what became of each run, and the means to run, pause and resume."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Header, Query, Request, Response

from gateway.access import principal_of, scoped
from gateway.answers.jobs import Job, JobList, JobRun, JobRunPage
from gateway.headers import MAX_KEY_LENGTH
from gateway.routing import Routes, page, passed

_STORE_PROBLEMS: Final = ("analytics_unavailable", "postgres_unavailable")


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/jobs",
        "listJobs",
        tag="jobs",
        summary="List the jobs",
        access=scoped("analytics:read"),
        answer=JobList,
        problems=_STORE_PROBLEMS,
    )
    async def listed() -> Response:
        """Every job with its schedule, when it runs next, and how its last run went."""
        return passed(await door.ask("analytics", "jobs.list"))

    @routes.add(
        "GET",
        "/v1/jobs/{name}",
        "showJob",
        tag="jobs",
        summary="Show a job",
        access=scoped("analytics:read"),
        answer=Job,
        problems=("unknown_job", *_STORE_PROBLEMS),
    )
    async def shown(name: str) -> Response:
        """Its schedule, when it runs next, and how its last run went."""
        return passed(await door.ask("analytics", "jobs.show", {"name": name}))

    @routes.add(
        "GET",
        "/v1/jobs/{name}/runs",
        "listJobRuns",
        tag="jobs",
        summary="The history of a job",
        access=scoped("analytics:read"),
        answer=JobRunPage,
        headers=("Link",),
        problems=("unknown_job", "invalid_request", "invalid_cursor", *_STORE_PROBLEMS),
    )
    async def history(
        request: Request,
        name: str,
        cursor: Annotated[str | None, Query(min_length=1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> Response:
        """Its runs, newest first, each once however many processes there are and however often it was begun."""
        reply = await door.ask("analytics", "jobs.runs", {"name": name, "cursor": cursor, "limit": limit})
        return page(reply, request.url.path, {"limit": str(limit)})

    @routes.add(
        "GET",
        "/v1/jobs/{name}/runs/{id}",
        "showJobRun",
        tag="jobs",
        summary="Show a run",
        access=scoped("analytics:read"),
        answer=JobRun,
        problems=("unknown_job", "job_run_not_found", *_STORE_PROBLEMS),
    )
    async def run(name: str, id: str) -> Response:  # noqa: A002  # the path's own word
        """How far it is. `waiting` is for its next attempt; succeeded, failed and missed are the last word."""
        return passed(await door.ask("analytics", "jobs.run", {"name": name, "id": id}))

    @routes.add(
        "POST",
        "/v1/jobs/{name}/runs",
        "runJob",
        tag="jobs",
        summary="Run a job now",
        access=scoped("admin"),
        answer=JobRun,
        headers=("Location",),
        example={**JobRun.example, "cause": "manual", "outcome": "queued", "attempt": 0}
        | dict.fromkeys(("started_at", "ended_at", "seconds", "worker", "result"))
        | {"requested_by": "ada"},
        status=202,
        problems=("unknown_job", "job_off", "invalid_request", "jetstream_unavailable", *_STORE_PROBLEMS),
    )
    async def start(
        request: Request,
        name: str,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=MAX_KEY_LENGTH)] = None,
    ) -> Response:
        """As soon as a run of it that is at work has ended; also while it is paused. `Location` says where to look.

        Sent again with the same Idempotency-Key, it is the same run.
        """
        asked = {"name": name, "by": principal_of(request).subject, "key": idempotency_key}
        return passed(await door.ask("analytics", "jobs.start", asked))

    @routes.add(
        "POST",
        "/v1/jobs/{name}/pause",
        "pauseJob",
        tag="jobs",
        summary="Pause a job",
        access=scoped("admin"),
        answer=Job,
        example={**Job.example, "paused": True, "paused_by": "ada", "paused_at": Job.example["next_run_at"]}
        | {"next_run_at": None},
        problems=("unknown_job", *_STORE_PROBLEMS),
    )
    async def pause(request: Request, name: str) -> Response:
        """It is not begun by its schedule until it is resumed; a run that is at work goes on."""
        asked = {"name": name, "by": principal_of(request).subject}
        return passed(await door.ask("analytics", "jobs.pause", asked))

    @routes.add(
        "POST",
        "/v1/jobs/{name}/resume",
        "resumeJob",
        tag="jobs",
        summary="Resume a job",
        access=scoped("admin"),
        answer=Job,
        problems=("unknown_job", *_STORE_PROBLEMS),
    )
    async def resume(name: str) -> Response:
        """From its next time on; what was due during the pause is not made up for."""
        return passed(await door.ask("analytics", "jobs.resume", {"name": name}))
