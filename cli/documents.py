"""`headrace send|get|tail`: documents in and out, as JSON lines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import PipelineArgument, Token, Url
from cli.output import write_json, write_line
from cli.problems import EXIT_FAILED, EXIT_USAGE, fail, say

if TYPE_CHECKING:
    from cli.following import Follower
    from cli.sending import Sender

_POLL_SECONDS = 1.0


def send(
    pipeline: PipelineArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="JSON lines, one JSON document or an array; - is stdin")
    ],
    key_prefix: Annotated[
        str | None,
        typer.Option(help="gives each document an Idempotency-Key: the same input sent again is stored once"),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=30, help="wait so long until the documents are stored")
    ] = 0,
    url: Url = None,
    token: Token = None,
) -> None:
    """Send documents; one JSON line comes back for each, with its id or with the rules it breaks.

    Exit codes: 0 all were accepted, 1 some were refused or sending failed.
    """
    from cli.api import Api, find
    from cli.sending import Sender, chunks, open_documents

    headrace = find(url, token)
    with open_documents(file) as source, asyncio.Runner() as runner:
        api = runner.run(Api(headrace).__aenter__())
        try:
            sender = Sender(api, pipeline, source, key_prefix, wait)
            runner.run(sender.prepare())
            # Between requests nothing runs but this: reading may block, and Ctrl-C ends it.
            for chunk in chunks(source.numbered(), whole=key_prefix is not None):
                for line in runner.run(sender.send(chunk)):
                    write_line(line)
        finally:
            runner.run(api.__aexit__())
    _conclude(sender)


def _conclude(sender: Sender) -> None:
    if not sender.results:
        say("There was no document to send.")
        return
    results = sender.results
    counted = ", ".join(f"{number} {name}" for name, number in results.items())
    say(f"{sum(results.values())} sent: {counted}")
    if results["refused"] or results["dead"]:
        raise typer.Exit(EXIT_FAILED)


def get(
    pipeline: PipelineArgument,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="what the document's acceptance named")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Show where a document is and what became of it, as JSON; exit 1 when there is none."""
    from cli.api import Api, find, path

    async def ask() -> Any:
        async with Api(find(url, token)) as api:
            return await api.get(path("documents", pipeline, document_id))

    write_json(asyncio.run(ask()))


def tail(
    pipeline: Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="by default all of them")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="begin there and not now: 90s, 10m, 2h, 1d ago, or ISO 8601")
    ] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Follow the documents as they are stored, one JSON line each, until Ctrl-C."""
    asyncio.run(_follow(pipeline, since, url, token))


async def _follow(pipeline: str | None, since: str | None, url: str | None, token: str | None) -> None:
    from datetime import UTC, datetime

    from cli.api import Api, find, path
    from cli.following import Follower, parse_since

    try:
        start = parse_since(since, datetime.now(UTC)) if since else None
    except ValueError as error:
        fail(str(error), exit_code=EXIT_USAGE)
    async with Api(find(url, token)) as api:
        names = [pipeline] if pipeline else [one["name"] for one in (await api.get(path("pipelines")))["items"]]
        followers = [Follower(api, name, start) for name in names]
        for follower in followers:
            _write(await follower.new())
        say(f"Following {', '.join(names)} on {api.url}; Ctrl-C ends it.")
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await _write_new(followers)


async def _write_new(followers: list[Follower]) -> None:
    from headrace.errors import UnavailableError

    for follower in followers:
        try:
            _write(await follower.new())
        except UnavailableError as error:
            # It was there before, so it may come back; nothing is missed meanwhile.
            say(f"headrace: {error.detail}")


def _write(found: list[dict[str, Any]]) -> None:
    for one in found:
        write_line(one)
