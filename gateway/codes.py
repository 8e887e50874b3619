"""The problems that routes declare, by code: what OpenAPI shows of them. Nothing that runs reads this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.problems import MEDIA_TYPE
from headrace.errors import TITLES, FieldError, HeadraceError, problem_of
from headrace.views import ErrorShape, answered

_REQUEST_ID: Final = "019aae5e-7c1b-7d23-9c3f-6a52f4a6a001"

# Code to status and an example of its detail.
CODES: Final[dict[str, tuple[int, str]]] = {
    "malformed_json": (400, "The body is not JSON: unexpected end of input."),
    "unsupported_grant_type": (400, "The grant type is 'client_credentials'; password and refresh_token are taken."),
    "invalid_header": (400, "The Idempotency-Key cannot be used."),
    "answer_too_large": (400, "The answer is larger than the message bus carries; ask for less at once."),
    "token_missing": (401, "Send a token: `Authorization: Bearer …`."),
    "invalid_token": (401, "The token is not one that this Headrace has issued."),
    "token_expired": (401, "The token has expired; refresh it."),
    "token_revoked": (401, "The token was revoked."),
    "invalid_credentials": (401, "The username or the password is wrong."),
    "invalid_refresh_token": (401, "The refresh token is not valid; log in again."),
    "scope_missing": (403, "The token lacks the scope documents:read."),
    "registration_closed": (403, "Only an administrator adds users here."),
    "scope_not_held": (403, "You do not hold admin."),
    "user_disabled": (403, "This user is disabled; ask an administrator."),
    "wrong_password": (403, "The old password is wrong."),
    "login_required": (403, "API keys cannot manage keys; log in."),
    "unknown_pipeline": (404, "There is no pipeline 'invoice'; there are: invoices, searches."),
    "unknown_metric": (404, "Pipeline 'invoices' has no metric 'revenu'; it has: revenue_by_country."),
    "analysis_not_found": (404, "The analysis of students has not been made yet; run `headrace analyse students`."),
    "document_not_found": (404, "Pipeline 'invoices' has accepted no document of this id."),
    "dead_letter_not_found": (404, "There is no dead letter of this id."),
    "replay_not_found": (404, "There is no replay of this id."),
    "unknown_job": (404, "There is no job 'user_count'; there are: users_count, users_count_cleaner."),
    "job_run_not_found": (404, "Job users_count has no run of this id."),
    "unknown_key_id": (404, "There is no such key."),
    "too_slow": (408, "The body did not come within 30 s."),
    "username_taken": (409, "Somebody is called ada already."),
    "job_off": (409, "Job licenses_fetch is off: HEADRACE_JOBS__SOCRATA_URL names no Socrata resource."),
    "too_many_keys": (409, "One user may have 100 keys; delete some."),
    "idempotency_conflict": (409, "Another document was accepted with this Idempotency-Key."),
    "too_large": (413, "The body is larger than 16777216 bytes. Send less at once."),
    "too_many": (413, "The body holds more than 20000 documents. Send less at once."),
    "unsupported_media_type": (415, "The media type 'text/plain' is not taken; send application/json."),
    "unsupported_encoding": (415, "The body is compressed; send it as it is."),
    "invalid_document": (422, "The document breaks the schema of invoices: /Quantity."),
    "too_deep": (422, "The document is nested deeper than 64 levels."),
    "invalid_cloudevent": (422, "The CloudEvent breaks the rules of CloudEvents 1.0."),
    "all_refused": (422, "None of the documents can be accepted; `items` says why."),
    "invalid_request": (422, "The request breaks the rules of this route: query limit."),
    "weak_password": (422, "The password will not do."),
    "invalid_scope": (422, "The login asks for a scope that does not exist."),
    "invalid_patch": (422, "The patch is no JSON Patch: /patch/0/op."),
    "unknown_field": (422, "Pipeline 'invoices' has no field 'nubmer'; it has: received_at, invoice_no."),
    "invalid_value": (422, "quantity is of type 64-bit integer, which the value given is not."),
    "invalid_cursor": (422, "The cursor is not one of this list."),
    "rate_limited": (429, "You may send 500 documents a second."),
    "too_many_replays": (429, "8 replays and discards are running; wait for one to end."),
    "too_many_logins": (429, "Too many failed logins; wait."),
    "internal_error": (500, f"Something failed here; the log has it under request {_REQUEST_ID}."),
    "nats_unavailable": (503, "The message bus is away."),
    "jetstream_unavailable": (
        503,
        "No stream takes this subject now: JetStream is starting, or the streams are missing.",
    ),
    "stream_full": (503, "The stream of accepted documents is 96% full."),
    "overloaded": (503, "Too many documents await their write to disk."),
    "outcome_unknown": (
        503,
        "JetStream did not confirm the write within 5 s; the outcome is unknown. "
        "Send it again with the same Idempotency-Key.",
    ),
    "auth_unavailable": (503, "No instance of the auth service is alive."),
    "analytics_unavailable": (503, "No instance of the analytics service is alive."),
    "workers_unavailable": (503, "No instance of the workers service is alive."),
    "postgres_unavailable": (503, "postgres did not answer within 2 s."),
    "mongo_unavailable": (503, "mongo did not answer within 2 s."),
    "ledger_pending": (503, "The books are being counted."),
    "not_ready": (503, "No document can be accepted: nats: the connection is lost."),
}

_FIELDS: Final[dict[str, FieldError]] = {
    "invalid_document": FieldError("/Quantity", "missing", "This field is required; add it."),
    "invalid_request": FieldError("/limit", "less_than_equal", "Input should be less than or equal to 1000."),
    "invalid_patch": FieldError("/patch/0/op", "unknown_operation", "`op` is one of add, remove, replace."),
    "invalid_value": FieldError("/quantity", "invalid_value", "Give a value of type 64-bit integer."),
    "unknown_field": FieldError("/nubmer", "unknown_field", "Filter and sort by declared fields only."),
}


def problem_responses(codes: Iterable[str], shapes: Sequence[ErrorShape] = ()) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's responses for these codes: one for each status, with an example for each code.

    Args:
        shapes: how some of them are answered by a route of a pipeline's own.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*codes, "internal_error"}, key=lambda code: (CODES[code][0], code)):
        if (shaped := answered(shapes, _error(code))) is not None:
            status, body = shaped
            response = found.setdefault(status, _response(status))
            own = response["content"].setdefault(
                "application/json", {"schema": {"description": "as the pipeline's author shaped it"}, "examples": {}}
            )
            own["examples"][code] = {"value": body}
            continue
        status = CODES[code][0]
        response = found.setdefault(status, _response(status))
        problems = response["content"].setdefault(
            MEDIA_TYPE, {"schema": {"$ref": "#/components/schemas/ProblemDetails"}, "examples": {}}
        )
        problems["examples"][code] = {"$ref": f"#/components/examples/{code}"}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def examples() -> dict[str, dict[str, Any]]:
    """Return a problem for each code, which the responses refer to."""
    return {code: {"summary": detail, "value": _example(code)} for code, (_, detail) in CODES.items()}


def _response(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": f"{TITLES.get(status, 'Error')}.",
        "content": {},
    }
    if status == 401:
        described["headers"] = {"WWW-Authenticate": {"$ref": "#/components/headers/WWW-Authenticate"}}
    if status in (429, 503):
        described["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return described


def _example(code: str) -> dict[str, Any]:
    return {**problem_of(_error(code)), "request_id": _REQUEST_ID}


def _error(code: str) -> HeadraceError:
    status, detail = CODES[code]
    retry_after_seconds = 2.0 if status in (429, 503) else None
    errors = [_FIELDS[code]] if code in _FIELDS else []
    return HeadraceError(detail, code=code, status=status, errors=errors, retry_after_seconds=retry_after_seconds)
