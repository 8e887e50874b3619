"""The tables of the `auth` schema in Postgres. No secret is stored that a reader of the table could use.

The one exception is `signing_keys`, for those who name no key file.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BLANK_SCHEMA,
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "auth"


class Base(DeclarativeBase):
    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_name)s_key",
            "ix": "%(table_name)s_%(column_0_name)s_idx",
        },
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        bytes: LargeBinary(),
        list[str]: ARRAY(Text()),
        dict[str, Any]: JSONB(),
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid(),
    }


class User(Base):
    __tablename__ = "users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    username: Mapped[str]
    password_hash: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]

    # Alice and alice would be one name to a human eye.
    __table_args__ = (Index("users_username_key", text("lower(username)"), unique=True),)


class RefreshToken(Base):
    """One row a token; those of one login share a `family`, and at most one of them is neither used nor revoked."""

    __tablename__ = "refresh_tokens"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    family: Mapped[uuid.UUID] = mapped_column(index=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    scopes: Mapped[list[str]]
    issued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class ApiKey(Base):
    """A revoked key keeps its row, so that deleting it again can tell the gateways again."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    name: Mapped[str]
    sha256: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class StoredSigningKey(Base):
    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    private_pem: Mapped[str]
    signs_from: Mapped[datetime]


class AuditEntry(Base):
    """What happened to whom. `account` is a digest for names that do not exist: people type passwords there."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime]
    event: Mapped[str]
    account: Mapped[str]
    actor: Mapped[str | None]
    client: Mapped[str | None]
    detail: Mapped[dict[str, Any]]

    __table_args__ = (
        Index("audit_account_at_idx", "account", "at"),
        # The limit on failed logins counts these.
        Index("audit_failed_client_at_idx", "client", "at", postgresql_where=text("event = 'login_failed'")),
    )


class UsersCount(Base):
    """How many users there were, by the job users_count; `id` is its run's."""

    __tablename__ = "users_count"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    timestamp: Mapped[datetime] = mapped_column(unique=True)

    # Where people look for it, and not among our own.
    __table_args__ = ({"schema": BLANK_SCHEMA},)
