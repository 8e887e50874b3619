"""A delivery to the documents in it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from headrace.document import ACCEPTED_HEADER, Envelope, check_envelope, derived_id, digest, envelopes
from headrace.errors import RequestError
from headrace.identity import BARE_SENDER, document_id
from headrace.messaging.consumer import Delivery
from headrace.pipeline import Pipeline
from headrace.schema import validate
from headrace.tally import is_whole
from workers.outcome import Item

# How a publisher that is not the gateway may name its document, first match first: ours, CloudEvents', NATS'.
_KEY_HEADERS = ("Idempotency-Key", "ce-id", "Nats-Msg-Id")


def unpack(pipeline: Pipeline | None, delivery: Delivery) -> list[Item]:
    """Return the documents of a block; of one that is no block, itself as one document, for refine to refuse."""
    block = delivery.block
    if delivery.bare:
        return [Item(_bare(pipeline, delivery), block.id)]
    try:
        if not is_whole(delivery.headers.get(ACCEPTED_HEADER, ""), block.body):
            raise ValueError("other bytes than were accepted")
        found = _sound(envelopes(block.body))
    except (msgspec.DecodeError, ValueError, RecursionError):
        whole = Envelope(derived_id("block", block.id), delivery.stored_at, BARE_SENDER, msgspec.Raw(block.body))
        return [Item(whole, block.id)]
    seen: Counter[str] = Counter()
    for envelope in found:
        if not envelope.sha256:  # a raw block; a clean one carries its ordinals
            envelope.ordinal = seen[envelope.id]
            seen[envelope.id] += 1
    return [Item(envelope, envelope.block or block.id) for envelope in found]


def _sound(found: list[Envelope]) -> list[Envelope]:
    """Return the envelopes of a block.

    Raises:
        ValueError: they were not made by a gateway or refine: there are none, or one is of no use.
    """
    if not found:
        raise ValueError("no envelope")
    for envelope in found:
        check_envelope(envelope)
    return found


def _bare(pipeline: Pipeline | None, delivery: Delivery) -> Envelope:
    data = delivery.block.body
    key = _client_key(delivery.headers)
    fallback = derived_id("bare", delivery.block.id)
    found = fallback
    if pipeline is not None and (key is not None or pipeline.key):
        try:
            sha256 = digest(data) if pipeline.entity else ""
            found = document_id(pipeline, BARE_SENDER, validate(pipeline, data), key, sha256)
        except RequestError:
            # Refine refuses it in a moment; until then it only needs some id that is always the same.
            found = fallback
    return Envelope(found, delivery.stored_at, BARE_SENDER, msgspec.Raw(data))


def _client_key(headers: Mapping[str, str]) -> str | None:
    return next((headers[name] for name in _KEY_HEADERS if headers.get(name)), None)
