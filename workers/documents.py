"""The sink that writes MongoDB: one bulk insert by id, so a repeat changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace import failpoints
from headrace.document import Envelope
from headrace.pipeline import Pipeline
from headrace.storage.mongo import Documents
from workers.outcome import Item, Stored, Verdict
from workers.repeats import conflicts, first_of_each, latest_repeats

_decode = msgspec.json.Decoder(dict).decode


class StoreDocuments:
    name = "documents"
    store = "mongo"

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def apply(self, pipeline: Pipeline, items: Sequence[Item]) -> Sequence[Verdict]:
        firsts = first_of_each(items)
        known = await self._documents.insert(pipeline, [_row(item) for item in firsts.values()])
        if pipeline.entity and (later := latest_repeats(items, firsts)):
            await self._documents.insert(pipeline, [_row(item) for item in later])
        failpoints.hit("documents.inserted")
        refused = conflicts(items, firsts, {document_id: sha256 for document_id, (sha256, _) in known.items()})
        return [refused.get(place, Stored()) for place in range(len(items))]


def _row(item: Item) -> tuple[Envelope, str, dict[str, Any]]:
    return item.envelope, item.block, _decode(item.envelope.data)
