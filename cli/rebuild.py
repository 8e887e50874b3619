"""`headrace rebuild redis|facts|documents`: a store made anew in a shadow, compared, swapped in, while all goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import DataDir, Json
from cli.output import Row, print_table, write_json
from cli.problems import EXIT_FAILED, EXIT_USAGE, fail, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.settings import Settings
    from workers.rebuild import Difference
    from workers.rebuild_documents import DocumentsDifference
    from workers.rebuild_facts import FactsDifference

app = typer.Typer(name="rebuild", help="Make a store anew from another, or from the stream.")

_TIMEOUT_SECONDS = 60.0
# Millions of rows are compared and copied in one statement each.
_SWAP_SECONDS = 900.0

PipelineOrAll = Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="by default all of them")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="compare, and change nothing")]


@app.command()
def redis(
    pipeline: PipelineOrAll = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    data_dir: DataDir = Path(".headrace"),
) -> None:
    """Make the counts in Redis anew from Postgres in a shadow, say how they differed, and swap it in.

    Everything may go on meanwhile. Servers whose URL is not set are those of the `up` that runs on the data directory.

    Exit codes: 0 done, or nothing differs; 1 with --dry-run, something differs.
    """

    settings, chosen = prepared(pipeline, data_dir)
    found = asyncio.run(_redis(settings, chosen, dry_run))
    rows = [
        (one.pipeline, one.metric, *(f"{n:,}" for n in (one.rows, one.missing, one.wrong, one.foreign)))
        for one in found
    ]
    titles = ("pipeline", "metric", "rows", "missing", "wrong", "foreign")
    _tell(found, (titles, rows), "Redis is what Postgres says.", dry_run=dry_run, as_json=as_json)


@app.command()
def documents(
    pipeline: PipelineOrAll = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    data_dir: DataDir = Path(".headrace"),
) -> None:
    """Make the documents in MongoDB anew from the stream CLEAN in a shadow, say how they differed, and swap it in.

    Everything may go on meanwhile. Where CLEAN has been purged of documents that MongoDB has, nothing is changed.

    Exit codes: 0 done, or nothing differs; 1 with --dry-run, something differs.
    """
    settings, chosen = prepared(pipeline, data_dir)
    found = asyncio.run(_documents(settings, chosen, dry_run))
    rows = [(one.pipeline, *map("{:,}".format, (one.documents, one.missing, one.wrong, one.foreign))) for one in found]
    titles = ("pipeline", "documents", "missing", "wrong", "foreign")
    _tell(found, (titles, rows), "MongoDB is what the stream says.", dry_run=dry_run, as_json=as_json)


@app.command()
def facts(
    pipeline: PipelineOrAll = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    data_dir: DataDir = Path(".headrace"),
) -> None:
    """Make facts and counts in Postgres anew from the stream CLEAN in a shadow, say how they differed, and swap it in.

    Its stage waits only while the last blocks are read and it is swapped; the counts in Redis follow. Where CLEAN
    has been purged of documents that Postgres has, nothing is changed.

    Exit codes: 0 done, or nothing differs; 1 with --dry-run, something differs.
    """
    settings, chosen = prepared(pipeline, data_dir)
    found = asyncio.run(_facts(settings, chosen, dry_run))
    rows = [
        (one.pipeline, *map("{:,}".format, (one.facts, one.missing, one.wrong, one.foreign, one.counts)))
        for one in found
    ]
    titles = ("pipeline", "facts", "missing", "wrong", "foreign", "counts that differ")
    _tell(found, (titles, rows), "Postgres is what the stream says.", dry_run=dry_run, as_json=as_json)


def prepared(pipeline: str | None, data_dir: Path) -> tuple[Settings, list[Any]]:
    """Return the settings, with the servers of the `up` that runs where none are set, and the pipelines."""
    from pydantic import SecretStr

    from cli.reach import running_urls
    from headrace import failpoints
    from headrace.registry import load_pipelines
    from headrace.settings import Settings

    settings = Settings()
    urls = {
        name: SecretStr(url) for name, url in running_urls(data_dir).items() if name not in settings.model_fields_set
    }
    settings = settings.model_copy(update=urls)
    failpoints.arm("cli", settings.failpoints)
    pipelines = load_pipelines(settings.pipelines)
    if pipeline is not None and pipeline not in pipelines:
        fail(f"there is no pipeline {pipeline!r}; there are: {', '.join(sorted(pipelines))}", exit_code=EXIT_USAGE)
    return settings, [pipelines[pipeline]] if pipeline else list(pipelines.values())


async def _redis(settings: Settings, pipelines: list[Any], dry_run: bool) -> list[Difference]:
    from headrace.storage.postgres import open_facts
    from headrace.storage.redis import open_projection
    from workers.rebuild import rebuild_redis
    from workers.rebuild_lock import alone

    async with (
        open_facts(settings.postgres_url.get_secret_value(), _TIMEOUT_SECONDS) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, _TIMEOUT_SECONDS) as projection,
        alone(facts),
    ):
        found: list[Difference] = []
        for pipeline in pipelines:
            found += await rebuild_redis(facts, projection, pipeline, swap=not dry_run)
    return found


async def _documents(settings: Settings, pipelines: list[Any], dry_run: bool) -> list[DocumentsDifference]:
    from headrace.messaging.connection import connect
    from headrace.storage.mongo import open_documents
    from headrace.storage.postgres import open_facts
    from workers.rebuild_documents import rebuild_documents
    from workers.rebuild_lock import alone

    async with (
        connect(settings, "rebuild") as bus,
        open_facts(settings.postgres_url.get_secret_value(), _TIMEOUT_SECONDS) as facts,
        open_documents(settings.mongo_url.get_secret_value(), _TIMEOUT_SECONDS) as stored,
        alone(facts),
    ):
        return [
            await rebuild_documents(bus, settings, facts, stored, pipeline, swap=not dry_run) for pipeline in pipelines
        ]


async def _facts(settings: Settings, pipelines: list[Any], dry_run: bool) -> list[FactsDifference]:
    from headrace.messaging.connection import connect
    from headrace.storage.postgres import open_facts
    from headrace.storage.redis import open_projection
    from workers.rebuild_facts import rebuild_facts
    from workers.rebuild_lock import alone

    async with (
        connect(settings, "rebuild") as bus,
        open_facts(settings.postgres_url.get_secret_value(), _SWAP_SECONDS) as stored,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, _TIMEOUT_SECONDS) as projection,
        alone(stored),
    ):
        return [
            await rebuild_facts(bus, settings, stored, projection, pipeline, _TIMEOUT_SECONDS, swap=not dry_run)
            for pipeline in pipelines
        ]


def _tell(
    found: Sequence[Difference | DocumentsDifference | FactsDifference],
    shown: tuple[Row, list[Row]],
    well: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    same = all(one.none for one in found)
    if as_json:
        write_json([{**one.__dict__, "swapped": not dry_run} for one in found])
    else:
        print_table(*shown, "")
        say(well if same or not dry_run else "They differ; nothing was changed.")
    if dry_run and not same:
        raise typer.Exit(EXIT_FAILED)
