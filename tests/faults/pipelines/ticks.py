"""What the fault tests send: documents that are stored as they come, so that every byte of them can be checked."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from headrace.pipeline import Count, Minimum, Pipeline, Sum, Trend


class Tick(BaseModel):
    """One tick; `refused` asks the transform to refuse it, behind the door."""

    model_config = ConfigDict(extra="forbid")

    name: str
    group: str
    size: int
    filler: str
    refused: bool = False


def transform(tick: Tick) -> Tick:
    """Return the tick as it is.

    Raises:
        ValueError: it asks for that.
    """
    if tick.refused:
        raise ValueError("Refused as asked.")
    return tick


ticks = Pipeline(
    name="ticks",
    accepts=Tick,
    yields=Tick,
    transform=transform,
    example={"name": "p-1", "group": "a", "size": 1, "filler": ""},
    metrics=[
        Count("by_group", by="group"),
        Sum("sizes", of="size", by="group"),
        Minimum("least", of="size", by="group"),
        Trend("per_minute", every="1m"),
    ],
)
