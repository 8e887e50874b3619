"""`headrace demo`: everything runs, the bundled samples go through it, and a table shows what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import DataDir, Json, Port
from cli.output import console, table, write_line
from cli.problems import EXIT_FAILED, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli.trial import Trial

_RESULTS = ("pipeline", "sample", "rows", "accepted", "refused", "documents", "facts", "dead", "repeated", "seconds")
_REASONS = ("pipeline", "refused", "rule", "where")
_METRICS = ("pipeline", "metric", "keys", "first")


def demo(
    data_dir: DataDir = Path(".headrace"),
    port: Port = None,
    end: Annotated[bool, typer.Option("--exit", help="stop after the table; for CI")] = False,
    as_json: Json = False,
) -> None:
    """Run everything, send the bundled samples, show what became of every row; then stay up until Ctrl-C.

    Exit codes with --exit: 0 every row that was accepted is stored, once, or dead with its reason; 1 not.
    """
    import asyncio

    from cli.trial import try_samples
    from cli.up import up
    from producer.target import Headrace

    async def on_ready(facts: Mapping[str, Any]) -> int | None:
        say("Sending the samples")
        trials = await try_samples(Headrace(facts["url"], facts["token"] or ""))
        if as_json:
            write_line({"trials": [one.to_json() for one in trials]})
        else:
            show(trials, facts["url"])
        for trial in trials:
            if trial.error:
                say(f"headrace: {trial.pipeline}: {trial.error}")
        failed = not trials or any(not one.settled or one.error for one in trials)
        return EXIT_FAILED * failed if end else None

    raise typer.Exit(asyncio.run(up(data_dir, port, as_json, on_ready)))


def show(trials: Sequence[Trial], url: str) -> None:
    """Write the tables, and where to look further."""
    out = console()
    out.print(table(_RESULTS, [_result(one) for one in trials]))
    reasons = [
        (one.pipeline, str(count), code, pointer or "(the whole)")
        for one in trials
        for (code, pointer), count in one.refused.most_common()
    ]
    if reasons:
        out.print(table(_REASONS, reasons))
    out.print(
        table(
            _METRICS,
            [
                (one.pipeline, str(metric["metric"]), f"{metric['count']:,}", first_values(metric))
                for one in trials
                for metric in one.metrics
            ],
        )
    )
    if all(one.settled for one in trials):
        out.print("Every row that was accepted is stored once in each store, or dead with its reason.")
    out.print("Look further, in /v1 with the token:")
    for place in ("/docs", "/metrics", *(f"/v1/analytics/{one.pipeline}" for one in trials), "/v1/ledger"):
        out.print(f"  {url}{place}", soft_wrap=True)
    out.print()


def _result(trial: Trial) -> tuple[str, ...]:
    line = trial.ledger
    stored = line.get("stored", {})
    sent = (trial.rows, trial.accepted, trial.refused.total())
    numbers = (
        *sent,
        stored.get("documents", 0),
        stored.get("facts", 0),
        line.get("dead", 0),
        line.get("duplicates", 0),
    )
    return (trial.pipeline, trial.source, *(f"{number:,}" for number in numbers), f"{trial.seconds:.1f}")


def first_values(metric: Mapping[str, Any]) -> str:
    """Return a metric's first values on one line."""
    data = metric["data"]
    if isinstance(data, list):
        return ", ".join(f"{one['at'][:16]} {one.get('sum', one['count'])}" for one in data)
    if not data and "value" in metric:
        return str(metric["value"])
    if metric.get("kind") == "latest":
        # Of each the time: a whole document would not fit.
        return ", ".join(f"{key} {value['at'][:16]}" for key, value in data.items() if "at" in value)
    return ", ".join(f"{key} {value}" for key, value in _flat(data))


def _flat(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return keys of several fields as one text each."""
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict):
            found += [(f"{key}/{rest}", one) for rest, one in _flat(value)]
        else:
            found.append((key, value))
    return found
