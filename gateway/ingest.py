"""The hot route, POST /v1/documents/{pipeline}: token, schema, group commit, 202.

A small ASGI application before FastAPI. One obvious route: `accept` reads the request and answers it,
`_envelop` makes documents into lines, `Committer.commit` makes them durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

import msgspec
from prometheus_client import Counter, Histogram

from gateway.body import ClientGoneError, Incoming, Receive, documents, read_body
from gateway.door import Door, require
from gateway.hardened import HEADERS
from gateway.headers import RequestHeaders, read_headers
from gateway.intake import intakes, one_document, taken
from gateway.problems import Headers, internal, problem, request_id_of, shaped
from headrace import telemetry
from headrace.acceptance import examine
from headrace.document import digest, json_text, now, raw_line
from headrace.errors import DocumentError, FieldError, HeadraceError, RequestError
from headrace.pipeline import Pipeline
from headrace.registry import pipeline_named
from headrace.tokens import Principal
from headrace.views import Intake

log = telemetry.logger(__name__)

Scope = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
Answer = tuple[int, bytes, Headers]

PREFIX: Final = "/v1/documents/"
_TEMPLATE: Final = f"{PREFIX}{{pipeline}}"
_JSON: Final = (b"content-type", b"application/json")
# A bulk gives way to other requests this often, whichever comes first.
_TURN_DOCUMENTS: Final = 250
_TURN_BYTES: Final = 128 << 10
# What a line has besides its document, about.
_ENVELOPE_BYTES: Final = 128
_REMEMBERED_KEYS: Final = 100_000


@dataclass(slots=True)
class Begun:
    """A document that waits for the disk."""

    document_id: str
    pipeline: str
    incoming: Incoming
    started: float = field(default_factory=time.perf_counter)


class Ingest:
    """Answers POST /v1/documents/{pipeline}, and those of the pipelines' own; everything else goes to `app`."""

    def __init__(self, door: Door, app: App) -> None:
        self._door = door
        self._app = app
        self._keys = RecentKeys(_REMEMBERED_KEYS)
        self._subjects: dict[str, bytes] = {}
        # Bulks are made into lines one after the other: side by side all would be done late, and each turn of the loop,
        # in which others are refused, would be as long as they are many.
        self._bulk_turn = asyncio.Lock()
        self._intakes = intakes(door.pipelines)

    @property
    def draining(self) -> bool:
        """Return whether connections are to be closed after their answer."""
        return self._door.draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            if path.startswith(PREFIX) and "/" not in (name := path[len(PREFIX) :]):
                await self._respond(name, None, scope, receive, send)
                return
            if path in self._intakes:
                await self._respond(*self._intakes[path], scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _respond(self, name: str, intake: Intake | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        started = time.perf_counter()
        request_id = ""
        try:
            headers = read_headers(scope["headers"])
            request_id = request_id_of(headers.request_id)
            status, body, more = await self.accept(name, headers, receive, request_id, intake)
        except ClientGoneError:
            return
        except HeadraceError as error:
            request_id = request_id or request_id_of(None)
            status, body, more = shaped(error, intake.errors if intake else (), request_id)
            telemetry.documents_refused.labels(self._label(name), error.code).inc()
        except Exception:
            log.exception("request_failed", request_id=request_id, route=intake.path if intake else PREFIX)
            status, body, more = shaped(internal(request_id), intake.errors if intake else (), request_id)
        head = [*more, (b"content-length", str(len(body)).encode()), (b"x-request-id", request_id.encode()), *HEADERS]
        if self._door.draining or status == 413:
            head.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})
        _answered(status, intake.path if intake else _TEMPLATE).inc()
        if status < 300:
            _accepted_in(name).observe(time.perf_counter() - started)

    async def accept(
        self, name: str, headers: RequestHeaders, receive: Receive, request_id: str, intake: Intake | None = None
    ) -> Answer:
        """Return the answer to a request; a 2xx only once its documents are on disk.

        Args:
            intake: the pipeline's own route, where it was that.

        Raises:
            HeadraceError: nothing of it is promised; `outcome_unknown` where it may be stored all the same.
        """
        door = self._door
        principal = await door.principal(headers.authorization)
        require(principal, "documents:write", name)
        pipeline = pipeline_named(door.pipelines, name)
        # Before the body is read, so that a refusal costs next to nothing.
        door.committer.require_room()
        if headers.key is None and headers.event_id is None:
            door.admission.admit()
        body = await read_body(receive, headers, door.settings.gateway.body_max_bytes)
        if intake is not None:
            receipt = await self._accept_one(pipeline, principal, one_document(body, headers, intake), headers)
            return taken(intake, receipt)
        found, bulk = documents(body, headers, door.settings.gateway.bulk_max_documents)
        if bulk:
            return await self._accept_bulk(pipeline, principal, found, headers, request_id)
        return await self._accept_one(pipeline, principal, found[0], headers)

    def begin(
        self, name: str, headers: RequestHeaders, body: bytes, then: Callable[[Begun, BaseException | None], None]
    ) -> bool:
        """Begin to accept one document where nothing has to be waited for but the disk.

        False where there is anything else to do or to say: then nothing has happened, and `accept` does and says it.

        Args:
            then: called once the document is on disk, or with why it is not.
        """
        door = self._door
        pipeline = door.pipelines.get(name)
        if pipeline is None or headers.authorization is None or not headers.plain or body[:1] != b"{":
            return False
        principal = door.authenticator.cached(headers.authorization)
        if principal is None or not principal.may("documents:write", name):
            return False
        incoming = Incoming(body, headers.key)
        try:
            door.committer.require_room()
            door.admission.admit()
            found, line = self._envelop(pipeline, principal, incoming, now())
            if line is None:
                return False
            door.admission.spend(principal.subject, 1)
            door.committer.join(name, line, partial(then, Begun(found, name, incoming)))
        except Exception:  # `accept` meets it again, and answers
            return False
        return True

    def end(self, begun: Begun, error: BaseException | None, request_id: str) -> Answer:
        """Return the answer to what was begun, from what is known of it now."""
        if error is None:
            if begun.incoming.key is not None:
                self._keys.remember(begun.document_id, begun.incoming.data)
            _answered(202, _TEMPLATE).inc()
            _accepted_in(begun.pipeline).observe(time.perf_counter() - begun.started)
            return _receipt(begun.pipeline, begun.document_id)
        if isinstance(error, HeadraceError):
            telemetry.documents_refused.labels(begun.pipeline, error.code).inc()
        else:
            log.error("request_failed", request_id=request_id, route=PREFIX, exc_info=error)
            error = internal(request_id)
        _answered(error.status, _TEMPLATE).inc()
        return error.status, *problem(error, request_id)

    async def _accept_one(
        self, pipeline: Pipeline, principal: Principal, incoming: Incoming, headers: RequestHeaders
    ) -> Answer:
        door = self._door
        door.admission.spend(principal.subject, 1)
        found, line = self._envelop(pipeline, principal, incoming, now())
        status, body, more = _receipt(pipeline.name, found)
        if headers.wait_seconds:
            with door.receipts.expect([found]) as waiters:
                await self._commit_one(pipeline, found, incoming, line)
                if await self._stored(waiters, line is None, headers.wait_seconds):
                    try:
                        state = await door.ask("analytics", "document", {"pipeline": pipeline.name, "id": found})
                    except HeadraceError as error:
                        # It is on disk, whoever cannot say more of it now.
                        log.warning("state_unknown", document_id=found, pipeline=pipeline.name, code=error.code)
                    else:
                        return 200, state.body, [*more, _APPLIED]
        else:
            await self._commit_one(pipeline, found, incoming, line)
        return status, body, more

    async def _commit_one(self, pipeline: Pipeline, found: str, incoming: Incoming, line: bytes | None) -> None:
        """Return once the document is on disk; without a line it is already."""
        if line is not None:
            # Asked again: with a key it may have been on disk already, which a full stream does not change.
            self._door.admission.admit()
            await self._door.committer.commit(pipeline.name, line)
            if incoming.key is not None:
                self._keys.remember(found, incoming.data)

    async def _accept_bulk(
        self,
        pipeline: Pipeline,
        principal: Principal,
        many: Sequence[Incoming],
        headers: RequestHeaders,
        request_id: str,
    ) -> Answer:
        door = self._door
        size = sum(len(one.data) for one in many) + len(many) * _ENVELOPE_BYTES
        with contextlib.ExitStack() as expecting:
            # Room is taken before any work is done for them, and given back before stores are waited for.
            with door.committer.hold(len(many), size):
                door.admission.spend(principal.subject, len(many))
                async with self._bulk_turn:
                    items, lines, fresh = await self._envelop_many(pipeline, principal, many)
                ids = [item["id"] for item in items if "id" in item]
                if not ids:
                    none = DocumentError("None of the documents can be accepted; `items` says why.", code="all_refused")
                    body, more = problem(none, request_id, accepted=0, rejected=len(items), items=items)
                    return 422, body, more
                waiters = expecting.enter_context(door.receipts.expect(ids if headers.wait_seconds else ()))
                if lines:
                    door.admission.admit()
                    await door.committer.commit_held(pipeline.name, lines)
                    for found, incoming in fresh:
                        self._keys.remember(found, incoming.data)
            rejected = len(items) - len(ids)
            answer: dict[str, Any] = {"accepted": len(ids), "rejected": rejected, "items": items}
            status = 207 if rejected else 202
            applied: Headers = []
            if headers.wait_seconds:
                states = await door.receipts.settled(waiters, headers.wait_seconds)
                for item, state in zip((item for item in items if "id" in item), states, strict=True):
                    item["status"] = state
                if "accepted" not in states:
                    status, applied = (207 if rejected else 200), [_APPLIED]
        return status, msgspec.json.encode(answer), [_JSON, *applied]

    async def _envelop_many(
        self, pipeline: Pipeline, principal: Principal, many: Sequence[Incoming]
    ) -> tuple[list[dict[str, Any]], list[bytes], list[tuple[str, Incoming]]]:
        """Return what to answer of each document, the lines, and which documents to remember by their keys."""
        time_of_all = now()
        items: list[dict[str, Any]] = []
        lines: list[bytes] = []
        fresh: list[tuple[str, Incoming]] = []
        turn_documents = turn_bytes = 0
        for incoming in many:
            turn_documents += 1
            turn_bytes += len(incoming.data)
            if turn_documents >= _TURN_DOCUMENTS or turn_bytes >= _TURN_BYTES:
                turn_documents = turn_bytes = 0
                await asyncio.sleep(0)
            try:
                found, line = self._envelop(pipeline, principal, incoming, time_of_all)
            except RequestError as error:
                items.append(_refused_item(error))
                telemetry.documents_refused.labels(pipeline.name, error.code).inc()
                continue
            items.append({"id": found})
            if line is not None:
                lines.append(line)
                if incoming.key is not None:
                    fresh.append((found, incoming))
        return items, lines, fresh

    def _envelop(
        self, pipeline: Pipeline, principal: Principal, incoming: Incoming, time_text: str
    ) -> tuple[str, bytes | None]:
        """Return a document's id and its line; no line where the same document is on disk already.

        Raises:
            RequestError: it is refused.
        """
        if incoming.error is not None:
            raise incoming.error
        limits = self._door.settings.gateway
        found, data = examine(
            pipeline,
            principal.subject,
            incoming.data,
            incoming.key,
            max_bytes=limits.document_max_bytes,
            max_depth=limits.max_depth,
        )
        incoming.data = data
        if incoming.key is not None and self._keys.known(found, data):
            return found, None
        subject = self._subjects.get(principal.subject)
        if subject is None:
            subject = self._subjects[principal.subject] = json_text(principal.subject)
        return found, raw_line(found, time_text, subject, data)

    async def _stored(self, waiters: Sequence[Any], known: bool, seconds: float) -> bool:
        """Return whether the stored state can be answered: news came, or it was stored long ago."""
        states = await self._door.receipts.settled(waiters, 0.05 if known else seconds)
        return known or states[0] != "accepted"

    def _label(self, name: str) -> str:
        return name if name in self._door.pipelines else "unknown"


