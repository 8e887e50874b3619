"""What callers send to the auth service, and how it is refused."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from auth.passwords import weakness
from headrace.errors import AccessError, DocumentError, FieldError
from headrace.messaging.mesh import Request
from headrace.schema import malformed, pointer_of
from headrace.tokens import ADMIN, CLIENT_HEADER, MAX_SCOPES, PRINCIPAL_HEADER, SCOPES, Principal, is_scope

Body = TypeVar("Body", bound=BaseModel)


def _known_scope(scope: str) -> str:
    if not is_scope(scope):
        raise PydanticCustomError("unknown_scope", "Unknown scope; there are {known}", {"known": ", ".join(SCOPES)})
    return scope


Scopes = Annotated[list[Annotated[str, AfterValidator(_known_scope)]], Field(min_length=1, max_length=MAX_SCOPES)]
# Credentials are bounded where they are compared: what is odd about them is just wrong.
_Secret = Annotated[str, Field(repr=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Registration(_Strict):
    """A new account. The name ends up in tokens, logs and document ids, so it is plain ASCII."""

    username: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$")
    password: _Secret


class Addition(Registration):
    """A new account, as an administrator adds it."""

    scopes: Scopes | None = None


class Login(BaseModel):
    """The OAuth2 password form as JSON; its other fields (`grant_type`, `client_id`) say nothing here."""

    model_config = ConfigDict(frozen=True)

    username: str
    password: _Secret
    scope: str = ""


class Refresh(BaseModel):
    model_config = ConfigDict(frozen=True)

    refresh_token: _Secret


class Bearer(BaseModel):
    model_config = ConfigDict(frozen=True)

    token: _Secret


class NewKey(_Strict):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    scopes: Scopes
    expires_in: int | None = Field(None, ge=1, le=10 * 365 * 86400, description="seconds; without it, until deleted")


class PasswordChange(_Strict):
    old_password: _Secret
    new_password: _Secret


class UserName(_Strict):
    username: str


class NewPassword(UserName):
    password: _Secret


_Words = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class AskAudit(_Strict):
    """What of the audit to show.

    Attributes:
        actor: who did it; `account`: whom it concerns; both as the audit spells them.
        since, until: RFC 3339, with a zone.
        cursor: `next` of the page before.
    """

    actor: _Words | None = None
    account: _Words | None = None
    action: _Words | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    cursor: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    limit: int = Field(100, ge=1, le=1000)


class KeyId(_Strict):
    id: str


class Key(_Strict):
    key: _Secret


def parse(model: type[Body], payload: bytes) -> Body:
    """Return the body as its model.

    Raises:
        RequestError: 400, not JSON.
        DocumentError: 422, with every broken rule and never a value.
    """
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise malformed("it cannot be parsed")
    errors = [FieldError(pointer_of(item["loc"]), item["type"], item["msg"] + ".") for item in found]
    fields = ", ".join(dict.fromkeys(error.pointer or "the body itself" for error in errors))
    raise DocumentError(f"The request is not valid: {fields}.", code="invalid_request", errors=errors)


def strong(username: str, password: str, pointer: str = "/password") -> None:
    """Refuse a new password that will not do.

    Raises:
        DocumentError: 422 `weak_password`.
    """
    if weak := weakness(password, username):
        error = FieldError(pointer, weak.code, weak.message)
        raise DocumentError("The password will not do.", code="weak_password", errors=[error])


def login_scopes(login: Login) -> list[str]:
    """Return the scopes that a login asks for, which may be none.

    Raises:
        DocumentError: 422 `invalid_scope`.
    """
    wanted = login.scope.split()
    if any(not is_scope(scope) for scope in wanted) or len(wanted) > MAX_SCOPES:
        error = FieldError("/scope", "unknown_scope", f"There are {', '.join(SCOPES)}.")
        raise DocumentError("The login asks for a scope that does not exist.", code="invalid_scope", errors=[error])
    return wanted


def principal_of(request: Request) -> Principal:
    """Return whom the gateway has authenticated.

    Raises:
        AccessError: 401, nobody.
    """
    try:
        return msgspec.json.decode(request.headers.get(PRINCIPAL_HEADER, ""), type=Principal)
    except msgspec.DecodeError:
        raise AccessError("This needs a token.") from None


def key_keeper_of(request: Request) -> Principal:
    """Return whom the gateway has authenticated and who may make and delete API keys.

    A leaked API key must not make more of its kind, so keys are managed by who logged in; an
    administrator's key could make a user who logs in, so for that one it would be an empty rule.

    Raises:
        AccessError: 401 nobody, 403 an API key.
    """
    principal = principal_of(request)
    if not principal.session_id and not principal.may(ADMIN):
        raise AccessError("An API key cannot manage keys; log in.", code="login_required", status=403)
    return principal


def person_of(request: Request) -> Principal:
    """Return whom the gateway has authenticated and who logged in.

    Raises:
        AccessError: 401 nobody, 403 an API key, whoever's it is.
    """
    principal = principal_of(request)
    if not principal.session_id:
        raise AccessError("An API key cannot change the password; log in.", code="login_required", status=403)
    return principal


def client_of(request: Request) -> str | None:
    """Return the address that a request came from, where the gateway says it."""
    return request.headers.get(CLIENT_HEADER)


def administrator_of(request: Request) -> Principal:
    """Return whom the gateway has authenticated, who is an administrator.

    Raises:
        AccessError: 401 nobody, 403 somebody else.
    """
    principal = principal_of(request)
    if not principal.may(ADMIN):
        raise AccessError("This needs the scope admin.", code="insufficient_scope", status=403)
    return principal
