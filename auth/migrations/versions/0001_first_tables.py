"""Users, refresh tokens, API keys, signing keys and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False, server_default=sa.func.now()),
        schema="auth",
    )
    op.create_index("users_username_key", "users", [sa.text("lower(username)")], unique=True, schema="auth")
    op.create_table(
        "refresh_tokens",
        sa.Column("sha256", sa.LargeBinary, primary_key=True),
        sa.Column("family", sa.Uuid, nullable=False, index=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("auth.users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
        sa.Column("revoked_at", _MOMENT),
        schema="auth",
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("auth.users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT),
        sa.Column("revoked_at", _MOMENT),
        schema="auth",
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("private_pem", sa.Text, nullable=False),
        sa.Column("signs_from", _MOMENT, nullable=False),
        schema="auth",
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("client", sa.Text),
        sa.Column("detail", JSONB, nullable=False),
        schema="auth",
    )
    op.create_index("audit_account_at_idx", "audit", ["account", "at"], schema="auth")
    op.create_index(
        "audit_failed_client_at_idx",
        "audit",
        ["client", "at"],
        schema="auth",
        postgresql_where=sa.text("event = 'login_failed'"),
    )
