"""The API's description: what FastAPI finds on the routes, and each pipeline's own paths, schemas and examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.access import Access
from gateway.answers.common import ProblemDetails
from gateway.answers.documents import BulkReceipt, DocumentState, Receipt
from gateway.body import EVENT, EVENTS
from gateway.codes import examples, problem_responses
from gateway.headers import MAX_KEY_LENGTH, MAX_WAIT_SECONDS
from gateway.routes.views import operation_of, scope_of
from gateway.routing import JSON, access_of, header_refs
from headrace import __version__
from headrace.fields import Field
from headrace.pipeline import Pipeline
from headrace.registry import Pipelines
from headrace.tokens import NARROWABLE, SCOPES
from headrace.views import Intake

TAGS: Final = {
    "auth": "Accounts, sessions and API keys. Send what you get as `Authorization: Bearer …`.",
    "documents": "Send documents, one or many; ask what became of them. A 202 means: on disk.",
    "pipelines": "The kinds of documents there are: schemas, metrics, examples.",
    "analytics": "What the pipelines count, live.",
    "views": "Routes of the pipelines' own.",
    "dead letters": "Documents that were accepted and then refused for good, with the reason.",
    "jobs": "What runs on a schedule, and what became of each run.",
    "operations": "Health, metrics and the books.",
}
_DESCRIPTION: Final = """\
Takes JSON documents in, makes them durable before it answers, and carries each one, exactly once in effect, into \
MongoDB, Postgres and Redis, where it is counted live.

Every error is a problem (RFC 9457) with a stable `code`; 429 and 503 say in `Retry-After` when to come again. \
`X-Request-Id` is taken if it is sane, else made, and always returned. Times are RFC 3339, UTC.
"""
_SCOPES: Final = {
    "documents:write": "send documents",
    "documents:read": "read documents and their state",
    "analytics:read": "read metrics, the ledger and the mesh",
    "dead:read": "read dead letters",
    "dead:write": "replay and discard dead letters",
    "admin": "everything",
}
_HEADERS: Final = {
    "X-Request-Id": {"description": "What the logs call this request.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds until it makes sense to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "The scheme that is taken.", "schema": {"type": "string"}},
    "Location": {"description": "Where to ask what became of it.", "schema": {"type": "string"}},
    "Link": {"description": 'The next page, rel="next".', "schema": {"type": "string"}},
    "ETag": {"description": "Send it in If-None-Match.", "schema": {"type": "string"}},
    "Preference-Applied": {"description": "The answer has waited, as asked.", "schema": {"const": "wait"}},
    "Headrace-Source": {
        "description": "The stores that were asked: redis, postgres, mongo.",
        "schema": {"type": "string"},
    },
}
_WRITE_PROBLEMS: Final = (
    *("invalid_header", "malformed_json", "token_missing", "invalid_token", "token_expired", "token_revoked"),
    *("scope_missing", "too_slow", "idempotency_conflict", "too_large", "too_many"),
    *(
        "unsupported_media_type",
        "unsupported_encoding",
        "invalid_document",
        "too_deep",
        "invalid_cloudevent",
        "all_refused",
        "rate_limited",
    ),
    *("nats_unavailable", "jetstream_unavailable", "stream_full", "overloaded", "outcome_unknown", "auth_unavailable"),
)
_SQL_TO_JSON: Final[Mapping[str, dict[str, str]]] = {
    "boolean": {"type": "boolean"},
    "bigint": {"type": "integer"},
    "double precision": {"type": "number"},
    "numeric": {"type": "number"},
    "timestamptz": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
}

Json = dict[str, Any]


def describe(app: FastAPI, pipelines: Pipelines) -> Json:
    """Return the OpenAPI document. Pure."""
    found = get_openapi(
        title="Headrace",
        version=__version__,
        summary="JSON documents in over HTTP, stored exactly once in effect, counted live.",
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "this gateway"}],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        routes=app.routes,
    )
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    hidden = {route.operation_id: route for route in routes if not route.include_in_schema}
    for route in routes:
        if route.include_in_schema:
            for method in route.methods or ():
                operation = found["paths"][route.path][method.lower()]
                _secure(operation, access_of(route))
                _exemplify(operation, route)
                # FastAPI adds its own 422, of another shape, wherever a path has parameters; texts cannot break a rule.
                if 422 not in route.responses:
                    operation["responses"].pop("422", None)
    components = found.setdefault("components", {})
    schemas: Json = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (ProblemDetails, Receipt, BulkReceipt, DocumentState):
        _add_model(schemas, model)
    for pipeline in pipelines.values():
        _add_pipeline(schemas, pipeline)
        found["paths"].update(_document_paths(pipeline, hidden))
        for view in pipeline.views:
            if isinstance(view, Intake):
                found["paths"].setdefault(view.path, {})["post"] = _intake(pipeline, view)
    components["securitySchemes"] = _security_schemes()
    components["headers"] = _HEADERS
    components["examples"] = examples()
    for path in found["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})["X-Request-Id"] = {"$ref": "#/components/headers/X-Request-Id"}
    return found


def _exemplify(operation: Json, route: APIRoute) -> None:
    """Put the answers' examples back as they are; FastAPI drops what is null in them."""
    for status, response in route.responses.items():
        for media_type, content in response.get("content", {}).items():
            if "example" in content:
                operation["responses"][str(status)]["content"][media_type]["example"] = content["example"]


