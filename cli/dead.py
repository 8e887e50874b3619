"""`headrace dead ls|groups|show|audit`: what was refused behind the door, why, and what was decided about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import dead_decide
from cli.dead_choice import After, Before, Code, Pipeline, Pointer, Stage, filters_of
from cli.options import Json, Token, Url
from cli.output import Row, print_table, write_json, write_line
from cli.problems import say

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(name="dead", help="Dead letters: documents that were accepted and then refused.")

NOTHING = "There are no dead letters."
_COMMON = ("pipeline", "stage", "code", "pointer", "first_at", "last_at")


@app.command()
def ls(
    pipeline: Pipeline = None,
    stage: Stage = None,
    code: Code = None,
    pointer: Pointer = None,
    after: After = None,
    before: Before = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="show so many at most, newest first")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """List dead letters, newest first."""
    filters = filters_of(pipeline, stage, code, pointer, after, before)
    letters, more = asyncio.run(_listed("/v1/dead-letters", filters, limit, url, token))
    if as_json:
        for letter in letters:
            write_line(letter)
    else:
        print_table(
            ("id", "pipeline", "stage", "code", "where", "dead at", "reason"), [_row(one) for one in letters], NOTHING
        )
    if more:
        say(f"There are more; --limit {10 * limit} shows them.")


@app.command()
def groups(
    pipeline: Pipeline = None,
    stage: Stage = None,
    code: Code = None,
    pointer: Pointer = None,
    after: After = None,
    before: Before = None,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Group dead letters by what they have in common, most first."""
    filters = filters_of(pipeline, stage, code, pointer, after, before)
    found = asyncio.run(_get("/v1/dead-letters/groups", filters, url, token))
    if as_json:
        write_json(found)
        return
    print_table(
        ("count", "pipeline", "stage", "code", "where", "first", "last", "sample"),
        [(f"{one['count']:,}", *(one[name] or "" for name in _COMMON), one["sample_id"]) for one in found],
        NOTHING,
    )


@app.command()
def show(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="of the document")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Show a dead letter as JSON: the broken rules, the original bytes, each attempt and decision."""
    from cli.api import path

    write_json(asyncio.run(_get(path("dead-letters", document_id), {}, url, token)))


@app.command()
def audit(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="show so many at most, newest first")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Say who replayed and discarded what, with which patch and why, newest first."""
    found, more = asyncio.run(_listed("/v1/dead-letters/audit", {}, limit, url, token))
    if as_json:
        for one in found:
            write_line(one)
    else:
        titles = ("at", "by", "action", "state", "done", "left out", "chosen by", "patch", "reason")
        print_table(titles, [_decision(one) for one in found], "Nobody has decided anything.")
    if more:
        say(f"There are more; --limit {10 * limit} shows them.")


app.command()(dead_decide.replay)
app.command()(dead_decide.discard)


async def _get(path: str, params: Mapping[str, str], url: str | None, token: str | None) -> Any:
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        return await api.get(path, params)


async def _listed(
    path: str, filters: Mapping[str, str], limit: int, url: str | None, token: str | None
) -> tuple[list[dict[str, Any]], bool]:
    """Return at most `limit` items of a list, and whether there are more."""
    from cli.api import Api, find

    params = dict(filters)
    items: list[dict[str, Any]] = []
    async with Api(find(url, token)) as api:
        while True:
            params["limit"] = str(min(1000, limit - len(items)))
            page = await api.get(path, params)
            items += page["items"]
            if not page["next"] or len(items) >= limit:
                return items[:limit], bool(page["next"])
            params["cursor"] = page["next"]


def _row(letter: Mapping[str, Any]) -> Row:
    place = (letter["id"], letter["pipeline"], letter["stage"], letter["code"], letter["pointer"] or "")
    return (*place, letter["dead_at"][:19], letter["reason"])


def _decision(one: Mapping[str, Any]) -> Row:
    selection = one["selection"]
    by_filter = " ".join(f"{name}={value}" for name, value in selection.get("filter", {}).items())
    chosen_by = by_filter or f"{one['ids']:,} ids"
    done = one["replayed"] if one["action"] == "replay" else one["discarded"]
    counted = (f"{done:,}", f"{one.get('left_out', 0):,}")
    about = (chosen_by, (one["patch_sha256"] or "")[:12], one["reason"] or "")
    return (one["at"][:19], one["by"], one["action"], one["state"], *counted, *about)
