"""`headrace load`: load test a pipeline and prove from the stores what became of every document."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from producer.load_config import LoadConfig, Watch
    from producer.load_result import LoadResult
    from producer.target import Headrace

EXIT_UNPROVEN = 1
EXIT_THRESHOLD = 99


def load(
    pipeline: Annotated[str | None, typer.Argument(help="pipeline to send to; by default the first there is")] = None,
    requests: Annotated[int | None, typer.Option("--requests", "-n", min=1, help="send so many requests")] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", "-d", min=0.1, help="send for so many seconds; 10 by default")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", "-r", help="open model: requests a second, 1000, or 100..1000 for a ramp"),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="closed model: requests under way at once, 50 by default; with --rate, the most connections",
        ),
    ] = None,
    bulk: Annotated[int, typer.Option(min=1, help="documents in one request")] = 1,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="send the rows of this file, each once unless -n or -d asks for more"),
    ] = None,
    bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="part of the made-up documents that the schema refuses")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="of the made-up documents; the same seed makes the same ones")] = 1,
    retry: Annotated[
        bool, typer.Option("--retry", help="send again, under the same key, what got 429, 503 or no answer")
    ] = False,
    client: Annotated[
        str, typer.Option(help="aiohttp, or raw: five times the requests per CPU second, plain HTTP/1.1 only")
    ] = "aiohttp",
    processes: Annotated[int | None, typer.Option(min=1, max=64, help="client processes; chosen by default")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for one answer")] = 30.0,
    settle_seconds: Annotated[
        float,
        typer.Option(min=0, help="after so many seconds without progress, what is accepted and not stored is lost"),
    ] = 60.0,
    threshold: Annotated[
        list[str] | None,
        typer.Option("--threshold", "-t", help="accept.p99<50ms, lost==0, refused<1%, rate>1000 …; exit 99 if missed"),
    ] = None,
    refused: Annotated[Path | None, typer.Option(help="write every refused document's row and errors here")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the report as JSON here; - is stdout")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="write the report as one HTML file here")] = None,
    url: Annotated[str | None, typer.Option(help="gateway; else HEADRACE_URL, else the `up` of this folder")] = None,
    token: Annotated[str | None, typer.Option(help="token or API key; else HEADRACE_TOKEN, else the `up`'s")] = None,
    mongo_url: Annotated[str | None, typer.Option(help="MongoDB, for the proof; else the `up`'s")] = None,
    postgres_url: Annotated[str | None, typer.Option(help="Postgres, for the proof; else the `up`'s")] = None,
) -> None:
    """Load test a pipeline; then prove from the stores that every accepted document is there, once.

    The last answer is an exit code: 0 all is well, 1 the books do not balance, documents are still in flight or the
    gateway is away, 2 the command makes no sense, 99 a threshold was missed.
    """
    from rich.console import Console

    from headrace.errors import HeadraceError
    from producer.client import CLIENTS
    from producer.formats import SourceError
    from producer.live import live_view
    from producer.load_config import LoadConfig
    from producer.schedule import parse_rate
    from producer.target import find_headrace
    from producer.thresholds import parse_threshold

    if client not in CLIENTS:
        _fail(f"--client is one of {', '.join(CLIENTS)}", exit_code=2)
    talk = Console(stderr=True)
    try:
        headrace = find_headrace(url, token, mongo_url, postgres_url)
        config = LoadConfig(
            headrace,
            pipeline or asyncio.run(_first_pipeline(headrace)),
            requests=requests,
            duration_seconds=duration,
            rate=parse_rate(rate) if rate else None,
            concurrency=concurrency,
            bulk=bulk,
            file=file,
            bad_share=bad_share,
            seed=seed,
            processes=processes,
            client=client,
            retry=retry,
            timeout_seconds=timeout,
            settle_seconds=settle_seconds,
            refused_file=refused,
            thresholds=[parse_threshold(text) for text in threshold or ()],
        )
        with live_view(talk) as watch:
            result = asyncio.run(_run(config, watch))
    except (ValueError, LookupError, SourceError) as error:
        _fail(str(error), exit_code=2)
    except HeadraceError as error:
        _fail(error.detail, exit_code=1)
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), exit_code=1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("Interrupted twice: ended without a proof.", exit_code=130)
    _report(result, json_file, html_file)
    raise typer.Exit(exit_code(result))


def exit_code(result: LoadResult) -> int:
    """Return what the command ends with; a missed threshold counts before everything else."""
    if not result.passed:
        return EXIT_THRESHOLD
    # Not being able to prove is no failure of the run; proving that something is lost, or not stored in time, is.
    proof = result.proof
    unproven = proof.level != "none" and (not proof.balanced or bool(proof.in_flight))
    return EXIT_UNPROVEN if unproven else 0


async def _run(config: LoadConfig, watch: Watch) -> LoadResult:
    """Run; the first Ctrl-C ends the sending and still proves, the second ends everything."""
    from producer.senders import open_senders

    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    async with open_senders(config.senders) as senders:
        # After they are started, for both of us import for half a second.
        from producer.load import run

        return await run(config, watch=watch, stop=stop, senders=senders)


async def _first_pipeline(headrace: Headrace) -> str:
    from producer.api import Api

    async with Api(headrace) as api:
        names = await api.pipeline_names()
    if not names:
        raise LookupError(f"{headrace.url} has no pipelines")
    return names[0]


def _report(result: LoadResult, json_file: Path | None, html_file: Path | None) -> None:
    from rich.console import Console

    from producer.report import html_report
    from producer.summary import summary

    to_stdout = json_file is not None and str(json_file) == "-"
    report = json.dumps(result.to_json(), indent=2) + "\n" if json_file else ""
    # stdout is data: where that is the JSON, the table is talk.
    console = Console(stderr=to_stdout, highlight=False)
    if not console.is_terminal:
        console.width = 120  # A file is as wide as its lines.
    console.print(summary(result))
    if to_stdout:
        sys.stdout.write(report)
    elif json_file:
        json_file.write_text(report)
    if html_file:
        html_file.write_text(html_report(result), encoding="utf-8")


def _fail(message: str, *, exit_code: int) -> NoReturn:
    typer.echo(f"headrace load: {message}", err=True)
    raise typer.Exit(exit_code)
