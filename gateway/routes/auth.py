"""/v1/auth: accounts, sessions and API keys, as the auth service answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from fastapi import Request, Response

from gateway.access import ANY_TOKEN, EVERYBODY
from gateway.answers.accounts import Account, ApiKey, Caller, NewApiKey, Tokens
from gateway.forward import asker, body_of, json_of, unsupported
from gateway.routing import JSON, Routes, passed
from headrace.errors import DocumentError, FieldError, RequestError
from headrace.tokens import NARROWABLE, SCOPES

_FORM: Final = b"application/x-www-form-urlencoded"
# The largest is a password, of which auth takes a few hundred bytes.
_BODY_MAX_BYTES: Final = 16 * 1024
_BODY_PROBLEMS: Final = (
    *("malformed_json", "too_slow", "too_large", "unsupported_media_type", "unsupported_encoding", "invalid_request"),
    *("auth_unavailable", "postgres_unavailable"),
)
_SCOPE: Final = f"^({'|'.join(SCOPES)}|({'|'.join(NARROWABLE)}):[a-z][a-z0-9_]{{0,39}})$"
_NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"}
_SECRET: Final = {"type": "string", "format": "password"}


def add(routes: Routes) -> None:
    door = routes.door

    async def ask(request: Request, endpoint: str, payload: Any) -> Response:
        return passed(await door.ask("auth", endpoint, payload, headers=asker(request)))

    @routes.add(
        "POST",
        "/v1/auth/register",
        "register",
        tag="auth",
        summary="Make an account",
        access=EVERYBODY,
        answer=Account,
        status=201,
        body=_json_body(
            {"username": _NAME, "password": {**_SECRET, "minLength": 8}},
            {"username": "ada", "password": "correct horse battery staple"},
            strict=True,
        ),
        problems=(*_BODY_PROBLEMS, "registration_closed", "username_taken", "weak_password"),
    )
    async def register(request: Request) -> Response:
        """A new user may send and read documents and read metrics."""
        return await ask(request, "register", await json_of(request, _BODY_MAX_BYTES))

    @routes.add(
        "POST",
        "/v1/auth/token",
        "logIn",
        tag="auth",
        summary="Log in",
        access=EVERYBODY,
        answer=Tokens,
        body=_token_body(),
        problems=(*_BODY_PROBLEMS, *_TOKEN_PROBLEMS),
    )
    async def token(request: Request) -> Response:
        """The OAuth2 password form, or the same as JSON; `scope` asks for less than the user has.

        With `grant_type=refresh_token` it does what `/v1/auth/refresh` does.
        """
        endpoint, payload = await _grant(request)
        return await ask(request, endpoint, payload)

    @routes.add(
        "POST",
        "/v1/auth/refresh",
        "refresh",
        tag="auth",
        summary="Trade a refresh token for a new pair",
        access=EVERYBODY,
        answer=Tokens,
        body=_json_body({"refresh_token": _SECRET}, {"refresh_token": Tokens.example["refresh_token"]}),
        problems=(*_BODY_PROBLEMS, "invalid_refresh_token", "user_disabled"),
    )
    async def refresh(request: Request) -> Response:
        """The old refresh token dies; if it is used again, the whole session ends."""
        return await ask(request, "refresh", await json_of(request, _BODY_MAX_BYTES))

    @routes.add(
        "POST",
        "/v1/auth/revoke",
        "revoke",
        tag="auth",
        summary="Revoke a token",
        access=EVERYBODY,
        status=204,
        body=_json_body({"token": _SECRET}, {"token": Tokens.example["refresh_token"]}),
        problems=_BODY_PROBLEMS,
    )
    async def revoke(request: Request) -> Response:
        """Who holds a token may end it: a refresh token ends its session, an access token or an API key itself.

        204 for what is no token as well (RFC 7009).
        """
        return await ask(request, "revoke", await json_of(request, _BODY_MAX_BYTES))

    @routes.add(
        "POST",
        "/v1/auth/password",
        "changePassword",
        tag="auth",
        summary="Change your password",
        access=ANY_TOKEN,
        status=204,
        body=_json_body(
            {"old_password": _SECRET, "new_password": {**_SECRET, "minLength": 8}},
            {"old_password": "correct horse battery staple", "new_password": "a mill needs water"},
            strict=True,
        ),
        problems=(*_BODY_PROBLEMS, "login_required", "wrong_password", "weak_password", "too_many_logins"),
    )
    async def change_password(request: Request) -> Response:
        """It takes the old one. Every session of the user ends within a second, this one too; API keys stay.

        As many wrong ones may be tried as to log in.
        """
        return await ask(request, "password", await json_of(request, _BODY_MAX_BYTES))

    @routes.add("GET", "/v1/auth/me", "me", tag="auth", summary="Who am I", access=ANY_TOKEN, answer=Caller)
    async def me(request: Request) -> Response:
        """Who the token speaks for, and what it allows."""
        return await ask(request, "me", None)

    @routes.add(
        "POST",
        "/v1/auth/keys",
        "makeKey",
        tag="auth",
        summary="Make an API key",
        access=ANY_TOKEN,
        answer=NewApiKey,
        status=201,
        body=_json_body(
            {
                "name": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
                "scopes": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": _SCOPE}},
                "expires_in": {
                    "type": ["integer", "null"],
                    "minimum": 1,
                    "maximum": 315360000,
                    "description": "seconds",
                },
            },
            {"name": "invoice importer", "scopes": ["documents:write:invoices"]},
            required=("name", "scopes"),
            strict=True,
        ),
        problems=(*_BODY_PROBLEMS, "login_required", "scope_not_held", "too_many_keys", "user_disabled"),
    )
    async def make_key(request: Request) -> Response:
        """A key for a machine, with no more scopes than its maker has; it is shown this once.

        Keys are made by who logged in, not by other keys.
        """
        return await ask(request, "keys.create", await json_of(request, _BODY_MAX_BYTES))

    @routes.add(
        "GET",
        "/v1/auth/keys",
        "listKeys",
        tag="auth",
        summary="List your API keys",
        access=ANY_TOKEN,
        answer=ApiKey,
        many=True,
        problems=("postgres_unavailable",),
    )
    async def list_keys(request: Request) -> Response:
        """The caller's keys without their secrets, oldest first."""
        return await ask(request, "keys.list", None)

    @routes.add(
        "DELETE",
        "/v1/auth/keys/{id}",
        "deleteKey",
        tag="auth",
        summary="Delete an API key",
        access=ANY_TOKEN,
        status=204,
        problems=("login_required", "unknown_key_id", "postgres_unavailable"),
    )
    async def delete_key(request: Request, id: str) -> Response:  # noqa: A002  # the path's own word
        """Every gateway refuses it within a second. An administrator deletes anybody's."""
        return await ask(request, "keys.delete", {"id": id})


