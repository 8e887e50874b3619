"""Back-pressure that tells the truth: 503 when we cannot now, 429 when a principal passes its rate.

Both say when to come again. What is slow to know is sampled on a timer, never per request.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import nats.errors
from nats.js.errors import APIError

from headrace import telemetry
from headrace.errors import RateError, UnavailableError
from headrace.messaging.connection import Bus
from headrace.settings import GatewaySettings, Settings
from headrace.topology import RAW, stream_fills

log = telemetry.logger(__name__)

_SAMPLE_SECONDS: Final = 1.0
_MAX_BUCKETS: Final = 10_000


class Admission:
    """Decides on headers alone, before a body is read."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self._gateway = settings.gateway
        self._buckets: dict[str, TokenBucket] = {}
        self.fills: dict[str, float] = {}
        self._drained_per_second = 0.0

    def admit(self) -> None:
        """Refuse when new documents could not be made durable.

        Raises:
            UnavailableError: the bus is away, or RAW is about to be full.
        """
        if not self._bus.connected:
            raise UnavailableError("The message bus is away.", code="nats_unavailable", retry_after_seconds=2)
        fill = self.fills.get(RAW, 0.0)
        if fill >= self._gateway.max_fill:
            raise UnavailableError(
                f"The stream of accepted documents is {fill:.0%} full.",
                code="stream_full",
                retry_after_seconds=retry_after(fill, self._gateway.max_fill, self._drained_per_second),
            )

    def spend(self, principal: str, documents: int) -> None:
        """Take documents from a principal's rate.

        Raises:
            RateError: 429 with the time until there is room.
        """
        rate = self._gateway.documents_per_second
        if rate <= 0:
            return
        bucket = self._buckets.get(principal)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[principal] = TokenBucket(rate, self._gateway, time.monotonic())
        if wait := bucket.take(documents, time.monotonic()):
            raise RateError(f"You may send {rate:g} documents a second.", code="rate_limited", retry_after_seconds=wait)

    async def sample(self) -> None:
        """Keep the fill of the streams known; run it as a task."""
        while True:
            before, at = self.fills.get(RAW, 0.0), time.monotonic()
            await asyncio.sleep(_SAMPLE_SECONDS)
            try:
                self.fills = await stream_fills(self._bus, self._settings)
            except (nats.errors.Error, APIError, TimeoutError) as error:
                log.warning("streams_unavailable", error=type(error).__name__)
                continue
            self._drained_per_second = max(0.0, before - self.fills[RAW]) / (time.monotonic() - at)


class TokenBucket:
    """A principal's rate: fills steadily, holds `burst_seconds` of it."""

    def __init__(self, rate: float, gateway: GatewaySettings, now: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate * gateway.burst_seconds)
        self._level = self._size
        self._at = now

    def take(self, documents: int, now: float) -> float:
        """Take what is there and return 0, or take nothing and return the seconds until there is room.

        More than the bucket ever holds is let through when it is full, and paid for by those who come after.
        """
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        needed = min(float(documents), self._size)
        if self._level < needed:
            return (needed - self._level) / self._rate
        self._level -= documents
        return 0.0


def retry_after(fill: float, target: float, drained_per_second: float) -> float:
    """Return when the fill should be 5 % below its limit at the rate it falls now: 1 to 60 s, spread by a fifth."""
    excess = fill - (target - 0.05)
    seconds = excess / drained_per_second if drained_per_second > 0 else 10.0
    return min(60.0, max(1.0, seconds)) * random.uniform(0.9, 1.1)
