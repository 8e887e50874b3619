"""Whether the gateway accepts documents, and how each thing is that it depends on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec
import nats.errors
from nats.js.errors import APIError, NotFoundError

from gateway.door import Door
from gateway.sampled import Sampled
from headrace.errors import HeadraceError
from headrace.messaging import mesh
from headrace.topology import stream_fills

_SAMPLE_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 1.0
# Without one of these no document can be accepted.
_ESSENTIAL: Final = frozenset({"process", "nats", "streams", "writes", "revocations", "keys"})

# By dependency, why it is not as it should be; None where it is.
Reasons = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class State:
    """How things are."""

    reasons: Reasons

    @property
    def blockers(self) -> dict[str, str]:
        """Return what stands in the way of accepting documents."""
        return {name: reason for name, reason in self.reasons.items() if reason is not None and name in _ESSENTIAL}

    @property
    def status(self) -> str:
        return "degraded" if any(self.reasons.values()) else "ready"

    @property
    def checks(self) -> dict[str, dict[str, object]]:
        return {
            name: {"ok": True} if reason is None else {"ok": False, "detail": reason}
            for name, reason in self.reasons.items()
        }


class Readiness:
    """Ready means: documents are accepted. A store that is away keeps none out, since they wait in the stream;
    it is told among the checks and makes the gateway degraded, and a balancer may go on sending. So it is with
    auth while its keys are held here, and with a full stream, whose 503 says itself when to come again.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._others = Sampled(self._ask, _SAMPLE_SECONDS)

    async def state(self) -> State:
        """Return this process's own state now, and the others' as of a second ago at most."""
        door = self._door
        own: Reasons = {
            "process": "it is draining" if door.draining else None,
            "nats": None if door.bus.connected else "the connection is lost",
            "writes": "JetStream confirms no writes; its disk may be full" if door.committer.silent else None,
        }
        return State({**own, **(await self._others.value() if door.bus.connected else {})})

    async def _ask(self) -> Reasons:
        streams, auth, analytics = await asyncio.gather(self._streams(), self._auth(), self._analytics())
        authenticator = self._door.authenticator
        return {
            **streams,
            "revocations": None if authenticator.knows_revoked else "they have not been read yet",
            "keys": None if authenticator.has_keys else auth["auth"],
            **auth,
            **analytics,
        }

    async def _streams(self) -> Reasons:
        settings = self._door.settings
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                fills = await stream_fills(self._door.bus, settings)
        except NotFoundError:
            return {"streams": "a stream is missing"}
        except (nats.errors.Error, APIError, TimeoutError) as error:
            return {"streams": f"JetStream does not answer ({type(error).__name__})"}
        full = [f"{name} is {fill:.0%} full" for name, fill in fills.items() if fill >= settings.gateway.max_fill]
        return {"streams": None, "room": ", ".join(full) or None}

    async def _auth(self) -> Reasons:
        try:
            await self._probe("auth", "jwks")
        except HeadraceError as error:
            return {"auth": error.detail}
        return {"auth": None}

    async def _analytics(self) -> Reasons:
        try:
            reply = await self._probe("analytics", "health")
        except HeadraceError as error:
            return {"analytics": error.detail}
        stores = msgspec.json.decode(reply.body, type=dict[str, str])
        return {"analytics": None, **{store: None if state == "ok" else state for store, state in stores.items()}}

    async def _probe(self, service: str, endpoint: str) -> mesh.Reply:
        bus, namespace = self._door.bus, self._door.settings.namespace
        return await mesh.ask(bus, namespace, service, endpoint, b"{}", timeout_seconds=_PROBE_SECONDS)
