"""When each request of an open-model run is due. Pure: the clock comes later."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, at the start and at the end of a run; the same twice for a constant rate."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.start >= 0 and self.end > 0):
            raise ValueError("a rate is a positive number of requests a second")

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g}..{self.end:g}"

    @property
    def mean(self) -> float:
        return (self.start + self.end) / 2


def parse_rate(text: str) -> Rate:
    """Return the rate that `1000` (constant) or `100..1000` (a ramp) stands for.

    Raises:
        ValueError: the text is neither.
    """
    start, dots, end = text.partition("..")
    try:
        return Rate(float(start), float(end if dots else start))
    except ValueError:
        raise ValueError(f"{text!r} is no rate: give 1000, or 100..1000 for a ramp, in requests a second") from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """`requests` arrivals whose rate goes from `rate.start` to `rate.end` over `duration_seconds`."""

    rate: Rate
    requests: int
    duration_seconds: float

    def due(self, number: int) -> float:
        """Return when request `number` (from 0) is due, in seconds after the start.

        With the rate a + k*t, the arrivals until t are a*t + k*t**2/2; this is the inverse of that.
        """
        if number == 0:
            return 0.0
        start = self.rate.start
        slope = (self.rate.end - start) / self.duration_seconds
        if slope == 0:
            return number / start
        # The usual root (-a + sqrt(d)) / k loses its digits where k is small; this form does not.
        return 2 * number / (start + math.sqrt(max(0.0, start * start + 2 * slope * number)))


def schedule(rate: Rate, *, requests: int | None, duration_seconds: float | None) -> Schedule:
    """Return the schedule that ends with whichever of the two limits comes first.

    Raises:
        ValueError: neither limit is given.
    """
    if duration_seconds is None:
        if requests is None:
            raise ValueError("a schedule needs a number of requests or a duration")
        return Schedule(rate, requests, requests / rate.mean)
    # A hair is taken off before rounding up, or 0.1 s at 30/s would be four arrivals.
    within = math.ceil(rate.mean * duration_seconds - 1e-9)
    return Schedule(rate, within if requests is None else min(requests, within), duration_seconds)
