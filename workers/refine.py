"""The first stage: validate and transform each document; one raw block becomes one clean block. Needs no store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from headrace import telemetry
from headrace.document import clean_line, digest
from headrace.errors import DocumentError, FieldError, RequestError
from headrace.identity import document_id
from headrace.pipeline import Pipeline
from headrace.schema import check_json, holds, pointer_of, schema_error, validate
from workers.outcome import MAX_LINE_BYTES, Forward, Item, Refused, Verdict

log = telemetry.logger(__name__)


class Refine:
    name = "refine"
    store = None

    async def apply(self, pipeline: Pipeline, items: Sequence[Item]) -> Sequence[Verdict]:
        return [refine(pipeline, item) for item in items]


def refine(pipeline: Pipeline, item: Item) -> Verdict:
    """Return a document's clean line, or why it is refused. Pure, so doing it again gives the same."""
    data = bytes(item.envelope.data)
    try:
        document = validate(pipeline, data)
        stored = pipeline.apply(document)
        clean: bytes = type(stored).__pydantic_serializer__.to_json(stored, by_alias=True)
        if stored is not document:
            check_json(clean)  # A transform can make what a store cannot take.
        if holds(clean, b"null"):
            _check_finite(stored)
    except RequestError as error:
        return Refused(error)
    except ValidationError as error:
        return Refused(schema_error(pipeline, error))
    except ValueError as error:
        return Refused(
            DocumentError(f"The transform of {pipeline.name} refuses the document: {error}", code="transform_refused")
        )
    except Exception as error:
        # The author's bug: kept with its document, to be replayed once it is mended.
        log.exception("transform_failed", pipeline=pipeline.name, document_id=item.envelope.id)
        return Refused(
            DocumentError(
                f"The transform of {pipeline.name} failed with {type(error).__name__}.", code="transform_failed"
            )
        )
    line = clean_line(item.envelope, digest(_identity(pipeline, item, document, data)), clean)
    if len(line) > MAX_LINE_BYTES:
        return Refused(DocumentError(f"Its stored form is larger than {MAX_LINE_BYTES} bytes.", code="too_large"))
    return Forward(line)


def _identity(pipeline: Pipeline, item: Item, document: BaseModel, data: bytes) -> bytes:
    """Return the bytes that a document has in common with its repeats, and with no other of its id.

    Those that the client sent; but where the natural key made the id, what they say: `43` or `"43"`, with spaces or
    without. What a client left out has no part in it, so that a new field with a default makes no conflicts.
    """
    if not pipeline.key or pipeline.entity:
        return data
    if item.envelope.id != document_id(pipeline, item.envelope.subject, document, None):
        return data
    said: bytes = type(document).__pydantic_serializer__.to_json(document, by_alias=True, exclude_unset=True)
    return said


def _check_finite(stored: BaseModel) -> None:
    """Refuse NaN and infinities, which JSON has not: pydantic reads them from text and writes them as null.

    Raises:
        DocumentError: there is one.
    """
    if where := next(_not_finite(stored.model_dump(by_alias=True), ()), None):
        raise DocumentError(
            f"The stored form holds NaN or an infinity, at {pointer_of(where)}.",
            errors=[FieldError(pointer_of(where), "finite_number", "Send a finite number, or null where allowed.")],
        )


def _not_finite(value: Any, place: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    match value:
        case float():
            if not math.isfinite(value):
                yield place
        case dict():
            for key, item in value.items():
                yield from _not_finite(item, (*place, str(key)))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _not_finite(item, (*place, index))
