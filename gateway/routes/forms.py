"""/forms: one document typed into a form made from its pipeline's schema, taken as POST /v1/documents takes it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from fastapi import Request, Response

from gateway.access import session_of, signed_in
from gateway.headers import RequestHeaders
from gateway.ingest import Ingest
from gateway.pages.coerce import ABSENT
from gateway.pages.filled import Filled, broken, fill, first, mark, with_rows, without_row
from gateway.pages.page import error_page, page, see, tell_when
from gateway.pages.posted import posted
from gateway.pages.schema import form_of
from gateway.routing import Routes
from headrace import telemetry
from headrace.document import parse_id
from headrace.errors import FieldError, HeadraceError, RequestError
from headrace.pipeline import Pipeline
from headrace.registry import pipeline_named
from headrace.schema import validate
from headrace.tokens import Principal

# URL-encoding makes three bytes of one, and the names of the fields come on top.
_ENCODED: Final = 3
_NAMES_BYTES: Final = 256 << 10
# Most documents are stored within this; whoever waits longer is told to look again.
_STORED_SECONDS: Final = 1.5
_SINKS: Final = {"documents": "Documents (MongoDB)", "facts": "Facts (Postgres, then Redis)"}
_HEADINGS: Final = {
    "accepted": ("Accepted", "It is on disk and on its way to the stores."),
    "stored": ("Stored", "It is in every store and has been counted."),
    "dead": ("Refused", "It was accepted, then refused for good. Nothing of it is lost: it is kept as a dead letter."),
}


def add(routes: Routes) -> None:
    door = routes.door
    limits = door.settings.gateway
    forms = {
        name: form_of(pipeline.accepts.model_json_schema(mode="validation"), dict(pipeline.example))
        for name, pipeline in door.pipelines.items()
    }
    # What the hot route does with a request, without its socket; its memory of keys is the forms' own, as the keys are.
    ingest = Ingest(door, routes.app)

    def shown(
        request: Request,
        pipeline: Pipeline,
        form: Filled,
        *,
        key: str,
        status: int = 200,
        problem: str = "",
        errors: Iterable[FieldError] = (),
    ) -> Response:
        told = mark(form, errors)
        return page(
            request,
            "form.html",
            status=status,
            pipeline=pipeline,
            about=form.node.hint.replace("`", ""),
            form=with_rows(form),
            key=key,
            problem=problem,
            told=told,
        )

    @routes.page("GET", "/forms", "listForms", signed_in())
    async def listed(request: Request) -> Response:
        may = session_of(request).principal.may
        mine = [pipeline for name, pipeline in sorted(door.pipelines.items()) if may("documents:write", name)]
        lead = "Send one document by hand, checked by the same rules as the API."
        return page(request, "list.html", title="Forms", lead=lead, pipelines=mine)

    @routes.page("GET", "/forms/{pipeline}", "showForm", signed_in("documents:write"))
    async def empty(request: Request, pipeline: str) -> Response:
        known = pipeline_named(door.pipelines, pipeline)
        return shown(request, known, first(forms[pipeline]), key=_new_key())

    @routes.page("POST", "/forms/{pipeline}", "sendForm", signed_in("documents:write"))
    async def sent(request: Request, pipeline: str) -> Response:
        known, session = pipeline_named(door.pipelines, pipeline), session_of(request)
        form = await posted(request, _ENCODED * limits.document_max_bytes + _NAMES_BYTES)
        key, removed, added = form.text("key") or _new_key(), form.text("remove"), form.text("add")
        filled = fill(forms[pipeline], without_row(form.texts, removed) if removed else form.texts)
        if not form.is_of(session.secret):
            # What was typed is not lost to a session that ended meanwhile.
            problem = "This form is of an earlier sign-in. Nothing was sent; look it over and send it again."
            return shown(request, known, filled, key=key, status=403, problem=problem)
        if removed or added:
            return shown(request, known, with_rows(filled, added), key=key)
        document = b"{}" if filled.value is ABSENT else msgspec.json.encode(filled.value)
        try:
            if unread := broken(filled):
                raise _invalid(known, document, unread, limits.max_depth)
            headers = RequestHeaders(authorization=session.authorization, key=_idempotency(known, key, document))
            _, receipt, _ = await ingest.accept(pipeline, headers, _body(document), request.state.request_id)
        except HeadraceError as error:
            telemetry.documents_refused.labels(pipeline, error.code).inc()
            answer = shown(
                request, known, filled, key=key, status=error.status, problem=_told(error), errors=error.errors
            )
            return tell_when(answer, error)
        return see(f"/forms/{pipeline}/{msgspec.json.decode(receipt)['id']}")

    @routes.page("GET", "/forms/{pipeline}/{id}", "showReceipt", signed_in())
    async def receipt(request: Request, pipeline: str, id: str) -> Response:  # noqa: A002  # the path's own word
        principal = session_of(request).principal
        known = _pipeline_for(principal, door.pipelines, pipeline)
        try:
            document_id = str(parse_id(id))
        except ValueError:
            raise RequestError("This is no document's id.", code="document_not_found", status=404) from None
        if not principal.may("documents:read", pipeline):
            return _unread(request, known, document_id)
        asked = {"pipeline": pipeline, "id": document_id}
        try:
            # Listening first: what is told between the two questions would be missed.
            with door.receipts.expect([document_id]) as waiters:
                state = msgspec.json.decode((await door.ask("analytics", "document", asked)).body)
                if state["status"] == "accepted":
                    await door.receipts.settled(waiters, _STORED_SECONDS)
                    state = msgspec.json.decode((await door.ask("analytics", "document", asked)).body)
        except HeadraceError as error:
            return error_page(request, error)
        return _receipt(request, known, state)


def _receipt(request: Request, pipeline: Pipeline, state: dict[str, Any]) -> Response:
    heading, lead = _HEADINGS[state["status"]]
    document = state["document"]
    # What is refused waits for nothing.
    words = {"pending": "not stored"} if state["status"] == "dead" else {}
    return page(
        request,
        "receipt.html",
        pipeline=pipeline,
        id=state["id"],
        state=state["status"],
        heading=heading,
        lead=lead,
        received_at=state["received_at"],
        sinks=[(_SINKS.get(name, name), words.get(at, at)) for name, at in state["sinks"].items()],
        problem=state["problem"],
        document=None if document is None else msgspec.json.format(msgspec.json.encode(document)).decode(),
    )


def _unread(request: Request, pipeline: Pipeline, document_id: str) -> Response:
    """Return the receipt of somebody who may send and not read; it says nothing of what there is."""
    lead = "Your account may send documents here, but not see where they are; that takes the scope documents:read."
    return page(
        request,
        "receipt.html",
        pipeline=pipeline,
        id=document_id,
        state="",
        heading="Sent",
        lead=lead,
        received_at="",
        sinks=[],
        problem=None,
        document=None,
    )


def _pipeline_for(principal: Principal, pipelines: Any, name: str) -> Pipeline:
    """Return a pipeline that somebody may send to or read.

    Raises:
        RequestError: there is none such, as far as he may know.
    """
    if not (principal.may("documents:write", name) or principal.may("documents:read", name)):
        raise RequestError("You may neither send nor read documents here.", code="scope_missing", status=403)
    return pipeline_named(pipelines, name)


def _idempotency(pipeline: Pipeline, key: str, document: bytes) -> str | None:
    """Return the key of what a form sends: a repeat of the same is one document, an edited one is another.

    A pipeline with a key of its own knows a repeat by that.
    """
    if pipeline.key:
        return None
    return f"form/{hashlib.sha256(key.encode() + b'/' + document).hexdigest()[:40]}"


def _invalid(pipeline: Pipeline, document: bytes, unread: list[FieldError], max_depth: int) -> HeadraceError:
    """Return what is wrong with a document of which some fields could not even be read."""
    pointers = {error.pointer for error in unread}
    others: list[FieldError] = []
    try:
        validate(pipeline, document, max_depth=max_depth)
    except HeadraceError as error:
        others = [one for one in error.errors if one.pointer not in pointers]
    return RequestError("", code="invalid_document", status=422, errors=[*unread, *others])


def _told(error: HeadraceError) -> str:
    if error.errors:
        return "There is a problem" if len(error.errors) == 1 else f"There are {len(error.errors)} problems"
    if error.code == "outcome_unknown":
        return "The write was not confirmed in time. Send it again as it is: it is stored once, whatever happened."
    return error.detail


def _body(document: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": document, "more_body": False}

    return receive


def _new_key() -> str:
    return secrets.token_urlsafe(16)
