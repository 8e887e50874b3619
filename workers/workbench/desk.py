"""The endpoints of the workbench, which the gateway proxies to: replay with its dry run, and discard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace import telemetry
from headrace.document import new_id
from headrace.errors import AccessError, RateError, RequestError, UnavailableError
from headrace.messaging.mesh import Handler, Reply, Request
from headrace.registry import Pipelines
from headrace.settings import DeadLetterSettings
from headrace.storage import dead_letters
from headrace.storage.dead_letters import NewAction, Row
from headrace.storage.postgres import Facts
from headrace.tokens import PRINCIPAL_HEADER, Principal
from workers.workbench.actions import Actions
from workers.workbench.again import Rules
from workers.workbench.requests import Discard, Patches, Replay, discard_of, replay_of
from workers.workbench.trial import try_out

log = telemetry.logger(__name__)

_FULL_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Desk:
    """What the endpoints need.

    Attributes:
        answer_seconds: how long an answer may take; less than the gateway waits.
    """

    facts: Facts
    actions: Actions
    pipelines: Pipelines
    settings: DeadLetterSettings
    answer_seconds: float

    def handlers(self) -> Mapping[str, Handler]:
        return {"dead.replay": self._replay, "dead.discard": self._discard}

    async def _replay(self, request: Request) -> Reply:
        asked, patches = replay_of(request.payload, self.settings)
        principal = _principal(request)
        if asked.dry_run:
            return Reply(msgspec.json.encode(await self._try_out(asked, patches)))
        rate = asked.rate or self.settings.documents_per_second
        row = await self._act("replay", asked, principal, patches, rate)
        return Reply(msgspec.json.encode(dead_letters.progress(row)), 202)

    async def _discard(self, request: Request) -> Reply:
        asked = discard_of(request.payload, self.settings)
        row = await self._act("discard", asked, _principal(request), Patches(None), 1.0)
        return Reply(msgspec.json.encode(dead_letters.progress(row)), 200 if row["state"] == "done" else 202)

    async def _try_out(self, asked: Replay, patches: Patches) -> dict[str, Any]:
        selection = asked.selection
        matched, last = await dead_letters.count(self.facts, selection)
        rules = Rules(self.pipelines, self.settings.max_replays, asked.force, selection.ids is None)
        found = await try_out(self.facts, selection, patches, rules, asked.after, last, self.answer_seconds / 2)
        return {
            "would_pass": found.would_pass,
            "would_fail": found.would_fail,
            "reasons": [
                {"code": code, "pointer": pointer, "count": count}
                for (code, pointer), count in found.reasons.most_common(20)
            ],
            "samples": found.samples,
            "matched": matched,
            "next": found.place,
        }

    async def _act(
        self, kind: str, asked: Replay | Discard, principal: Principal, patches: Patches, rate: float
    ) -> Row:
        """Note an action and work on it; return how far it is when it is done, or when the answer is due.

        Raises:
            RequestError: no dead letter is chosen (404).
            RateError: enough are running.
            UnavailableError: Postgres is away; nothing was noted, or it goes on by itself.
        """
        selection = asked.selection
        matched, last = await dead_letters.count(self.facts, selection)
        if not matched:
            raise RequestError("No dead letter is so.", code="dead_letter_not_found", status=404)
        patch = patches.text
        action = NewAction(
            id=new_id(),
            kind=kind,
            made_by=principal.subject,
            token_id=principal.token_id,
            selection=asked.text,
            patch=patch,
            patch_sha256=patches.sha256,
            reason=asked.reason,
            rate=rate,
            force=asked.force if isinstance(asked, Replay) else False,
            matched=matched,
            last=last,
        )
        if not await self.actions.begin(action, self.answer_seconds / 2):
            raise RateError(
                f"{self.settings.max_running} replays and discards are running; wait for one to end.",
                code="too_many_replays",
                retry_after_seconds=_FULL_RETRY_SECONDS,
            )
        # Never the patch or the reason: they may hold what documents hold.
        log.info("dead_letters_taken", action=action.id, kind=kind, by=principal.subject, matched=matched)
        row = await dead_letters.action(self.facts, UUID(action.id))
        if row is None:
            raise UnavailableError("The replay is not there any more.", code="postgres_unavailable")
        return row


def _principal(request: Request) -> Principal:
    try:
        return msgspec.json.decode(request.headers.get(PRINCIPAL_HEADER, ""), type=Principal)
    except msgspec.DecodeError:
        raise AccessError("This needs a token.") from None
