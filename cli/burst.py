"""`headrace produce deliveries --orders N`: a burst of delivery apps, and the options that are its own."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cli.production import OpenOutlet, Production
    from cli.production_report import Report
    from producer.burst import Burst, Planned
    from producer.source import Source

PIPELINE = "deliveries"

Orders = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="deliveries: imitate apps that bring so many")]
Locations = Annotated[int | None, typer.Option(min=1, max=100_000, help="locations of each order; 15 by default")]
Interval = Annotated[
    float | None, typer.Option(min=0, max=86_400, help="seconds between two locations of an order; 1 by default")
]
Jitter = Annotated[
    float | None, typer.Option(min=0, max=86_400, help="seconds that an interval may be off; 0 by default")
]
Workers = Annotated[int | None, typer.Option(min=1, max=10_000, help="apps at the same time; 8 by default")]
Tracks = Annotated[
    Path | None, typer.Option(help="CSV with latitude, longitude, track_id, time, whose ways the orders take")
]


def burst_of(
    pipeline: str,
    orders: int | None,
    locations: int | None,
    interval: float | None,
    jitter: float | None,
    workers: int | None,
    tracks: Path | None,
) -> Burst | None:
    """Return the burst that is asked for, or None where none is.

    Raises:
        ValueError: the pipeline has none, or an option is given that without --orders means nothing.
    """
    from producer.burst import Burst

    given = {"locations": locations, "interval_seconds": interval, "jitter_seconds": jitter, "workers": workers}
    given = {name: value for name, value in given.items() if value is not None}
    if orders is None:
        if given or tracks:
            raise ValueError("--locations, --interval, --jitter, --workers and --tracks go with --orders; give it too")
        return None
    if pipeline != PIPELINE:
        raise ValueError(f"--orders goes with {PIPELINE} only; for {pipeline} give --generate")
    return replace(Burst(orders), **given)  # type: ignore[arg-type]


def planned(burst: Burst, seed: int | None, tracks: Path | None) -> list[list[Planned]]:
    """Return what each worker sends: the same for the same seed; without one, new orders of now.

    Raises:
        SourceError: the file of tracks is none.
    """
    from producer.burst import plan, ways_of
    from producer.generators.deliveries import START
    from producer.sources.deliveries import tracks as tracks_of

    random = Random(secrets.randbits(48) if seed is None else seed)
    ways = ways_of(tracks_of(tracks), random) if tracks else ()
    if seed is None:
        now = time.time()
        return plan(burst, random, start=now, first_order=round(now * 1000), ways=ways)
    return plan(burst, random, start=START, first_order=random.randrange(1_000_000) * 1000 + 1, ways=ways)


def source_of(burst: Burst, seed: int | None) -> Source:
    """Return what a burst is called, for people and in the ids of documents; its rows come from its plan."""
    from producer.source import Source, rows_of

    key = f"burst-{seed}" if seed is not None else f"once-{secrets.token_hex(8)}"
    return Source(f"{burst.orders} made-up orders", key, rows_of(list), total=lambda: burst.orders * burst.locations)


async def drive(plans: list[list[Planned]], open_outlet: OpenOutlet, run: Production, report: Report) -> None:
    """Send them in real time; whatever ends it, `run` says what became of the locations until then."""
    from headrace.errors import HeadraceError
    from producer.burst import send
    from producer.upload import UploadError

    began = time.perf_counter()
    try:
        await send(plans, open_outlet, progress=run.progress, refuse=report.refuse, advance=report.advance)
    except UploadError as error:
        run.fail(str(error))
    except HeadraceError as error:
        run.fail(error.detail)
    finally:
        run.seconds = time.perf_counter() - began
