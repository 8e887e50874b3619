"""How the stores are, sampled in the background: asking costs nothing and never waits for a store that hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from analytics.deadline import within
from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.storage.mongo import Documents
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projection

_SAMPLE_SECONDS = 1.0
_PROBE_SECONDS = 2.0
_OK = "ok"
_UNKNOWN = "not asked yet"


class Health:
    """Run `watch` beside everything else.

    Attributes:
        stores: `ok` or the reason why not, by store.
        projection_whole: whether Redis is known to hold all that Postgres has counted.
    """

    def __init__(self, documents: Documents, facts: Facts, projection: Projection) -> None:
        self._probes: Mapping[str, Callable[[], Awaitable[None]]] = {
            "mongo": documents.ping,
            "postgres": facts.ping,
            "redis": projection.ping,
        }
        self._facts = facts
        self._projection = projection
        self._known_run = ""
        self.stores = dict.fromkeys(self._probes, _UNKNOWN)
        self.projection_whole = False

    async def watch(self) -> None:
        while True:
            await asyncio.gather(*(self._probe(store) for store in self._probes), self._compare())
            await asyncio.sleep(_SAMPLE_SECONDS)

    def require(self, *stores: str) -> None:
        """Raise an UnavailableError that names the first of these stores that did not answer when it was asked last."""
        for store in stores:
            if self.stores[store] not in (_OK, _UNKNOWN):
                raise UnavailableError(self.stores[store], code=f"{store}_unavailable", retry_after_seconds=2)

    async def _probe(self, store: str) -> None:
        try:
            await within(_PROBE_SECONDS, store, self._probes[store]())
            self.stores[store] = _OK
        except UnavailableError as error:
            self.stores[store] = error.detail
        telemetry.store_up.labels(store).set(self.stores[store] == _OK)

    async def _compare(self) -> None:
        """Learn whether Redis may lack something; the workers repair it (workers/projection.py)."""
        try:
            run = await within(_PROBE_SECONDS, "redis", self._projection.run_id())
        except UnavailableError:
            self.projection_whole = False
            return
        if run != self._known_run:
            # Another run of the server may have lost its last writes, and Postgres may be away to say.
            self.projection_whole = False
        with contextlib.suppress(UnavailableError):
            projected_run, dirty, clean = await within(_PROBE_SECONDS, "postgres", self._facts.projection())
            self._known_run = projected_run
            self.projection_whole = run == projected_run and dirty == clean
