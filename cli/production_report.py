"""What `headrace produce` says while it runs: how far it is, and which rows were refused. All of it on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from producer.upload import Progress, RefusedRow

_SHOWN_REFUSALS = 20
_LINE_SECONDS = 5.0


class Report:
    """A bar on a terminal, else a line now and then; all refused rows go to a file if one is named."""

    def __init__(
        self, pipeline: str, progress: Progress, refused: Path | None, total: Callable[[], int | None]
    ) -> None:
        self._progress = progress
        self._path = refused
        self._total = total
        self._file: TextIO | None = None
        self._shown = 0
        self._began = time.monotonic()
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._bar = Bar(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(pipeline, total=None)
        self._next_line_at = self._began + _LINE_SECONDS

    def __enter__(self) -> Report:
        if self._path:
            self._file = self._path.open("w", encoding="utf-8")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._file:
            self._file.close()
        if self._progress.refused > self._shown:
            where = f"; all are in {self._path}" if self._path else "; --refused FILE writes all of them"
            self._console.print(f"… {self._progress.refused - self._shown} more refused{where}")

    def say(self, text: str) -> None:
        self._console.print(text)

    def refuse(self, refused: RefusedRow) -> None:
        if self._file:
            self._file.write(json.dumps({"row": refused.row, "errors": refused.errors}) + "\n")
        if self._shown < _SHOWN_REFUSALS:
            self._shown += 1
            self._console.print(f"row {refused.row} refused: {'; '.join(map(_rule, refused.errors))}")

    def advance(self, *_: object) -> None:
        progress, total = self._progress, self._total()
        of = f" of {total}" if total is not None else ""
        rate = progress.rows / max(0.001, time.monotonic() - self._began)
        text = (
            f"{progress.rows}{of} rows, {progress.accepted} accepted, {progress.refused} refused, {rate:.0f} a second"
        )
        self._bar.update(self._task, description=text, total=total, completed=progress.rows)
        if self._bar.disable and time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + _LINE_SECONDS
            self._console.print(text)


def _rule(error: dict[str, Any]) -> str:
    return " ".join(part for part in (error["pointer"], error["code"], error["message"]) if part)
