"""`headrace produce`: send what a source has, and say what became of each row."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli import production_options as options
from cli.burst import Interval, Jitter, Locations, Orders, Tracks, Workers
from cli.options import Token, Url

if TYPE_CHECKING:
    from cli.production import OpenOutlet, Production
    from producer.checkpoint import Checkpoint
    from producer.source import Source


def produce(
    pipeline: Annotated[str, typer.Argument(help="pipeline that the documents are of")],
    file: options.File = None,
    encoding: options.Encoding = None,
    maps: options.Map = None,
    map_file: options.MapFile = None,
    drop: options.Drop = None,
    date_format: options.DateFormat = None,
    generate: options.Generate = None,
    endless: options.Endless = False,
    once: options.Once = False,
    seed: options.Seed = None,
    bad_share: options.BadShare = 0.0,
    users: options.Users = None,
    socrata: options.Socrata = None,
    where: options.Where = None,
    max_items: options.MaxItems = None,
    app_token_file: options.AppTokenFile = None,
    no_cache: options.NoCache = False,
    table: options.Table = None,
    database: options.Database = None,
    key_column: options.KeyColumn = None,
    limit: Annotated[int | None, typer.Option(min=1, help="read so many rows at most")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="documents a second at most")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where the last run with --resume ended; totals are of both")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="send straight to NATS, past the gateway: needs its URL, but no token")
    ] = False,
    sender: Annotated[
        str | None, typer.Option(help="with --direct, who the documents are from; job:PIPELINE by default")
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(metavar="URL", help="send over MQTT, as devices do: mqtt://user:password@host:1883, or `up`"),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="with --mqtt; ingest/PIPELINE by default")] = None,
    orders: Orders = None,
    locations: Locations = None,
    interval: Interval = None,
    jitter: Jitter = None,
    workers: Workers = None,
    tracks: Tracks = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the rows here and send nothing")] = False,
    refused: Annotated[Path | None, typer.Option(help="write every refused row to this file, as JSON lines")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="end with one JSON object on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Send a file, a data set, a table or made-up documents, and say what became of each row.

    The same source sent again stores nothing twice, so an interrupted run is just repeated. Exit codes: 0 all rows
    were read and each was accepted or refused; 1 some could not be read or sent, 2 wrong usage, 130 Ctrl-C.
    """
    from cli import burst, production
    from cli.production_report import Report
    from headrace.errors import HeadraceError
    from producer.formats import SourceError
    from producer.mapping import columns_of

    wanted = options.Wanted(
        pipeline,
        file=file,
        encoding=encoding,
        generate=generate,
        endless=endless,
        once=once,
        seed=seed,
        bad_share=bad_share,
        users=users,
        socrata=socrata,
        where=where,
        max_items=max_items,
        app_token_file=app_token_file,
        no_cache=no_cache,
        table=table,
        database=database,
        key_columns=tuple(key_column or ()),
    )
    try:
        wanted.check()
        columns = columns_of(maps or (), drop or (), date_format or (), map_file)
        apps = burst.burst_of(pipeline, orders, locations, interval, jitter, workers, tracks)
    except (options.UsageError, ValueError) as error:
        _fail(str(error), exit_code=2)
    if apps and (wanted.sources or endless or limit or rate or bad_share or resume):
        _fail("--orders goes without any other source, and without --limit, --rate and --resume", exit_code=2)
    if (topic and not mqtt) or (mqtt and direct):
        _fail("--topic goes with --mqtt, and --mqtt without --direct", exit_code=2)
    if sender and not direct:
        _fail("--sender goes with --direct", exit_code=2)
    if resume and dry_run:
        _fail("--resume goes without --dry-run", exit_code=2)
    run = production.Production()
    source: Source | None = None
    try:
        plans = burst.planned(apps, seed, tracks) if apps else []
        source = burst.source_of(apps, seed) if apps else options.source_of(wanted, columns)
        with Report(pipeline, run.progress, refused, source.total) as report:
            if mqtt and not dry_run:
                outlet, target = _mqtt_outlet(pipeline, mqtt, topic)
            else:
                outlet, target = _outlet(pipeline, source, url, token, dry_run=dry_run, direct=direct, sender=sender)
            if apps:
                asyncio.run(burst.drive(plans, outlet, run, report))
            else:
                asyncio.run(
                    production.produce(
                        source,
                        outlet,
                        run,
                        report,
                        # What is sent as of now has its columns mapped already.
                        columns=None if once or endless else columns,
                        checkpoint=_checkpoint(source, pipeline, target, columns.name) if resume else None,
                        limit=limit,
                        rate=rate,
                    )
                )
    except (SourceError, LookupError, ValueError, OSError) as error:
        run.fail(str(error))
    except HeadraceError as error:
        run.fail(error.detail)
    except KeyboardInterrupt:
        run.fail("Interrupted.", production.INTERRUPTED)
    _end(pipeline, source, run, as_json=as_json, dry_run=dry_run)