_TOKEN_PROBLEMS: Final = (
    *("unsupported_grant_type", "invalid_credentials", "invalid_refresh_token", "scope_not_held"),
    *("invalid_scope", "too_many_logins", "user_disabled"),
)


async def _grant(request: Request) -> tuple[str, Any]:
    """Return the endpoint of auth that grants what is asked for, and what to ask it.

    Raises:
        RequestError: neither a form nor JSON, or a grant type that is not taken.
        DocumentError: the form is not in order.
    """
    media_type, body = await body_of(request, _BODY_MAX_BYTES)
    if media_type in (None, JSON.encode()):
        return "token", msgspec.Raw(body)
    if media_type != _FORM:
        raise unsupported(f"{_FORM.decode()} or {JSON}")
    form = _form(body)
    match form.get("grant_type", "password"):
        case "password":
            return "token", {name: form[name] for name in ("username", "password", "scope") if name in form}
        case "refresh_token":
            return "refresh", {name: form[name] for name in ("refresh_token",) if name in form}
        case other:
            raise RequestError(
                f"The grant type is {other[:40]!r}; password and refresh_token are taken.",
                code="unsupported_grant_type",
            )


def _form(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict")
    except UnicodeDecodeError:
        raise DocumentError("The form is not URL-encoded UTF-8.", code="invalid_request") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        # RFC 6749, section 3.2: parameters must not be repeated.
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)[:40]
        error = FieldError(f"/{twice}", "repeated", "Send it once.")
        raise DocumentError(f"The form has {twice!r} twice.", code="invalid_request", errors=[error])
    return form


def _json_body(
    properties: Mapping[str, Any],
    example: Mapping[str, Any],
    required: tuple[str, ...] | None = None,
    *,
    strict: bool = False,
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "required": list(required or properties),
        "properties": dict(properties),
        # Others take what OAuth2 clients send besides, and pay it no heed.
        **({"additionalProperties": False} if strict else {}),
    }
    return {"required": True, "content": {JSON: {"schema": schema, "example": dict(example)}}}


def _token_body() -> dict[str, Any]:
    login = _json_body(
        {"username": {"type": "string"}, "password": _SECRET, "scope": {"type": "string"}},
        {"username": "ada", "password": "correct horse battery staple", "scope": "documents:write"},
        required=("username", "password"),
    )
    form = {
        "type": "object",
        "properties": {
            "grant_type": {"enum": ["password", "refresh_token"], "default": "password"},
            "username": {"type": "string"},
            "password": _SECRET,
            "scope": {"type": "string"},
            "refresh_token": _SECRET,
        },
    }
    example = {"grant_type": "password", "username": "ada", "password": "correct horse battery staple"}
    login["content"][_FORM.decode()] = {"schema": form, "example": example}
    return login