def _secure(operation: Json, access: Access) -> None:
    """State in an operation what its route's guard enforces."""
    if not access.token:
        operation["security"] = []
        return
    scopes = [access.scope] if access.scope else []
    operation["security"] = [{"bearer": []}, {"password": scopes}]
    if access.scope:
        narrowed = f", or `{access.scope}:<pipeline>`" if access.scope in NARROWABLE else ""
        said = operation.get("description", "")
        operation["description"] = f"{said}\n\nNeeds the scope `{access.scope}`{narrowed}.".strip()


def _security_schemes() -> Json:
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token or an API key.",
        },
        "password": {
            "type": "oauth2",
            "description": "Log in here, and the documentation sends the token for you.",
            "flows": {
                "password": {
                    "tokenUrl": "/v1/auth/token",
                    "refreshUrl": "/v1/auth/token",
                    "scopes": {scope: _SCOPES[scope] for scope in SCOPES},
                }
            },
        },
    }


def _add_model(schemas: Json, model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema


def _add_pipeline(schemas: Json, pipeline: Pipeline) -> None:
    """Add what a pipeline accepts and yields; its models' names are its own, so none meets another pipeline's."""
    _, definitions = models_json_schema(
        [(pipeline.accepts, "validation"), (pipeline.yields, "serialization")],
        ref_template=f"#/components/schemas/{pipeline.name}.{{model}}",
    )
    for name, schema in definitions.get("$defs", {}).items():
        schemas[f"{pipeline.name}.{name}"] = schema


def _accepts(pipeline: Pipeline) -> Json:
    return _reference(pipeline, "validation")


def _yields(pipeline: Pipeline) -> Json:
    return _reference(pipeline, "serialization")


def _reference(pipeline: Pipeline, mode: Any) -> Json:
    references, _ = models_json_schema(
        [(pipeline.accepts, "validation"), (pipeline.yields, "serialization")],
        ref_template=f"#/components/schemas/{pipeline.name}.{{model}}",
    )
    model = pipeline.accepts if mode == "validation" else pipeline.yields
    return dict(references[model, mode])


def _document_paths(pipeline: Pipeline, hidden: Mapping[str | None, APIRoute]) -> Json:
    """Return the paths of one pipeline's documents, with its own schemas and filters."""
    base = f"/v1/documents/{pipeline.name}"
    listed, shown = hidden["listDocuments"], hidden["showDocument"]
    return {
        base: {"post": _send(pipeline), "get": _list(pipeline, listed)},
        f"{base}/{{id}}": {"get": _show(pipeline, shown)},
    }


def _send(pipeline: Pipeline) -> Json:
    one = _ref("Receipt")
    many = _ref("BulkReceipt")
    location, waited = header_refs("Location"), header_refs("Preference-Applied")
    state = {"schema": {"oneOf": [_state(pipeline), many]}, "examples": {"one": {"value": _stored_example(pipeline)}}}
    refused = {
        "accepted": 1,
        "rejected": 1,
        "items": [
            BulkReceipt.example["items"][0],
            {
                "status": 422,
                "code": "invalid_document",
                "errors": [{"pointer": "/0", "code": "missing", "message": "This field is required; add it."}],
            },
        ],
    }
    operation = {
        "operationId": f"sendTo_{pipeline.name}",
        "tags": ["documents"],
        "summary": f"Send {pipeline.name}, one or many",
        "description": (
            f"{pipeline.description or pipeline.name}.\n\n"
            "Answers once the documents are on disk: one object as a receipt, an array or NDJSON as a list of them. "
            "A refused document stands at its index, and the others are accepted all the same."
        ),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": (
                    "Names the document for ever, such as `order-4711`: sent again, it is stored once. "
                    "Of many, item n is `K/n`."
                ),
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
            },
            {
                "name": "Prefer",
                "in": "header",
                "description": (
                    f"`wait=SECONDS`, at most {MAX_WAIT_SECONDS:g}: answer 200 as soon as every store has it, "
                    "202 when the time is over."
                ),
                "schema": {"type": "string"},
            },
            *(
                {
                    "name": name,
                    "in": "header",
                    "description": f"Of a CloudEvent in binary mode: {text}.",
                    # A rule here would be wrong: without the others, or in another mode, they mean nothing.
                    "schema": {"type": "string"},
                }
                for name, text in (
                    ("ce-specversion", "1.0"),
                    ("ce-id", "not empty; with the source it makes the document's id"),
                    ("ce-source", "URI of the producer"),
                    ("ce-type", "kind of event"),
                )
            ),
        ],
        "requestBody": {"required": True, "content": _request_content(pipeline)},
        "responses": {
            "200": {
                "description": "Stored, as `Prefer: wait` asked.",
                "content": {JSON: state},
                "headers": {**location, **waited},
            },
            "202": {
                "description": "On disk.",
                "content": {
                    JSON: {
                        "schema": {"oneOf": [one, many]},
                        "examples": {
                            "one": {"value": _receipt_example(pipeline)},
                            "many": {"value": BulkReceipt.example},
                        },
                    }
                },
                "headers": dict(location),
            },
            "207": {
                "description": "Some are on disk, others are refused.",
                "content": {JSON: {"schema": many, "example": refused}},
                "headers": dict(waited),
            },
            **{str(status): response for status, response in problem_responses(_WRITE_PROBLEMS).items()},
        },
    }
    _secure(operation, Access(scope="documents:write"))
    return operation


