"""Where one document is: stored by which sinks, dead and why, or on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from analytics.backlog import Backlog, InFlight
from analytics.deadletters import letter_of, of_document, problem
from analytics.deadline import within
from headrace.document import DeadLetter, parse_id, parse_time, rfc3339
from headrace.errors import RequestError, UnavailableError
from headrace.pipeline import Pipeline
from headrace.storage.mongo import Documents, StoredDocument
from headrace.storage.postgres import Facts


@dataclass(frozen=True, slots=True)
class Traces:
    """What the stores know of a document.

    Attributes:
        stored: as MongoDB has it; the error where MongoDB is away.
        counted_at: when it was accepted, if Postgres has it.
        letters: its refusals, newest first.
        given_back_at: when it was accepted, if a refusal of it is given back to the stream.
    """

    stored: StoredDocument | UnavailableError | None
    counted_at: datetime | None
    letters: Sequence[DeadLetter]
    given_back_at: datetime | None = None

    @property
    def none(self) -> bool:
        return self.stored is None and self.counted_at is None and not self.letters


class DocumentStates:
    def __init__(self, documents: Documents, facts: Facts, backlog: Backlog, store_seconds: float) -> None:
        self._documents = documents
        self._facts = facts
        self._backlog = backlog
        self._store_seconds = store_seconds

    async def state(self, pipeline: Pipeline, document_id: str) -> dict[str, Any]:
        """Return {id, pipeline, status, received_at, sinks, document, problem}.

        `document` is the stored form, null until MongoDB has it.

        Raises:
            RequestError: no such document was accepted (404 `document_not_found`).
            UnavailableError: a store that would decide is away, or the backlog is too long to be searched.
        """
        try:
            identity = parse_id(document_id)
        except ValueError:
            raise _not_found(pipeline) from None
        traces = await self._traces(pipeline, identity)
        if traces.none:
            if traces.given_back_at is not None:
                return _on_its_way(pipeline, identity, InFlight(rfc3339(traces.given_back_at)))
            found = await self._backlog.find(pipeline.name, str(identity))
            if found is not None:
                return _on_its_way(pipeline, identity, found)
            # It may have been settled between the two looks.
            traces = await self._traces(pipeline, identity)
        if traces.none:
            raise _not_found(pipeline)
        return judged(pipeline, identity, traces)

    async def _traces(self, pipeline: Pipeline, identity: UUID) -> Traces:
        stored, counted_at, letters = await asyncio.gather(
            self._stored(pipeline, identity),
            within(self._store_seconds, "postgres", self._facts.received_at(pipeline, identity)),
            within(self._store_seconds, "postgres", of_document(self._facts, str(identity))),
        )
        # A letter that was given back to the stream is on its way again.
        final, given_back = [], None
        for row in letters:
            if row["pipeline"] != pipeline.name:
                continue
            if row["state"] in ("dead", "discarded"):
                final.append(letter_of(row))
            else:
                given_back = row["received_at"]
        return Traces(stored, counted_at, final, given_back)

    async def _stored(self, pipeline: Pipeline, identity: UUID) -> StoredDocument | UnavailableError | None:
        try:
            return await within(self._store_seconds, "mongo", self._documents.get(pipeline, identity))
        except UnavailableError as error:
            return error


def judged(pipeline: Pipeline, identity: UUID, traces: Traces) -> dict[str, Any]:
    """Return the state that the stores' traces add up to.

    `stored` only when every sink has it. A refusal stands beside what is stored: a sink may refuse what
    the other takes, and another body under the same key is refused for ever.

    Raises:
        UnavailableError: MongoDB is away, and without it nobody can say.
    """
    stored, counted_at, letters = traces.stored, traces.counted_at, traces.letters
    if isinstance(stored, UnavailableError):
        # Refused before the sinks and counted by none: MongoDB cannot have it either.
        if not (letters and counted_at is None and letters[0].stage == "refine"):
            raise stored
        stored = None
    # MongoDB keeps milliseconds only.
    received_at = counted_at or (stored.received_at if stored else parse_time(letters[0].time))
    status = "accepted"
    if stored is not None and counted_at is not None:
        status = "stored"
    elif letters:
        status = "dead"
    return {
        "id": str(identity),
        "pipeline": pipeline.name,
        "status": status,
        "received_at": rfc3339(received_at),
        "sinks": {
            "documents": "pending" if stored is None else "stored",
            "facts": "pending" if counted_at is None else "stored",
        },
        "document": None if stored is None else stored.document,
        "problem": problem(letters[0]) if letters else None,
    }


def _on_its_way(pipeline: Pipeline, identity: UUID, found: InFlight) -> dict[str, Any]:
    return {
        "id": str(identity),
        "pipeline": pipeline.name,
        "status": "accepted" if found.letter is None else "dead",
        "received_at": rfc3339(parse_time(found.received_at)),
        "sinks": {"documents": "pending", "facts": "pending"},
        "document": None,
        "problem": None if found.letter is None else problem(found.letter),
    }


def _not_found(pipeline: Pipeline) -> RequestError:
    return RequestError(
        f"Pipeline {pipeline.name!r} has accepted no document of this id.", code="document_not_found", status=404
    )