# Looking a labelled metric up costs more than adding to it.
@lru_cache
def _answered(status: int, template: str = _TEMPLATE) -> Counter:
    return telemetry.http_requests.labels(template, "POST", str(status))


@lru_cache
def _accepted_in(pipeline: str) -> Histogram:
    return telemetry.accept_seconds.labels(pipeline)


def _receipt(pipeline: str, document: str) -> Answer:
    location = f"{PREFIX}{pipeline}/{document}".encode()
    body = b'{"id":"%b","status":"accepted","links":{"self":"%b"}}' % (document.encode(), location)
    return 202, body, [_JSON, (b"location", location)]


_APPLIED: Final = (b"preference-applied", b"wait")


class RecentKeys:
    """Documents with a client's key that are on disk: a repeat is known at the door; the sinks know the rest."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._digests: OrderedDict[str, str] = OrderedDict()

    def known(self, document: str, data: bytes) -> bool:
        """Return whether this very document is on disk.

        Raises:
            RequestError: 409, another document has this key.
        """
        there = self._digests.get(document)
        if there is None:
            return False
        if there != digest(data):
            raise RequestError(
                "Another document was accepted with this Idempotency-Key.",
                code="idempotency_conflict",
                status=409,
                errors=[FieldError("", "idempotency_conflict", "Send it under a key of its own.")],
            )
        return True

    def remember(self, document: str, data: bytes) -> None:
        self._digests[document] = digest(data)
        if len(self._digests) > self._size:
            self._digests.popitem(last=False)


def _refused_item(error: RequestError) -> dict[str, Any]:
    errors = error.errors or (FieldError("", error.code, error.detail),)
    return {
        "status": error.status if error.status != 400 else 422,
        "code": error.code,
        "errors": [msgspec.structs.asdict(one) for one in errors],
    }
