"""`headrace job ls|run|history|pause|resume`: work that runs on a schedule."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, Token, Url
from cli.output import Row, console, table, write_json, write_line
from cli.problems import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.api import Api

app = typer.Typer(name="job", help="Jobs: work that runs on a schedule.")

_TITLES = ("job", "schedule", "zone", "next", "last run", "outcome", "service", "about")
_RUN_TITLES = ("scheduled at", "outcome", "cause", "attempts", "seconds", "result or error", "id")
_ENDED = ("succeeded", "failed", "missed")
_POLL_SECONDS = 0.3
_MOST_SHOWN = 100

Name = Annotated[str, typer.Argument(metavar="JOB", help="name of the job")]


@app.command()
def ls(as_json: Json = False, url: Url = None, token: Token = None) -> None:
    """List the jobs: their schedules, when they run next, how they went last."""
    found = asyncio.run(_get("/v1/jobs", {}, url, token))["items"]
    if as_json:
        write_json(found)
    elif found:
        console().print(table(_TITLES, [_row(one) for one in found]))
    else:
        say("There are no jobs yet.")


@app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="show so many runs at most")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show the runs of a job, newest first."""
    from cli.api import path

    found = asyncio.run(_get(path("jobs", name, "runs"), {"limit": str(limit)}, url, token))["items"]
    if as_json:
        for one in found:
            write_line(one)
    elif found:
        console().print(table(_RUN_TITLES, [_run_row(one) for one in found]))
    else:
        say(f"{name} has not run yet.")


@app.command()
def run(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="until it has ended; exit code 1 where it failed")] = False,
    timeout_seconds: Annotated[float, typer.Option("--timeout", min=1, help="seconds to wait at most")] = 3600.0,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Run a job now, whatever its schedule says."""
    found = asyncio.run(_run(name, timeout_seconds if wait else None, url, token))
    if as_json:
        write_json(found)
    else:
        console().print(table(_RUN_TITLES, [_run_row(found)]))
    if wait and found["outcome"] != "succeeded":
        if found["outcome"] not in _ENDED:
            say(f"Error: {name} has not ended within {timeout_seconds:g} s; `headrace job history {name}` shows it.")
        raise typer.Exit(1)


@app.command()
def pause(name: Name, as_json: Json = False, url: Url = None, token: Token = None) -> None:
    """Let a job's schedule start it no more, until it is resumed; `job run` still does."""
    _told(asyncio.run(_post(name, "pause", url, token)), as_json=as_json)


@app.command()
def resume(name: Name, as_json: Json = False, url: Url = None, token: Token = None) -> None:
    """Let a paused job's schedule start it again; what was due meanwhile is not made up for."""
    _told(asyncio.run(_post(name, "resume", url, token)), as_json=as_json)


async def _get(path: str, params: Mapping[str, str], url: str | None, token: str | None) -> Any:
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        return await api.get(path, params)


async def _post(name: str, verb: str, url: str | None, token: str | None) -> Any:
    from cli.api import Api, find, path

    async with Api(find(url, token)) as api:
        return await _posted(api, path("jobs", name, verb))


async def _posted(api: Api, path: str, headers: Mapping[str, str] | None = None) -> Any:
    answer = await api.ask("POST", path, headers=headers)
    if answer.status >= 400:
        raise answer.error
    return answer.body


async def _run(name: str, wait_seconds: float | None, url: str | None, token: str | None) -> Any:
    """Start a run; return it as it ended, or as it was when the time was over."""
    from cli.api import Api, find, path
    from headrace.document import new_id
    from headrace.errors import UnavailableError

    async with Api(find(url, token)) as api:
        found = await _posted(api, path("jobs", name, "runs"), {"Idempotency-Key": new_id()})
        if wait_seconds is None:
            return found
        told = 0
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while found["outcome"] not in _ENDED and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                found = await api.get(path("jobs", name, "runs", found["id"]))
                if found["outcome"] == "waiting" and found["attempt"] > told:
                    told = found["attempt"]
                    say(f"Attempt {told}: {found['error']}; the next is at {_short(found['retry_at'])}.")
            except UnavailableError as error:
                # The run goes on without us.
                say(f"{error.detail} Trying again.")
                await asyncio.sleep(error.retry_after_seconds or 1)
        return found


def _told(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        write_json(job)
    else:
        console().print(table(_TITLES, [_row(job)]))


def _row(job: Mapping[str, Any]) -> Row:
    last = job["last_run"] or {}
    following = _short(job["next_run_at"]) or ("off" if job["off"] else "paused")
    about = f"off: {job['off']}" if job["off"] else job["about"]
    place = (job["name"], job["schedule"], job["zone"], following)
    return (*place, _short(last.get("scheduled_at")), last.get("outcome", ""), job["service"], about)


def _run_row(run: Mapping[str, Any]) -> Row:
    import json

    told = run["error"] or (json.dumps(run["result"], ensure_ascii=False) if run["result"] else "")
    if len(told) > _MOST_SHOWN:
        told = told[: _MOST_SHOWN - 1] + "…"
    seconds = "" if run["seconds"] is None else f"{run['seconds']:.3f}"
    place = (_short(run["scheduled_at"]), run["outcome"], run["cause"], str(run["attempt"]), seconds)
    return (*place, told, run["id"])


def _short(time: str | None) -> str:
    return time[:19] + "Z" if time else ""
