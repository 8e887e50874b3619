"""Users that are disabled, when a refresh token was issued, and the audit in order of time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("users", sa.Column("disabled_at", _MOMENT), schema="auth")
    # Those that are there already count as issued now, which is as safe as can be.
    issued = sa.Column("issued_at", _MOMENT, nullable=False, server_default=sa.func.now())
    op.add_column("refresh_tokens", issued, schema="auth")
