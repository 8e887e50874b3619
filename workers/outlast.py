"""Does a piece of work until it is done: through servers that are away and failures that nobody foresaw."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Protocol

from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.messaging.consumer import Delivery
from headrace.settings import RetrySettings
from workers.outcome import backoff
from workers.settle import Settler

log = telemetry.logger(__name__)

_GIVEN_BACK_SECONDS = 1.0


class Once(Protocol):
    def __call__(self, *, blame: bool) -> Awaitable[None]: ...


class Outlast:
    """The patience of one stage."""

    def __init__(self, stage: str, store: str | None, settler: Settler, retry: RetrySettings) -> None:
        self._stage = stage
        self._store = store
        self._settler = settler
        self._retry = retry
        self._stopping = asyncio.Event()
        self._away = False

    def stop(self) -> None:
        """Wait for no server any more."""
        self._stopping.set()

    async def __call__(self, once: Once, deliveries: Sequence[Delivery]) -> None:
        """Do it until it is done: a server that is away is waited for, with the blocks kept in progress.

        So an outage burns no deliveries and makes no storm when it ends. A failure that nobody foresaw is
        tried `max_attempts` times, then blamed on the documents. Told to stop meanwhile, the blocks are
        given back for another worker; once a server was found away, without one more try of each.
        """
        attempt = failures = 0
        while not (self._stopping.is_set() and (attempt or self._away)):
            try:
                await once(blame=failures >= self._retry.max_attempts)
                self._found_away(None)
                return
            except UnavailableError as error:
                reason, detail = error.code, error.detail
                self._found_away(error)
            except Exception as error:
                failures += 1
                reason, detail = "failed", type(error).__name__
                log.exception("stage_failed", stage=self._stage, failures=failures)
            attempt += 1
            telemetry.stage_retries.labels(self._stage, reason).inc()
            if attempt in (1, 10, 100):
                log.warning("stage_waits", stage=self._stage, reason=detail, attempt=attempt)
            try:
                async with asyncio.timeout(backoff(attempt, self._retry, spread=random.random())):
                    await self._stopping.wait()
            except TimeoutError:
                continue
        for delivery in deliveries:
            await self._settler.give_back(delivery, _GIVEN_BACK_SECONDS)

    def _found_away(self, error: UnavailableError | None) -> None:
        self._away = error is not None
        if self._store is None:
            return
        if error is None:
            telemetry.store_up.labels(self._store).set(1)
        elif error.code.startswith(self._store):
            telemetry.store_up.labels(self._store).set(0)
