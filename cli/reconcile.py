"""`headrace reconcile`: what was accepted held against what is stored, minute by minute; differences named, mended."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import DataDir, Json
from cli.output import Row, print_table, write_json
from cli.problems import EXIT_FAILED, EXIT_USAGE, fail, say
from cli.rebuild import PipelineOrAll, prepared

if TYPE_CHECKING:
    from headrace.settings import Settings
    from workers.reconcile.findings import Report

_TIMEOUT_SECONDS: Final = 120.0
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_TITLES: Final = ("pipeline", "minute", "what", "where", "count", "first", "last", "repair")


def reconcile(
    pipeline: PipelineOrAll = None,
    repair: Annotated[bool, typer.Option("--repair", help="give back what is missing, right wrong counts")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="SPAN", help="how far to go back: 90m, 24h, 7d; else all")
    ] = None,
    counts: Annotated[bool, typer.Option("--counts", help="count all facts once more, too")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="per pipeline; then no further hour is begun")] = 600.0,
    as_json: Json = False,
    data_dir: DataDir = Path(".headrace"),
) -> None:
    """Compare the journal of what was accepted with streams, MongoDB, Postgres, dead letters and Redis.

    By count and digest of each minute; where one differs, by id. What is on its way is not called missing. Servers
    whose URL is not set are those of the `up` that runs on the data directory.

    Exit codes: 0 all is well, or was repaired; 1 something differs.
    """
    span = _span(since)
    settings, chosen = prepared(pipeline, data_dir)
    begin = None if span is None else datetime.now(UTC) - span
    reports = asyncio.run(_reconcile(settings, chosen, begin, repair=repair, counts=counts, seconds=seconds))
    healthy = not any(one.open for one in reports)
    if as_json:
        write_json({"healthy": healthy, "pipelines": [one.told() for one in reports]})
    else:
        print_table(_TITLES, [row for one in reports for row in _rows(one)], "")
        for one in reports:
            say(_sentence(one))
    for one in reports:
        for finding in one.findings:
            if not as_json and not finding.repaired and finding.advice:
                say(f"{one.pipeline}, {finding.kind} in {finding.where}: {finding.advice}")
    if not healthy:
        worst = ", ".join(f"{one.pipeline}: {one.open}" for one in reports if one.open)
        say(f"headrace: something differs and is not repaired ({worst})")
        raise typer.Exit(EXIT_FAILED)


def _span(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        fail(f"--since {text[:20]!r} is no span; write 90m, 24h or 7d", exit_code=EXIT_USAGE)
    return int(found[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[found[2]]


async def _reconcile(
    settings: Settings,
    pipelines: list[Any],
    since: datetime | None,
    *,
    repair: bool,
    counts: bool,
    seconds: float,
) -> list[Report]:
    from headrace.messaging.connection import connect
    from headrace.storage.mongo import open_documents
    from headrace.storage.postgres import open_facts
    from headrace.storage.redis import open_projection
    from workers.leftovers import forget_shadows
    from workers.rebuild_lock import alone
    from workers.reconcile.run import Reconciler

    async with (
        connect(settings, "reconcile") as bus,
        open_documents(settings.mongo_url.get_secret_value(), _TIMEOUT_SECONDS) as documents,
        open_facts(settings.postgres_url.get_secret_value(), max(_TIMEOUT_SECONDS, seconds)) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, _TIMEOUT_SECONDS) as projection,
        alone(facts),
    ):
        await forget_shadows(facts, documents, projection, pipelines)
        reconciler = Reconciler(bus, settings, documents, facts, projection)
        return [
            await reconciler.run(one, repair=repair, counts=counts, seconds=seconds, since=since) for one in pipelines
        ]


def _rows(report: Report) -> list[Row]:
    return [
        (
            report.pipeline,
            f"{one.minute:%Y-%m-%d %H:%MZ}" if one.minute else "",
            one.kind,
            one.where,
            f"{one.count:,}",
            one.block or (one.ids[0] if one.ids else ""),
            one.ids[-1] if len(one.ids) > 1 else "",
            ("repaired from " if one.repaired else "from ") + one.repair if one.repair else "no",
        )
        for one in report.findings
    ]


def _sentence(report: Report) -> str:
    what = f"{report.documents:,} documents of {report.minutes:,} minutes since {report.since:%Y-%m-%d %H:%MZ} compared"
    if report.since == report.until:
        what = "nothing to compare yet"
    more = [
        f"{len(report.findings)} findings, {report.open} open" if report.findings else "all is well",
        *([f"{report.in_flight} documents on their way"] if report.in_flight else []),
        *([f"{report.unexamined} minutes that differ not looked into; run it again"] if report.unexamined else []),
    ]
    return f"{report.pipeline}: {what}; {', '.join(more)}."
