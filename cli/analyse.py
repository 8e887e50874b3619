"""`headrace analyse`: compute a pipeline's statistics from its stored documents and keep the result."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json, PipelineArgument
from cli.output import write_json
from cli.problems import say

if TYPE_CHECKING:
    from headrace.pipeline import Pipeline
    from headrace.settings import Settings
    from workers.analyse import Analysed

# The embedded server looks at all documents before it gives the first; a server that is away is told in seconds.
_TIMEOUT_SECONDS = 600.0


def analyse(
    pipeline: PipelineArgument,
    as_json: Json = False,
    mongo_url: Annotated[
        str | None, typer.Option(help="MongoDB; else HEADRACE_MONGO_URL, else that of the `up` of this folder")
    ] = None,
) -> None:
    """Compute a pipeline's analysis. Without new documents nothing changes, so it may run as often as you like."""
    import asyncio

    from headrace import telemetry
    from headrace.registry import load_pipelines, pipeline_named
    from headrace.settings import Settings

    settings = Settings()
    telemetry.configure_logs(settings.log, "analyse")
    chosen = pipeline_named(load_pipelines(settings.pipelines), pipeline)
    done = asyncio.run(_analyse(settings, chosen, mongo_url or _mongo_url(settings)))
    if done.result is None:
        say(f"{pipeline}: no document is stored yet, so there is nothing to analyse")
    elif not as_json:
        verb = "computed" if done.changed else "unchanged"
        typer.echo(
            f"{pipeline}: {verb}, revision {done.result['revision']} from {done.result['documents']} documents; "
            f"read it at /v1/analyses/{pipeline}"
        )
    if as_json:
        write_json({"pipeline": pipeline, "changed": done.changed, "analysis": done.result})


async def _analyse(settings: Settings, pipeline: Pipeline, mongo_url: str) -> Analysed:
    from headrace.document import now
    from headrace.storage.mongo import open_documents
    from workers.analyse import analyse, load_analysis

    # First: it needs no server to say that something is not installed.
    analysis = load_analysis(pipeline, settings.pipelines)
    async with open_documents(mongo_url, _TIMEOUT_SECONDS) as documents:
        return await analyse(documents, pipeline, analysis, now=now)


def _mongo_url(settings: Settings) -> str:
    """Return the MongoDB of the settings, or where they name none, of the `up` that runs here."""
    from producer.target import find_headrace

    found = None
    if "mongo_url" not in settings.model_fields_set:
        with contextlib.suppress(ValueError):
            found = find_headrace().mongo_url
    return found or settings.mongo_url.get_secret_value()
