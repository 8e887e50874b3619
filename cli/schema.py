"""`headrace schema ls|show|check`: which schemas are registered, and what another would do to real documents."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, PipelineArgument, Token, Url
from cli.output import console, table, write_json, write_line
from cli.problems import EXIT_FAILED, EXIT_USAGE, fail, say

if TYPE_CHECKING:
    from cli.schema_check import Findings
    from headrace.pipeline import Pipeline

app = typer.Typer(name="schema", help="Look at the registered schemas; try another on real documents.")

_LINE_SECONDS = 5.0


@app.command()
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """List the newest registered version of each pipeline's schema."""
    found = asyncio.run(_get("/v1/schemas", url, token))["items"]
    if as_json:
        for one in found:
            write_line(one)
        return
    rows = [(one["pipeline"], str(one["version"]), one["mode"], one["registered_at"][:19]) for one in found]
    console().print(table(("pipeline", "version", "mode", "registered"), rows))


@app.command()
def show(
    pipeline: PipelineArgument,
    version: Annotated[int | None, typer.Option(min=1, help="this one; by default the newest")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show a version of a pipeline's schema as JSON."""
    from cli.api import path

    found = asyncio.run(_get(path("schemas", pipeline), url, token))["items"]
    chosen = next((one for one in found if version in (None, one["version"])), None)
    if chosen is None:
        fail(f"{pipeline} has no version {version or 1} of its schema; it has {len(found)}.")
    write_json(chosen)


@app.command()
def check(
    pipeline: PipelineArgument,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="the pipeline as it is to be; by default as installed here")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try a schema on all retained documents and dead letters; writes nothing. Needs NATS itself (HEADRACE_NATS_URL).

    Exit code 1 where it breaks the registered version, or documents that were accepted would be refused.
    """
    findings = asyncio.run(_check(_pipeline(pipeline, file)))
    if as_json:
        write_json(findings.as_json())
    else:
        _print(findings)
    raise typer.Exit(0 if findings.sound else EXIT_FAILED)


async def _get(path: str, url: str | None, token: str | None) -> Any:
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        return await api.get(path)


def _pipeline(name: str, file: Path | None) -> Pipeline:
    from headrace.registry import load_pipelines, pipeline_named, pipelines_in
    from headrace.settings import Settings

    if file is None:
        return pipeline_named(load_pipelines(Settings().pipelines), name)
    if not file.is_file():
        fail(f"{file}: there is no such file.", exit_code=EXIT_USAGE)
    return pipeline_named({one.name: one for one in pipelines_in(file.resolve())}, name)


async def _check(pipeline: Pipeline) -> Findings:
    from cli.schema_check import check
    from headrace import telemetry
    from headrace.messaging.connection import connect
    from producer.target import bus_settings

    due = time.monotonic() + _LINE_SECONDS

    def advance(findings: Findings) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _LINE_SECONDS
            say(f"{findings.documents} documents and {findings.letters} dead letters so far")

    settings = bus_settings()
    telemetry.configure_logs(settings.log.model_copy(update={"level": "error"}), "cli")
    # A command says at once that nobody answers.
    quick = settings.nats.model_copy(update={"down_seconds": settings.nats.connect_timeout_seconds})
    settings = settings.model_copy(update={"nats": quick})
    async with connect(settings, "cli") as bus:
        return await check(bus, settings, pipeline, advance)


def _print(findings: Findings) -> None:
    name, registered = findings.pipeline, findings.registered
    if registered is None:
        say(f"{name}: no version of its schema is registered.")
    elif findings.broken:
        say(f"{name}: breaks version {registered}, which is registered.")
        for error in findings.broken:
            say(f"  {error.pointer or '/'}: {error.code}: {error.message}")
    else:
        say(f"{name}: compatible with version {registered}, which is registered.")
    sys.stdout.write(
        f"{findings.documents} retained documents tried: {findings.newly_failing} would newly fail.\n"
        f"{findings.letters} dead letters tried: {findings.newly_passing} would newly pass"
        f"{', such as ' + ', '.join(findings.passing) if findings.passing else ''}.\n"
    )
    if findings.unreadable:
        sys.stdout.write(f"{findings.unreadable} blocks hold no documents.\n")
    if findings.rules:
        rules = sorted(findings.rules.values(), key=lambda rule: -rule.count)
        rows = [(f"{one.count:,}", one.pointer, one.code, one.message, " ".join(one.samples)) for one in rules]
        console().print(table(("count", "where", "code", "rule", "samples"), rows))