def _request_content(pipeline: Pipeline) -> Json:
    schema, example = _accepts(pipeline), dict(pipeline.example)
    event = {
        "specversion": "1.0",
        "id": "4711",
        "source": "/shop/1",
        "type": f"{pipeline.name}.created",
        "datacontenttype": JSON,
        "data": example,
    }
    event_schema = {
        "type": "object",
        "description": "A CloudEvent 1.0 in structured mode.",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string"},
            "datacontenttype": {"type": "string", "default": JSON},
            "data": schema,
        },
    }
    line = json.dumps(example, ensure_ascii=False, separators=(",", ":"))
    return {
        JSON: {
            "schema": {"oneOf": [schema, {"type": "array", "minItems": 1, "items": schema}]},
            "examples": {"one": {"value": example}, "many": {"value": [example, example]}},
        },
        "application/x-ndjson": {
            "schema": {"type": "string", "description": "One document a line."},
            "example": f"{line}\n{line}\n",
        },
        EVENT.decode(): {"schema": event_schema, "example": event},
        EVENTS.decode(): {
            "schema": {"type": "array", "minItems": 1, "items": event_schema},
            "example": [event],
        },
    }


def _intake(pipeline: Pipeline, intake: Intake) -> Json:
    """Return a POST route of the pipeline's own: the hot route with an answer of its own."""
    schema, example = _accepts(pipeline), dict(pipeline.example)
    content: Json = {"schema": schema, "examples": {"one": {"value": example}}}
    if intake.text:
        text = {"type": "string", "contentMediaType": JSON, "description": "the document as JSON in a JSON string"}
        content["schema"] = {"oneOf": [schema, text]}
        content["examples"]["text"] = {"value": json.dumps(example, ensure_ascii=False)}
    about = (
        f"{pipeline.description or pipeline.name}.\n\nAs `POST /v1/documents/{pipeline.name}`, one document a request."
    )
    hot = _send(pipeline)
    operation = {
        "operationId": operation_of(intake),
        "tags": ["views"],
        "summary": intake.summary or f"Send one of the {pipeline.name}",
        "description": about,
        "parameters": hot["parameters"],
        "requestBody": {"required": True, "content": {JSON: content}},
        "responses": {
            str(intake.status): {
                "description": "On disk.",
                "content": {
                    JSON: {
                        "schema": {"description": "as the pipeline's author shaped it"},
                        "example": intake.shape(_receipt_example(pipeline)),
                    }
                },
                "headers": header_refs("Location", "Preference-Applied"),
            },
            **{
                str(status): response
                for status, response in problem_responses(
                    [code for code in _WRITE_PROBLEMS if code not in ("too_many", "all_refused")], intake.errors
                ).items()
            },
        },
    }
    _secure(operation, Access(scope=scope_of(intake)))
    return operation


