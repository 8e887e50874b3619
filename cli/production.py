"""One run of `headrace produce`: a source's rows through their mapping to an outlet, with honest totals at its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from cli.production_report import Report
from headrace.errors import HeadraceError
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines, pipeline_named
from headrace.settings import Settings
from producer.checkpoint import Checkpoint, Totals
from producer.formats import Row, SourceError
from producer.mapping import Columns
from producer.source import Place, Source
from producer.upload import Outlet, Progress, UploadError, upload

INTERRUPTED = 130


@dataclass(slots=True)
class Production:
    """What became of a run.

    Attributes:
        before: totals of the runs that this one goes on from; None where it begins anew.
        stopped: whether a signal ended it.
        error: why it ended early.
        exit_code: what the command ends with.
    """

    progress: Progress = field(default_factory=Progress)
    before: Totals | None = None
    seconds: float = 0.0
    stopped: bool = False
    error: str = ""
    exit_code: int = 0

    def fail(self, error: str, exit_code: int = 1) -> None:
        self.error, self.exit_code = error, exit_code


OpenOutlet = Callable[[], contextlib.AbstractAsyncContextManager[Outlet]]


async def produce(
    source: Source,
    open_outlet: OpenOutlet,
    run: Production,
    report: Report,
    *,
    columns: Columns | None = None,
    checkpoint: Checkpoint | None = None,
    limit: int | None = None,
    rate: float | None = None,
) -> None:
    """Send a source's rows; whatever ends it, `run` says what became of the rows until then.

    The first Ctrl-C or SIGTERM ends it after the chunk under way, the second at once.

    Args:
        columns: what becomes of each row's columns.
        checkpoint: where to begin, and where to note how far it came.
    """
    began = time.perf_counter()
    stop = asyncio.Event()

    def advance(last: Row) -> None:
        if checkpoint:
            checkpoint.advance(last, run.progress)
        report.advance()

    if checkpoint and checkpoint.place:
        run.before = checkpoint.before
        report.say(f"Going on after row {checkpoint.place.number}; {checkpoint.before.accepted} were accepted before.")
    reading = _Reading(source, columns, limit)
    try:
        with _heard(stop, report):
            async with (
                open_outlet() as outlet,
                contextlib.aclosing(reading.rows(checkpoint.place if checkpoint else None)) as rows,
            ):
                await upload(
                    outlet,
                    rows,
                    refuse=report.refuse,
                    progress=run.progress,
                    advance=advance,
                    documents_per_second=rate,
                    stop=stop,
                )
        if checkpoint and reading.ended and not stop.is_set():
            checkpoint.end(run.progress, keep=source.grows)
        if stop.is_set() and not source.endless:
            run.fail("Interrupted; repeat the command to go on, nothing is stored twice.", INTERRUPTED)
    except (SourceError, UploadError, LookupError, ValueError, OSError) as error:
        run.fail(str(error))
    except HeadraceError as error:
        run.fail(error.detail)
    except asyncio.CancelledError:
        run.fail(
            "Interrupted twice: the rows under way may have been accepted, too. Repeat the command to go on, nothing "
            "is stored twice.",
            INTERRUPTED,
        )
    finally:
        run.stopped = stop.is_set()
        run.seconds = time.perf_counter() - began
        source.notes.extend(reading.notes())


class _Reading:
    """One reading of a source: its rows with their columns mapped, not more than are wanted.

    Attributes:
        ended: whether the source has no more.
    """

    def __init__(self, source: Source, columns: Columns | None, limit: int | None) -> None:
        self._source = source
        self._columns = columns
        self._limit = limit
        self._unseen = columns.named if columns else set()
        self._read = 0
        self.ended = False

    async def rows(self, after: Place | None) -> AsyncGenerator[Row, None]:
        async with contextlib.aclosing(self._source.rows(after)) as rows:
            async for row in rows:
                if self._unseen and row.document:
                    self._unseen -= row.document.keys()
                self._read += 1
                yield self._columns.apply(row) if self._columns else row
                if self._read == self._limit:
                    return
        self.ended = True

    def notes(self) -> list[str]:
        """Return what may be wrong with the mapping: a name that no row has is most often misspelt."""
        if not self._unseen or not self._read:
            return []
        return [f"No row has the column {', '.join(sorted(map(repr, self._unseen)))}, which the mapping names."]


@contextlib.contextmanager
def _heard(stop: asyncio.Event, report: Report) -> Iterator[None]:
    """Hear signals: the first sets `stop`, the second cancels what runs."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if stop.is_set():
            task.cancel()
        else:
            report.say("Ending after the rows under way; Ctrl-C again ends at once.")
        stop.set()

    # Handlers can be set in the main thread only.
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, interrupt)
            heard.append(number)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def pipeline_here(name: str, why: str) -> Pipeline:
    """Return a pipeline of this installation.

    Raises:
        LookupError: it is not known here.
    """
    pipelines = load_pipelines(Settings().pipelines)
    if name not in pipelines:
        raise LookupError(f"There is no pipeline {name!r} here to {why}; is HEADRACE_PIPELINES set?")
    return pipeline_named(pipelines, name)
