"""A dead letter to the line that it goes back as, or to why it does not go back. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.document import Envelope, envelopes, given_back_line, one_line, rfc3339
from headrace.errors import DocumentError, FieldError
from headrace.patch import Patch
from headrace.registry import Pipelines
from headrace.settings import MAX_BLOCK_BYTES
from headrace.storage.dead_letters import Row
from headrace.topology import CLEAN, RAW, STAGES

_WHITE_SPACE: Final = b" \t\r\n"
# What no second try can mend.
_LOST: Final = "not_replayable"


@dataclass(frozen=True)
class Rules:
    """What a replay may take.

    Attributes:
        force: also what was replayed too often, and what is in conflict with a document that is stored.
        by_filter: nobody has named these documents one by one.
    """

    pipelines: Pipelines
    max_replays: int
    force: bool
    by_filter: bool


@dataclass(frozen=True, slots=True)
class Again:
    """A document that goes back.

    Attributes:
        stream: RAW from refine, with its own bytes; CLEAN from a sink, in the stored form and for that sink alone.
    """

    seq: int
    stream: str
    pipeline: str
    envelope: Envelope
    line: bytes


def again(letter: Row, patch: Patch | None, rules: Rules) -> Again:
    """Return a letter's document as it goes back: with its id, its time and its sender.

    What refine had refused is accepted once more, in a new block. What a sink had refused is as if delivered
    again: its envelope names the block that it came in, so that no other sink and no book counts it twice.

    Args:
        letter: a row of the index.

    Raises:
        DocumentError: it cannot go back, and why; it stays a dead letter.
    """
    stage = STAGES.get(letter["stage"])
    if stage is None or stage.headers_only or stage.stream not in (RAW, CLEAN):
        raise DocumentError("No stage had this document in its hands; discard it.", code=_LOST)
    if letter["pipeline"] not in rules.pipelines:
        raise DocumentError(f"There is still no pipeline {letter['pipeline']!r}.", code="unknown_pipeline")
    if not rules.force:
        _guard(letter, rules)
    to_sink = stage.stream == CLEAN
    data = bytes(letter["body"])
    if to_sink:
        _check_stored_form(letter, patch)
    elif patch is not None:
        data = patch.apply(data)
    envelope = Envelope(
        str(letter["document_id"]),
        rfc3339(letter["received_at"]),
        letter["sender"],
        _value(data),
        sha256=letter["sha256"] if to_sink else "",
        ordinal=letter["ordinal"] if to_sink else 0,
        replays=letter["replays"] + 1,
        sink=letter["stage"] if to_sink else "",
        block=str(letter["block"]) if to_sink else "",
    )
    line = given_back_line(envelope)
    if len(line) > MAX_BLOCK_BYTES:
        raise DocumentError(f"The document is larger than {MAX_BLOCK_BYTES} bytes.", code="too_large")
    try:
        # A value that is nested as deep as can be read alone is too deep inside of an envelope.
        envelopes(line)
    except (msgspec.DecodeError, RecursionError):
        raise _no_json() from None
    return Again(letter["seq"], stage.stream, letter["pipeline"], envelope, line)


def _guard(letter: Row, rules: Rules) -> None:
    """Refuse what would only come back."""
    if letter["code"] == "idempotency_conflict":
        raise DocumentError(
            "Another document is stored under its id; discard it, or send it under a key of its own.",
            code="idempotency_conflict",
        )
    if rules.by_filter and letter["replays"] >= rules.max_replays:
        raise DocumentError(
            f"It was replayed {letter['replays']} times and refused each time; name its id, or use force.",
            code="replayed_too_often",
        )


def _check_stored_form(letter: Row, patch: Patch | None) -> None:
    if patch is not None:
        raise DocumentError(
            f"The {letter['stage']} store refused its stored form, and a patch would make the stores differ; replay it"
            " without one.",
            code="patch_failed",
            errors=[FieldError("", "patch_failed", "Choose stage refine for a replay with a patch.")],
        )
    if not letter["sha256"]:
        raise DocumentError("Its letter lacks the digest of what was sent; send it again.", code=_LOST)


def _value(data: bytes) -> msgspec.Raw:
    """Return one JSON value as it stands in a line.

    Whatever is around it would become part of the envelope.

    Raises:
        DocumentError: the bytes are something else; as a line, they would spoil the whole block.
    """
    value = one_line(data).strip(_WHITE_SPACE)
    try:
        found = msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = msgspec.Raw()
    if not value or bytes(found) != value:
        raise _no_json()
    return found.copy()


def _no_json() -> DocumentError:
    return DocumentError(
        "Its bytes are no JSON, so no patch and no second try can help; discard it, or send it again.",
        code="malformed_json",
    )
