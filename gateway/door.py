"""What the gateway's routes share: opened once by `gateway/service.py`, handed down by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.admission import Admission
from gateway.authenticate import Authenticator
from gateway.receipts import Receipts
from headrace.errors import AccessError
from headrace.messaging import mesh
from headrace.messaging.commit import Committer
from headrace.messaging.connection import Bus
from headrace.registry import Pipelines
from headrace.settings import Settings
from headrace.tokens import Principal


@dataclass
class Door:
    """The gateway's parts.

    Attributes:
        draining: set on SIGTERM; readiness says no, connections are closed after their answer.
        statuses, metrics: those of every live process.
    """

    settings: Settings
    bus: Bus
    pipelines: Pipelines
    authenticator: Authenticator
    admission: Admission
    committer: Committer
    receipts: Receipts
    draining: bool = field(default=False)
    statuses: mesh.Everyone = field(init=False)
    metrics: mesh.Everyone = field(init=False)

    def __post_init__(self) -> None:
        self.statuses = mesh.Everyone(self.bus, self.settings.namespace, "status")
        self.metrics = mesh.Everyone(self.bus, self.settings.namespace, "metrics")

    async def principal(self, authorization: bytes | None) -> Principal:
        """Return who asks.

        Raises:
            AccessError: 401.
            UnavailableError: the token is not known here and auth is away.
        """
        if authorization is None:
            raise AccessError("Send a token: `Authorization: Bearer …`.", code="token_missing")
        return self.authenticator.cached(authorization) or await self.authenticator.verify(authorization)

    async def ask(
        self, service: str, endpoint: str, payload: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> mesh.Reply:
        """Ask a service over the mesh; `payload` is sent as JSON.

        Raises:
            HeadraceError: what the service answered.
            UnavailableError: it is away.
        """
        return await mesh.ask(
            self.bus,
            self.settings.namespace,
            service,
            endpoint,
            msgspec.json.encode(payload or {}),
            headers=headers,
            timeout_seconds=self.settings.nats.request_timeout_seconds,
        )


def require(principal: Principal, action: str, pipeline: str | None = None) -> None:
    """Refuse a principal without the scope.

    Raises:
        AccessError: 403, naming the scope that is missing.
    """
    if not principal.may(action, pipeline):
        scope = action if pipeline is None else f"{action} (or {action}:{pipeline})"
        raise AccessError(f"The token lacks the scope {scope}.", code="scope_missing", status=403)
