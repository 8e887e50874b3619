"""Latency histograms: 1 microsecond to 60 seconds with three digits, mergeable, small on the wire."""

from __future__ import annotations

from typing import Final

from hdrh.histogram import HdrHistogram

HIGHEST_US: Final = 60_000_000
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


class Histogram:
    """Latencies in seconds; stored in whole microseconds, values beyond a minute as one minute."""

    def __init__(self) -> None:
        self._hdr = HdrHistogram(1, HIGHEST_US, 3)

    def record(self, seconds: float) -> None:
        microseconds = int(seconds * 1e6)
        self._hdr.record_value(1 if microseconds < 1 else min(microseconds, HIGHEST_US))

    def add_encoded(self, encoded: str) -> None:
        """Add what another histogram's `encode` returned."""
        self._hdr.decode_and_add(encoded.encode())

    def encode(self) -> str:
        """Return the histogram in HdrHistogram's own compressed base64 form, which its other tools read too."""
        encoded: bytes = self._hdr.encode()
        return encoded.decode()

    @property
    def count(self) -> int:
        return int(self._hdr.get_total_count())

    @property
    def lowest(self) -> float:
        """Return the lowest latency, in seconds; 0 where there is none."""
        return float(self._hdr.get_min_value()) / 1e6

    @property
    def highest(self) -> float:
        """Return the highest latency, in seconds; 0 where there is none."""
        return float(self._hdr.get_max_value()) / 1e6

    @property
    def mean(self) -> float:
        return float(self._hdr.get_mean_value()) / 1e6 if self.count else 0.0

    def at(self, percentile: float) -> float:
        """Return the latency that `percentile` % of the values do not exceed, in seconds."""
        return float(self._hdr.get_value_at_percentile(percentile)) / 1e6

    def summary(self) -> dict[str, float | int]:
        """Return {"count", "min", "mean", "p50" … "p99.9", "max"}, times in seconds; only the count where empty."""
        if not self.count:
            return {"count": 0}
        summary: dict[str, float | int] = {
            "count": self.count,
            "min": self.lowest,
            "mean": round(self.mean, 6),
        }
        summary |= {f"p{percentile:g}": self.at(percentile) for percentile in PERCENTILES}
        return summary | {"max": self.highest}

    def curve(self) -> list[tuple[float, float]]:
        """Return (percentile, seconds) pairs, ever denser towards 100 %, for a percentile chart."""
        points: list[tuple[float, float]] = []
        rest = 100.0
        while self.count and rest / 100 * self.count >= 1:
            points.append((100 - rest, self.at(100 - rest)))
            rest *= 0.9
        return [*points, (100.0, self.highest)] if points else []
