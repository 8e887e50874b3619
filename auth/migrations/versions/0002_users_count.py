"""How many users there were, minute by minute; in the public schema, where people look for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "users_count",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False, unique=True),
        schema="public",
    )
