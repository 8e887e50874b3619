"""`headrace status`: health, rates, lag, dead letters and the ledger on one screen."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, Token, Url
from cli.output import console, table, write_json, write_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group

    from cli.api import Api
    from cli.health import Snapshot
    from cli.output import Row

EXIT_CODES = {"ok": 0, "degraded": 1, "down": 2}

# The ledger is counted at most once a second.
_BETWEEN_SECONDS = 1.5
_WATCH_SECONDS = 2.0
_SHOWN_GROUPS = 5
_LEDGER = ("pipeline", "accepted", "documents", "facts", "dead", "in flight", "in/s", "out/s", "balanced", "reconciled")
_STAGES = ("stage", "waiting blocks", "at work", "oldest", "stream", "full")
_SERVICES = ("service", "instance", "version", "pid", "up", "requests", "errors")
_DEAD = ("dead", "pipeline", "stage", "code", "where")
_STYLES = {"ok": "green", "degraded": "yellow", "down": "bold red"}


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="look again and again, until Ctrl-C")] = False,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show how a running Headrace is.

    Exit codes: 0 ok; 1 degraded: a dependency is away, a stage lags or the ledger does not balance; 2 down: no
    gateway answers.
    """
    report = asyncio.run(_look(url, token, watch=watch, as_json=as_json))
    raise typer.Exit(EXIT_CODES[report["status"]])


async def _look(url: str | None, token: str | None, *, watch: bool, as_json: bool) -> dict[str, Any]:
    """Show how things are and return it; with `watch` until interrupted."""
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        report, snapshot = await _report(api, None)
        if watch:
            with _shown_live(as_json=as_json) as show:
                while True:
                    show(report)
                    await asyncio.sleep(_WATCH_SECONDS)
                    report, snapshot = await _report(api, snapshot)
        if snapshot is not None:
            # Rates need two looks.
            await asyncio.sleep(_BETWEEN_SECONDS)
            report, _ = await _report(api, snapshot)
    if as_json:
        write_json(report)
    else:
        console().print(screen(report))
    return report


async def _report(api: Api, before: Snapshot | None) -> tuple[dict[str, Any], Snapshot | None]:
    """Return how things are, and what to compare the next look with; None where nobody answers."""
    from cli.health import judge, look, rates
    from headrace.errors import HeadraceError

    try:
        now = await look(api)
    except HeadraceError as error:
        return {"status": "down", "url": api.url, "reasons": [error.detail]}, None
    reasons = judge(now, before)
    return {
        "status": "degraded" if reasons else "ok",
        "url": api.url,
        "version": now.version,
        "reasons": reasons,
        "checks": now.checks,
        "services": now.services,
        "consumers": now.consumers,
        "streams": now.streams,
        "ledger": now.ledger,
        "reconciled": now.reconciled,
        "rates": rates(now, before),
        "dead_letters": now.dead,
    }, now


@contextlib.contextmanager
def _shown_live(*, as_json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what shows a report: in place on a terminal, else one after the other."""
    from rich.console import Console
    from rich.live import Live

    if as_json:
        yield write_line
    elif sys.stdout.isatty():
        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            yield lambda report: live.update(screen(report), refresh=True)
    else:
        yield lambda report: console().print(screen(report))


def screen(report: dict[str, Any]) -> Group:
    """Return a report as tables."""
    from rich.console import Group
    from rich.text import Text

    state = report["status"]
    parts: list[Any] = [Text.assemble((state, _STYLES[state]), f"  {report['url']}  {report.get('version', '')}")]
    parts += [Text(f"  {reason}", style=_STYLES[state]) for reason in report["reasons"]]
    if state == "down":
        return Group(*parts)
    up = [name for name, check in report["checks"].items() if check.get("ok")]
    parts.append(Text(f"  ready: {', '.join(up)}", style="dim"))
    letters = report["dead_letters"]
    fills = {one["name"]: one["fill"] for one in report["streams"]}
    tables = (
        table(
            _LEDGER,
            [
                _line(name, line, report["rates"].get(name), report.get("reconciled", {}).get(name))
                for name, line in report["ledger"].items()
            ],
        ),
        table(_STAGES, [_stage(one, fills.get(one["stream"])) for one in report["consumers"]]),
        table(_SERVICES, [_service(one) for one in report["services"]]),
        table(_DEAD, [_group(one) for one in letters[:_SHOWN_GROUPS]]),
    )
    parts += [one for one in tables if one.row_count]
    if len(letters) > _SHOWN_GROUPS:
        parts.append(Text("  more: headrace dead groups", style="dim"))
    return Group(*parts)


def _line(name: str, line: dict[str, Any], rate: dict[str, float] | None, last: dict[str, Any] | None) -> Row:
    stored = line["stored"]
    # Discarded and repeated ones are told where there are any: a terminal is narrow.
    more = (line["discarded"], "discarded"), (line["duplicates"], "repeated")
    notes = ", ".join(["yes" if line["balanced"] else "NO", *(f"{count:,} {what}" for count, what in more if count)])
    numbers = (line["accepted"], stored["documents"], stored["facts"], line["dead"], line["in_flight"])
    speeds = (f"{rate['accepted']:,.0f}", f"{rate['stored']:,.0f}") if rate else ("", "")
    return (name, *(f"{number:,}" for number in numbers), *speeds, notes, _reconciled(last))


def _reconciled(last: dict[str, Any] | None) -> str:
    if last is None:
        return ""
    age = duration((datetime.now(UTC) - datetime.fromisoformat(last["at"])).total_seconds())
    left = last["findings"] - last["repaired"]
    return f"{age} ago, {f'{left} FOUND' if left else 'well'}"


def _stage(one: dict[str, Any], fill: float | None) -> Row:
    blocks = ("" if one[key] is None else f"{one[key]:,}" for key in ("pending_blocks", "ack_pending_blocks"))
    oldest = one["oldest_pending_seconds"]
    age = "" if oldest is None else duration(oldest)
    return (one["name"], *blocks, age, one["stream"], "" if fill is None else f"{fill:.1%}")


def _service(one: dict[str, Any]) -> Row:
    age = duration((datetime.now(UTC) - datetime.fromisoformat(one["since"])).total_seconds())
    return (
        one["name"],
        one["id"][-12:],
        one["version"],
        str(one["pid"]),
        age,
        str(one["requests"]),
        str(one["errors"]),
    )


def _group(one: dict[str, Any]) -> Row:
    return (f"{one['count']:,}", one["pipeline"], one["stage"], one["code"], one["pointer"] or "")


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as 42 s, 5 m, 3 h or 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
