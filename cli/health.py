"""How a running Headrace is: asked from its gateway, and judged by plain rules."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from cli.api import Api
from headrace.errors import HeadraceError, UnavailableError

Level = Literal["ok", "degraded", "down"]

# A stage that keeps up is done with a block in well under a second.
_LAG_SECONDS: Final = 30.0
# Streams are purged from 0.8 on, so this one is not.
_FULL: Final = 0.9


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gateway said at one moment; what it would not say is empty, and `unknown` has the reason."""

    version: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)
    services: Sequence[Mapping[str, Any]] = ()
    consumers: Sequence[Mapping[str, Any]] = ()
    streams: Sequence[Mapping[str, Any]] = ()
    ledger: Mapping[str, Any] = field(default_factory=dict)
    ledger_at: str = ""
    reconciled: Mapping[str, Any] = field(default_factory=dict)
    dead: Sequence[Mapping[str, Any]] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def unbalanced(self) -> set[str]:
        return {name for name, line in self.ledger.items() if not line["balanced"]}


async def look(api: Api) -> Snapshot:
    """Return how things are.

    Raises:
        HeadraceError: there is no gateway, so nobody can say.
    """
    ready = await api.ask("GET", "/readyz")
    if not isinstance(ready.body, dict) or "checks" not in ready.body:
        raise UnavailableError(f"{api.url} answered {ready.status} to /readyz, and not as a Headrace does.")
    unknown: dict[str, str] = {}

    async def asked(what: str, path: str) -> Any:
        try:
            return await api.get(path)
        except HeadraceError as error:
            unknown[what] = error.detail
            return {}

    version, mesh, ledger, dead = await asyncio.gather(
        asked("version", "/version"),
        asked("mesh", "/v1/mesh"),
        asked("ledger", "/v1/ledger"),
        asked("dead letters", "/v1/dead-letters/groups"),
    )
    return Snapshot(
        version=version.get("version", ""),
        checks=ready.body["checks"],
        services=sorted(mesh.get("services", ()), key=lambda one: (one["name"], one["since"])),
        consumers=mesh.get("consumers", ()),
        streams=mesh.get("streams", ()),
        ledger=ledger.get("pipelines", {}),
        ledger_at=ledger.get("at", ""),
        reconciled=ledger.get("reconciled", {}),
        dead=dead or (),
        unknown=unknown,
    )


def judge(now: Snapshot, before: Snapshot | None) -> list[str]:
    """Return what is not as it should be, one sentence each; nothing if all is well."""
    reasons = [
        f"{name}: {check.get('detail') or 'not ready'}" for name, check in now.checks.items() if not check.get("ok")
    ]
    # What nobody could look at is not called well.
    for why in dict.fromkeys(now.unknown.values()):
        reasons.append(f"{', '.join(what for what, one in now.unknown.items() if one == why)}: unknown: {why}")
    if now.services:
        running = {stage for one in now.services for stage in one.get("stages", ())}
        for consumer in now.consumers:
            if consumer["name"] not in running:
                reasons.append(f"stage {consumer['name']}: no live worker runs it")
    for consumer in now.consumers:
        if (waits := consumer.get("oldest_pending_seconds") or 0) > _LAG_SECONDS:
            reasons.append(f"stage {consumer['name']}: its oldest block has waited for {waits:.0f} s")
    for stream in now.streams:
        if (stream.get("fill") or 0) > _FULL:
            reasons.append(f"stream {stream['name']}: {stream['fill']:.0%} full")
    # One look alone may fall between two counts.
    for pipeline in sorted(now.unbalanced & (before.unbalanced if before else now.unbalanced)):
        reasons.append(f"ledger of {pipeline}: accepted is not stored + dead + in flight")
    for pipeline, last in now.reconciled.items():
        if left := last["findings"] - last["repaired"]:
            reasons.append(f"reconciliation of {pipeline} found {left} at {last['at']}: headrace reconcile {pipeline}")
    return reasons


def rates(now: Snapshot, before: Snapshot | None) -> dict[str, dict[str, float]]:
    """Return {pipeline: {accepted, stored}} in documents a second; nothing where the books were not counted anew."""
    if before is None or not now.ledger_at or not before.ledger_at:
        return {}
    seconds = (datetime.fromisoformat(now.ledger_at) - datetime.fromisoformat(before.ledger_at)).total_seconds()
    if seconds <= 0:
        return {}
    return {
        name: {
            "accepted": round((line["accepted"] - before.ledger[name]["accepted"]) / seconds, 1),
            "stored": round((_stored(line) - _stored(before.ledger[name])) / seconds, 1),
        }
        for name, line in now.ledger.items()
        if name in before.ledger
    }


def _stored(line: Mapping[str, Any]) -> int:
    """Return how many documents are in every sink."""
    return min(line["stored"].values(), default=0)
