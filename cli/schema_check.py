"""A pipeline's schema tried on the real documents that are retained: which would newly fail, which newly pass.

What was accepted stands in RAW in its original bytes; what was refused then is told by the dead letters. Nothing is
written, and no document's content is told: only its id, and the rules that it breaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.compatibility import SchemaVersion, breaks, described
from headrace.document import DeadLetter, Envelope, dead_letters, digest, envelopes, now
from headrace.errors import FieldError
from headrace.messaging.connection import Bus
from headrace.messaging.retained import retained
from headrace.messaging.schemas import versions
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.topology import DEAD, RAW, Topology
from workers.outcome import Item, Refused
from workers.refine import Refine, refine

SAMPLES: Final = 3


@dataclass(slots=True)
class Rule:
    """A rule, and the documents that break it; the first few by id."""

    pointer: str
    code: str
    message: str
    count: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, document_id: str) -> None:
        self.count += 1
        if document_id and len(self.samples) < SAMPLES:
            self.samples.append(document_id)


@dataclass(slots=True)
class Findings:
    """What a schema would do.

    Attributes:
        registered: the newest registered version, or None.
        broken: what the schema breaks of it.
        documents: accepted ones that were tried.
        newly_failing: of these; `rules` says why.
        letters: dead letters of refine that were tried.
        newly_passing: of these; the first few by id in `passing`.
        unreadable: blocks that hold no documents.
    """

    pipeline: str
    registered: int | None = None
    broken: list[FieldError] = field(default_factory=list)
    documents: int = 0
    newly_failing: int = 0
    rules: dict[tuple[str, str], Rule] = field(default_factory=dict)
    letters: int = 0
    newly_passing: int = 0
    passing: list[str] = field(default_factory=list)
    unreadable: int = 0

    @property
    def sound(self) -> bool:
        return not self.broken and not self.newly_failing

    def as_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "registered_version": self.registered,
            "compatible": not self.broken,
            "breaks": [msgspec.structs.asdict(error) for error in self.broken],
            "documents": self.documents,
            "newly_failing": self.newly_failing,
            "rules": [msgspec.to_builtins(rule) for rule in sorted(self.rules.values(), key=lambda one: -one.count)],
            "dead_letters": self.letters,
            "newly_passing": self.newly_passing,
            "passing_samples": self.passing,
            "unreadable_blocks": self.unreadable,
        }


async def check(bus: Bus, settings: Settings, pipeline: Pipeline, advance: Callable[[Findings], None]) -> Findings:
    """Return what a pipeline's schema would do to what is retained.

    Args:
        advance: called after each message.

    Raises:
        UnavailableError: NATS is away, or has no streams of Headrace.
    """
    findings = Findings(pipeline.name)
    known: list[SchemaVersion] = await versions(bus, settings, pipeline.name)
    if known:
        findings.registered = known[-1].version
        findings.broken = breaks(known[-1], described(pipeline))
    # Bytes that were refused before are judged as dead letters, not as documents that newly fail.
    refused: set[str] = set()
    async for letter in _letters(bus, settings, pipeline.name):
        refused.add(digest(letter.body))
        _try_letter(findings, pipeline, letter)
        advance(findings)
    async for found in _documents(bus, settings, pipeline.name):
        if found is None:
            findings.unreadable += 1
        elif digest(bytes(found.data)) not in refused:
            _try_document(findings, pipeline, found)
        advance(findings)
    return findings


def _try_letter(findings: Findings, pipeline: Pipeline, letter: DeadLetter) -> None:
    findings.letters += 1
    envelope = Envelope(letter.id, letter.time, letter.subject, msgspec.Raw(letter.body))
    if not isinstance(refine(pipeline, Item(envelope, letter.block)), Refused):
        findings.newly_passing += 1
        if len(findings.passing) < SAMPLES:
            findings.passing.append(letter.id)


def _try_document(findings: Findings, pipeline: Pipeline, envelope: Envelope) -> None:
    findings.documents += 1
    verdict = refine(pipeline, Item(envelope, envelope.id))
    if isinstance(verdict, Refused):
        findings.newly_failing += 1
        errors = verdict.error.errors or (FieldError("", verdict.error.code, verdict.error.detail),)
        for error in errors:
            place = (error.pointer, error.code)
            rule = findings.rules.setdefault(place, Rule(error.pointer, error.code, error.message))
            rule.add(envelope.id)


async def _letters(bus: Bus, settings: Settings, pipeline: str) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters of the stage that a schema decides about, original bytes and all."""
    topology = Topology(settings.namespace)
    async for message in retained(bus, topology.stream(DEAD), subject=topology.dead(pipeline)):
        for letter in dead_letters(message.data):
            if letter.stage == Refine.name:
                yield letter


async def _documents(bus: Bus, settings: Settings, pipeline: str) -> AsyncIterator[Envelope | None]:
    """Yield what was accepted, by the gateway and from publishers of bare documents; None for what is no block."""
    topology = Topology(settings.namespace)
    stream = topology.stream(RAW)
    async for message in retained(bus, stream, subject=topology.raw(pipeline)):
        try:
            found = envelopes(message.data)
        except msgspec.DecodeError:
            yield None
            continue
        for envelope in found:
            yield envelope
    async for message in retained(bus, stream, subject=topology.ingest(pipeline)):
        # Their ids follow from what came with them, which is the workers' matter.
        yield Envelope("", now(), "", msgspec.Raw(message.data))