def _list(pipeline: Pipeline, route: APIRoute) -> Json:
    operation = _operation(route, f"list_{pipeline.name}", f"List stored {pipeline.name}")
    operation["parameters"] = [
        {
            "name": "limit",
            "in": "query",
            "description": "Documents on a page.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        },
        {
            "name": "cursor",
            "in": "query",
            "description": "`next` of the page before.",
            "schema": {"type": "string", "minLength": 1},
        },
        {
            "name": "sort",
            "in": "query",
            "description": "A field; with `-` before it, the greatest first.",
            "schema": {"type": "string", "default": "-received_at"},
        },
        *(_filter(field) for field in pipeline.fields),
    ]
    item = {
        "type": "object",
        "required": ["id", "received_at", "document"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "received_at": {"type": "string", "format": "date-time"},
            "document": _yields(pipeline),
        },
    }
    schema = {
        "type": "object",
        "required": ["items", "next"],
        "properties": {"items": {"type": "array", "items": item}, "next": {"type": ["string", "null"]}},
    }
    stored = _stored_example(pipeline)
    example = {"items": [{name: stored[name] for name in ("id", "received_at", "document")}], "next": None}
    operation["responses"]["200"] = {
        "description": "A page of stored documents.",
        "content": {JSON: {"schema": schema, "example": example}},
        "headers": header_refs("Link"),
    }
    return operation


def _show(pipeline: Pipeline, route: APIRoute) -> Json:
    operation = _operation(route, f"show_{pipeline.name}", f"What became of one of the {pipeline.name}")
    operation["parameters"] = [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "As the receipt told.",
            "schema": {"type": "string", "format": "uuid"},
            "example": Receipt.example["id"],
        }
    ]
    operation["responses"]["200"] = {
        "description": "Where the document is.",
        "content": {JSON: {"schema": _state(pipeline), "example": _stored_example(pipeline)}},
    }
    return operation


def _operation(route: APIRoute, operation_id: str, summary: str) -> Json:
    """Return a pipeline's own copy of an operation that is served for all of them by one route."""
    operation: Json = {
        "operationId": operation_id,
        "tags": list(route.tags),
        "summary": summary,
        "description": route.description,
        "responses": {str(status): dict(response) for status, response in route.responses.items() if status != 200},
    }
    # An unknown pipeline would be another path.
    operation["responses"].pop("404", None)
    if route.operation_id == "showDocument":
        operation["responses"].update({str(k): v for k, v in problem_responses(["document_not_found"]).items()})
    operation["responses"] = dict(sorted(operation["responses"].items()))
    _secure(operation, access_of(route))
    return operation


def _filter(field: Field) -> Json:
    return {
        "name": field.path,
        "in": "query",
        "description": "Only documents with this value.",
        "schema": _SQL_TO_JSON.get(field.sql_type, {"type": "string"}),
    }


def _state(pipeline: Pipeline) -> Json:
    return {
        "allOf": [
            _ref("DocumentState"),
            {"type": "object", "properties": {"document": {"anyOf": [_yields(pipeline), {"type": "null"}]}}},
        ]
    }


def _receipt_example(pipeline: Pipeline) -> Json:
    found = Receipt.example["id"]
    return {**Receipt.example, "links": {"self": f"/v1/documents/{pipeline.name}/{found}"}}


def _stored_example(pipeline: Pipeline) -> Json:
    document = pipeline.apply(pipeline.accepts.model_validate(dict(pipeline.example)))
    return {
        **DocumentState.example,
        "pipeline": pipeline.name,
        "status": "stored",
        "sinks": {"documents": "stored", "facts": "stored"},
        "document": document.model_dump(mode="json", by_alias=True),
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
