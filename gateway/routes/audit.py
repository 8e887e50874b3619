"""GET /v1/audit: who did what to accounts, sessions and keys, as the auth service has it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator, StringConstraints

from gateway.access import scoped
from gateway.answers.accounts import AuditPage
from gateway.forward import asker
from gateway.routing import Routes, page
from headrace.document import rfc3339
from headrace.tokens import ADMIN

_Words = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
_LAST = 2**63 - 1


def _written(text: object) -> object:
    # pydantic would also take seconds since 1970; and in the first and last year a zone leads out of all time.
    if isinstance(text, str) and re.match(r"[1-8][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt ]", text):
        return text
    raise ValueError("give a time as RFC 3339 has it, such as 2026-01-31T08:00:00Z")


_Time = Annotated[AwareDatetime, BeforeValidator(_written)]


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/audit",
        "readAudit",
        tag="auth",
        summary="The audit of accounts",
        access=scoped(ADMIN),
        answer=AuditPage,
        headers=("Link",),
        problems=("invalid_request", "auth_unavailable", "postgres_unavailable"),
    )
    async def read(
        request: Request,
        actor: _Words | None = None,
        account: _Words | None = None,
        action: _Words | None = None,
        since: _Time | None = None,
        until: _Time | None = None,
        cursor: Annotated[int | None, Query(ge=1, le=_LAST)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Newest first, `since` included and `until` not. What was done about dead letters is in their own audit."""
        given: dict[str, Any] = {"actor": actor, "account": account, "action": action, "since": since, "until": until}
        asked = {name: _text(value) for name, value in given.items() if value is not None}
        reply = await door.ask("auth", "audit", {**asked, "cursor": cursor, "limit": limit}, headers=asker(request))
        return page(reply, request.url.path, {**asked, "limit": str(limit)})


def _text(value: str | datetime) -> str:
    return rfc3339(value) if isinstance(value, datetime) else value
