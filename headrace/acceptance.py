"""What a door asks of a document before it takes it, whoever the door is: size, rules, an id, one line. Pure."""

from __future__ import annotations

from typing import NamedTuple

from headrace.document import digest, one_line
from headrace.errors import RequestError
from headrace.identity import document_id
from headrace.pipeline import Pipeline
from headrace.schema import MAX_DEPTH, validate


class Sound(NamedTuple):
    """A document that may be accepted: its id, and its bytes on one line."""

    id: str
    data: bytes


def examine(
    pipeline: Pipeline, sender: str, data: bytes, key: str | None, *, max_bytes: int, max_depth: int = MAX_DEPTH
) -> Sound:
    """Return the document under its id.

    Args:
        sender: who sends it; part of every derived id.
        key: what the sender calls it, or None.

    Raises:
        RequestError: it is refused; every broken rule is named.
    """
    if len(data) > max_bytes:
        raise too_large(max_bytes, "document")
    document = validate(pipeline, data, max_depth=max_depth)
    line = one_line(data.strip())
    sha256 = digest(line) if pipeline.entity else ""
    return Sound(document_id(pipeline, sender, document, key, sha256), line)


def too_large(limit_bytes: int, what: str) -> RequestError:
    return RequestError(
        f"The {what} is larger than {limit_bytes} bytes. Send less at once.", code="too_large", status=413
    )
