"""Answers about who calls: users, keys, tokens, and the audit of what they did."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from gateway.answers.common import EXAMPLE_TIME, Answer


class Account(Answer):
    """A user."""

    username: str
    scopes: list[str]

    example: ClassVar[Any] = {"username": "ada", "scopes": ["documents:write", "documents:read", "analytics:read"]}


class AuditEntry(BaseModel):
    """What somebody did to an account."""

    at: str
    by: str = Field(description="who did it")
    action: str = Field(description="such as logged_in, login_failed, password_changed, user_disabled, key_created")
    account: str = Field(description="whom it concerns; a digest where nobody has the name that was typed")
    client: str | None = Field(description="address that the request came from")
    detail: dict[str, Any] = Field(description="ids and names; never a secret")


class AuditPage(Answer):
    """The audit of accounts, newest first."""

    items: list[AuditEntry]
    next: str | None

    example: ClassVar[Any] = {
        "items": [
            {
                "at": "2026-01-06T14:03:27.415926Z",
                "by": "operator",
                "action": "user_disabled",
                "account": "ada",
                "client": None,
                "detail": {},
            }
        ],
        "next": "4711",
    }


class Caller(Answer):
    """Who the token speaks for, and what it allows."""

    username: str
    scopes: list[str]
    expires_at: int = Field(description="seconds since 1970")

    example: ClassVar[Any] = {
        "username": "ada",
        "scopes": ["analytics:read", "documents:write"],
        "expires_at": 1795421730,
    }


class Tokens(Answer):
    """A pair of tokens, as OAuth2 names them (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="seconds")
    refresh_token: str = Field(description="good for one use")
    scope: str = Field(description="what was granted, separated by spaces")

    example: ClassVar[Any] = {
        "access_token": "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "token_type": "bearer",
        "expires_in": 900,
        "refresh_token": "hrr_5Yd1V0yqk0mUuBq3m2rC0s7dQe2J9b1Xf4t8aLwPzNc",
        "scope": "documents:write documents:read analytics:read",
    }


class ApiKey(Answer):
    """An API key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None

    example: ClassVar[Any] = {
        "id": "0f3a9c1d5e7b2468",
        "name": "invoice importer",
        "scopes": ["documents:write:invoices"],
        "created_at": EXAMPLE_TIME,
        "expires_at": None,
    }


class NewApiKey(ApiKey):
    """An API key, shown this once. It is sent as a bearer token."""

    key: str

    example: ClassVar[Any] = {
        **ApiKey.example,
        "key": "hr_0f3a9c1d5e7b2468_5Yd1V0yqk0mUuBq3m2rC0s7dQe2J9b1Xf4t8aLwPzNc",
    }