def _outlet(
    pipeline: str,
    source: Source,
    url: str | None,
    token: str | None,
    *,
    dry_run: bool,
    direct: bool,
    sender: str | None,
) -> tuple[OpenOutlet, str]:
    """Return what opens the place that the documents go to, and a name of that place.

    Raises:
        LookupError: the pipeline is not known here, and has to be.
        ValueError: no Headrace is known.
    """
    from cli.production import pipeline_here
    from producer.target import bus_settings, find_headrace

    if dry_run:
        from producer.outlets.nowhere import Nowhere

        checked = Nowhere(pipeline_here(pipeline, "check against"))
        return lambda: contextlib.nullcontext(checked), "nowhere"
    if direct:
        from headrace import telemetry
        from producer.outlets.direct import open_direct

        known = pipeline_here(pipeline, "check against")
        settings = bus_settings()
        # Each attempt to connect is a warning; here the last one's failure says it all, and stdout is for data.
        telemetry.configure_logs(settings.log.model_copy(update={"level": "error"}), "produce")
        who = sender or f"job:{pipeline}"
        return lambda: open_direct(settings, known, source.key, who), f"nats {settings.namespace} {who}"
    from producer.outlets.gateway import open_gateway

    headrace = find_headrace(url, token)
    return lambda: open_gateway(headrace, pipeline, source.key), headrace.url


def _checkpoint(source: Source, pipeline: str, target: str, columns: str) -> Checkpoint:
    """Return the checkpoint of this very run.

    Raises:
        SourceError: it cannot be read.
        ValueError: the source cannot be begun anywhere but at its start.
    """
    from producer.checkpoint import open_checkpoint

    if not source.seekable:
        raise ValueError("--resume needs a source that stays the same: a file, a data set, a table or a --seed.")
    return open_checkpoint(source.key, pipeline, target, columns)


def _mqtt_outlet(pipeline: str, url: str, topic: str | None) -> tuple[OpenOutlet, str]:
    """Return what opens a topic of a broker, and a name of that place.

    Raises:
        HeadraceError: the URL is none.
        ValueError: no broker is known.
    """
    from headrace.settings import Settings
    from headrace.topology import Topology
    from producer.outlets.mqtt import open_mqtt
    from producer.target import find_broker

    broker = find_broker(url)
    topic = topic or Topology(Settings().namespace).ingest_topic(pipeline)
    return lambda: open_mqtt(broker, topic), f"mqtt {topic}"


def _end(pipeline: str, source: Source | None, run: Production, *, as_json: bool, dry_run: bool) -> None:
    """Say what became of the run, and end the command."""
    progress = run.progress
    before = run.before
    summary: dict[str, Any] = {
        "pipeline": pipeline,
        "source": source.name if source else "",
        "dry_run": dry_run,
        "rows": progress.rows,
        "accepted": progress.accepted,
        "refused": progress.refused,
        "retries": progress.retries,
        "seconds": round(run.seconds, 3),
        "rows_per_second": round(progress.rows / run.seconds, 1) if run.seconds else 0,
        "complete": not run.error and not run.stopped,
        "error": run.error or None,
        "notes": source.notes if source else [],
        "reading": source.figures() if source else {},
        "resumed": {
            "rows": before.rows + progress.rows,
            "accepted": before.accepted + progress.accepted,
            "refused": before.refused + progress.refused,
        }
        if before
        else None,
    }
    for note in summary["notes"]:
        typer.echo(note, err=True)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        verb = "would be accepted" if dry_run else "accepted"
        typer.echo(
            f"{pipeline}: {progress.rows} rows read, {progress.accepted} {verb}, {progress.refused} refused, "
            f"in {summary['seconds']} s"
        )
        if before:
            typer.echo(
                f"{pipeline}: with the runs before, {before.rows + progress.rows} rows read, "
                f"{before.accepted + progress.accepted} accepted, {before.refused + progress.refused} refused"
            )
    if run.error:
        _fail(run.error, exit_code=run.exit_code)


def _fail(message: str, *, exit_code: int) -> NoReturn:
    typer.echo(f"headrace produce: {message}", err=True)
    raise typer.Exit(exit_code)
