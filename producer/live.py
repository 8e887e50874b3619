"""A load test while it runs: a live screen on a terminal, else one line a second on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from producer.figures import count, duration, rate
from producer.load_config import Progress, Watch
from producer.summary import latencies, model
from producer.tally import ACCEPT, Second

_BARS: Final = " ▁▂▃▄▅▆▇█"
_SHOWN_SECONDS: Final = 60
_LINE_SECONDS: Final = 0.95
_SHOWN_REASONS: Final = 5
_PHASES: Final = {
    "prepare": "preparing documents",
    "send": "sending",
    "sample": "waiting for sampled documents",
    "prove": "proving",
}


@contextmanager
def live_view(console: Console) -> Iterator[Watch]:
    """Yield a function that shows a run's progress on `console`."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    # Four times a second, for the clock; the numbers come once a second.
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(screen(progress))


class _Lines:
    """One line a second, and one for each phase."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._due_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        # Several processes report within one second; one line of it will do.
        if progress.phase != self._phase or now >= self._due_at:
            self._phase, self._due_at = progress.phase, now + _LINE_SECONDS
            self._console.print(line(progress), highlight=False, soft_wrap=True)


def line(progress: Progress) -> str:
    """Return the state of a run in one line."""
    if progress.phase != "send":
        return f"{_PHASES[progress.phase]}{_noted(progress)}"
    counts = progress.totals.counts
    accept = progress.totals.latencies[ACCEPT]
    return (
        f"{progress.elapsed_seconds:5.0f} s  sent {count(counts.sent)}  accepted {count(counts.accepted)}"
        f"  refused {count(counts.refused)}  failed {count(counts.failed)}"
        f"  {rate(*_latest(progress.totals.seconds))}"
        f"  p50 {duration(accept.at(50))}  p99 {duration(accept.at(99))}"
    )


def screen(progress: Progress) -> RenderableType:
    """Return the state of a run as a block of lines."""
    totals, config = progress.totals, progress.config
    head = Text.assemble(
        (config.pipeline, "bold"), f" · {model(config)} · ", (_PHASES[progress.phase], "cyan"), _noted(progress)
    )
    numbers = Table.grid(padding=(0, 3))
    for _ in range(5):
        numbers.add_column(justify="right")
    counts = totals.counts
    numbers.add_row("sent", "accepted", "refused", "failed", "accepted now", style="dim")
    numbers.add_row(
        count(counts.sent),
        Text(count(counts.accepted), "green"),
        Text(count(counts.refused), "yellow" if counts.refused else ""),
        Text(count(counts.failed), "red" if counts.failed else ""),
        rate(*_latest(totals.seconds)),
    )
    reasons = [
        Text(f"  {count(number)} {reason}", "dim")
        for reason, number in (totals.refused + totals.failed).most_common(_SHOWN_REASONS)
    ]
    chart = Text(sparkline([one.accepted / max(one.span_seconds, 0.001) for one in totals.seconds]), "green")
    goal = f" of {config.duration_seconds:g} s" if config.duration_seconds else ""
    return Group(
        head,
        Text(f"{progress.elapsed_seconds:.0f} s{goal}", "dim"),
        Padding(numbers, (1, 2)),
        *reasons,
        Padding(chart, (0, 2)),
        Padding(latencies(totals.latencies), (1, 2)),
    )


def sparkline(values: list[float]) -> str:
    """Return a row of bars, one for each of the last values, as high as its part of the highest."""
    shown = values[-_SHOWN_SECONDS:]
    highest = max(shown, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in shown)


def _latest(seconds: list[Second]) -> tuple[float, float]:
    """Return documents accepted and the time they took, of the last whole second."""
    whole = [one for one in seconds if one.span_seconds >= 0.5]
    return (whole[-1].accepted, whole[-1].span_seconds) if whole else (0, 1)


def _noted(progress: Progress) -> str:
    return f": {progress.note}" if progress.note else ""
