"""Which id a document has: the client's key, the pipeline's natural key, or a new one. Pure.

The sender is part of every derived id; else one sender could suppress another's documents by using its keys.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from headrace.document import derived_id, json_text, new_id
from headrace.pipeline import Pipeline

# Who sent a document that came without the gateway, from a publisher on NATS or MQTT.
BARE_SENDER: Final = "nats"


def document_id(pipeline: Pipeline, sender: str, document: BaseModel, key: str | None, sha256: str = "") -> str:
    """Return the id of a document.

    Args:
        key: what the client calls it, or None.
        sha256: digest of its bytes; an entity without a client's key is identified by key and content,
            so the same version sent twice is one document and a changed one is another.
    """
    if key is not None:
        return derived_id("key", sender, pipeline.name, key)
    if not pipeline.key:
        return new_id()
    natural = json_text([_value(document, path) for path in pipeline.key]).decode()
    return derived_id("natural", sender, pipeline.name, natural, sha256 if pipeline.entity else "")


def _value(document: BaseModel, path: str) -> object:
    value: object = document
    for part in path.split("."):
        value = getattr(value, part)
    return str(value)
