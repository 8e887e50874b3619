"""`headrace audit`: who did what to accounts, sessions and keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Token, Url
from cli.output import console, table, write_line
from cli.problems import say

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_AT_ONCE = 1000


def audit(
    actor: Annotated[str | None, typer.Option(help="what this user or `operator` did")] = None,
    account: Annotated[str | None, typer.Option(help="what was done to this user")] = None,
    action: Annotated[str | None, typer.Option(help="only this, such as login_failed")] = None,
    since: Annotated[str | None, typer.Option(help="from this time on, RFC 3339 with a zone")] = None,
    until: Annotated[str | None, typer.Option(help="before this time")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="show so many at most, newest first")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Say who did what to accounts, newest first; needs the scope admin. Dead letters have an audit of their own."""
    given = {"actor": actor, "account": account, "action": action, "since": since, "until": until}
    found, more = asyncio.run(_entries({name: value for name, value in given.items() if value}, limit, url, token))
    if as_json:
        for entry in found:
            write_line(entry)
    elif found:
        console().print(table(("at", "by", "action", "account", "client", "detail"), [_row(one) for one in found]))
    else:
        say("The audit has nothing of that.")
    if more:
        say(f"There is more; --limit {10 * limit} shows it.")


async def _entries(
    asked: Mapping[str, str], limit: int, url: str | None, token: str | None
) -> tuple[list[dict[str, Any]], bool]:
    """Return at most `limit` entries, and whether there are more."""
    from cli.api import Api, find

    params = dict(asked)
    entries: list[dict[str, Any]] = []
    async with Api(find(url, token)) as api:
        while True:
            params["limit"] = str(min(_MOST_AT_ONCE, limit - len(entries)))
            page = await api.get("/v1/audit", params)
            entries += page["items"]
            if not page["next"] or len(entries) >= limit:
                return entries[:limit], bool(page["next"])
            params["cursor"] = page["next"]


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    detail = " ".join(f"{name}={value}" for name, value in entry["detail"].items())
    return entry["at"][:19], entry["by"], entry["action"], entry["account"], entry["client"] or "", detail
