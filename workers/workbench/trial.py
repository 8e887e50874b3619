"""The dry run: today's pipeline on the letters' documents, patched; nothing is stored or changed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from headrace.document import digest
from headrace.errors import DocumentError, RequestError
from headrace.pipeline import Pipeline
from headrace.schema import schema_error
from headrace.storage import dead_letters
from headrace.storage.dead_letters import Row, Selection
from headrace.storage.postgres import Facts
from headrace.topology import CLEAN
from workers.outcome import Forward, Item, Refused
from workers.refine import refine
from workers.workbench.again import Again, Rules, again
from workers.workbench.requests import Patches

_PORTION: Final = 500
# Judged in one go before others of this process get their turn.
_SLICE: Final = 50
_SAMPLES: Final = 10


@dataclass
class Verdicts:
    """What a dry run has found; `place` is where the next one begins, None where all is judged."""

    would_pass: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    place: int | None = None

    @property
    def would_fail(self) -> int:
        return self.reasons.total()

    def fail(self, letter: Row, error: RequestError) -> None:
        pointer = error.errors[0].pointer if error.errors else ""
        # One of each kind says more than ten of one.
        if not self.reasons[error.code, pointer] and len(self.samples) < _SAMPLES:
            self.samples.append(sample(letter, error))
        self.reasons[error.code, pointer] += 1


def sample(letter: Row, error: RequestError) -> dict[str, Any]:
    """Return why one letter fails: its id, the rule, and which fields break it."""
    return {
        "id": str(letter["document_id"]),
        "pipeline": letter["pipeline"],
        "stage": letter["stage"],
        "code": error.code,
        "detail": error.detail,
        "errors": [msgspec.structs.asdict(one) for one in error.errors],
    }


async def try_out(
    facts: Facts, selection: Selection, patches: Patches, rules: Rules, after: int, last: int, seconds: float
) -> Verdicts:
    """Judge the letters between two sequences for as long as there is time; at least one portion of them.

    Raises:
        UnavailableError: Postgres is away.
    """
    found = Verdicts()
    ends_at = time.monotonic() + seconds
    while True:
        letters, place = await dead_letters.read(facts, selection, after, last, _PORTION)
        if place is None:
            return found
        after = place
        passing: list[tuple[Any, Again, str]] = []
        for number, letter in enumerate(letters):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                one = again(letter, patches.of(str(letter["document_id"])), rules)
                _judge(rules.pipelines[one.pipeline], one)
            except RequestError as error:
                found.fail(letter, error)
            else:
                passing.append((letter, one, one.envelope.sha256 or digest(bytes(one.envelope.data))))
        await _look_for_conflicts(facts, rules, passing, found)
        if time.monotonic() >= ends_at:
            found.place = after
            return found


def _judge(pipeline: Pipeline, one: Again) -> None:
    """Refuse what refine would refuse; of a stored form, what is none any more.

    Raises:
        RequestError: it would be refused.
    """
    if one.stream == CLEAN:
        try:
            pipeline.yields.model_validate_json(bytes(one.envelope.data), by_alias=True, by_name=True)
        except ValidationError as error:
            raise schema_error(pipeline, error) from None
        return
    match refine(pipeline, Item(one.envelope, "")):
        case Refused(refusal):
            raise refusal
        case Forward():
            return


async def _look_for_conflicts(
    facts: Facts, rules: Rules, passing: Sequence[tuple[Any, Again, str]], found: Verdicts
) -> None:
    """Count what passes, but for documents whose id is stored with other bytes."""
    by_pipeline: dict[str, list[tuple[Any, Again, str]]] = {}
    for entry in passing:
        by_pipeline.setdefault(entry[1].pipeline, []).append(entry)
    for name, entries in by_pipeline.items():
        known = await facts.known(rules.pipelines[name], [one.envelope.id for _, one, _ in entries])
        for letter, one, sha256 in entries:
            there = known.get(one.envelope.id)
            if there is None or there.sha256 == sha256:
                found.would_pass += 1
            else:
                found.fail(
                    letter, DocumentError("Another document is stored under its id.", code="idempotency_conflict")
                )
