"""How far each stage has come, sampled: consumer info costs the server too much to be asked for per request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import nats.errors
from nats.js.errors import APIError

from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.settings import Settings
from headrace.topology import STAGES, Topology

_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Lag:
    """What a stage has before it.

    Attributes:
        pending: blocks not yet delivered.
        ack_pending: blocks delivered and not yet settled.
        settled: stream sequence up to which every block is settled.
    """

    pending: int
    ack_pending: int
    settled: int

    @property
    def busy(self) -> bool:
        return self.pending > 0 or self.ack_pending > 0


class Consumers:
    """Run `watch` beside everything else.

    Attributes:
        lags: as last sampled, by stage; empty before the first sample.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._timeout_seconds = settings.nats.request_timeout_seconds
        self._topology = Topology(settings.namespace)
        self.lags: Mapping[str, Lag] = {}

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(UnavailableError):
                await self.sample()
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def sample(self) -> Mapping[str, Lag]:
        """Return how far each stage is now.

        One after the other, downstream: a block that leaves a stage before it is looked at is found at the next.

        Raises:
            UnavailableError: JetStream is away, or a stage has never been started.
        """
        js = self._bus.client.jetstream(timeout=self._timeout_seconds)
        lags = {}
        for stage in STAGES.values():
            try:
                info = await js.consumer_info(self._topology.stream(stage.stream), stage.name)
            except (APIError, nats.errors.Error, TimeoutError) as error:
                raise UnavailableError(
                    f"JetStream does not say how far the stage {stage.name} is ({type(error).__name__}).",
                    code="jetstream_unavailable",
                    retry_after_seconds=1,
                ) from error
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            lags[stage.name] = Lag(info.num_pending or 0, info.num_ack_pending or 0, floor)
        self.lags = lags
        return lags
