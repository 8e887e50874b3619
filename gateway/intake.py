"""POST routes of the pipelines' own: which there are, what they take and how they answer. The hot route serves them."""

from __future__ import annotations

import msgspec

from gateway.body import EVENTS, NDJSON, Incoming, documents
from gateway.headers import RequestHeaders
from gateway.problems import Headers
from headrace.errors import DocumentError, FieldError
from headrace.registry import Pipelines
from headrace.schema import malformed
from headrace.views import Intake

_text = msgspec.json.Decoder(str).decode


def intakes(pipelines: Pipelines) -> dict[str, tuple[str, Intake]]:
    """Return the name of the pipeline and its route by path."""
    return {
        view.path: (pipeline.name, view)
        for pipeline in pipelines.values()
        for view in pipeline.views
        if isinstance(view, Intake)
    }


def one_document(body: bytes, headers: RequestHeaders, intake: Intake) -> Incoming:
    """Return the document of a body.

    Raises:
        RequestError: it is not JSON, of another media type, or holds many.
    """
    if intake.text and body.lstrip(b" \t\r\n")[:1] == b'"' and headers.event_id is None:
        body = _unwrapped(body)
    if headers.media_type in NDJSON or headers.media_type == EVENTS or body.lstrip(b" \t\r\n")[:1] == b"[":
        raise DocumentError(
            "This route takes one document at a time.",
            errors=[FieldError("", "one_document", "Send one object; POST /v1/documents/{pipeline} takes many.")],
        )
    return documents(body, headers, 1)[0][0]


def taken(intake: Intake, receipt: tuple[int, bytes, Headers]) -> tuple[int, bytes, Headers]:
    """Return a receipt, or the state of who waited for it, as the route's own answer; its headers stay."""
    _, body, headers = receipt
    found = msgspec.json.decode(body)
    location = next(value.decode() for name, value in headers if name == b"location")
    told = {"id": found["id"], "status": found["status"], "links": {"self": location}}
    return intake.status, msgspec.json.encode(intake.shape(told)), headers


def _unwrapped(body: bytes) -> bytes:
    """Return the text of a JSON string, which is JSON again."""
    try:
        return _text(body).encode()
    except (msgspec.DecodeError, UnicodeError) as error:
        raise malformed(str(error)) from None
