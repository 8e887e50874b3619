"""Alembic's entry: runs on the connection, in the transaction and under the lock that auth/database.py holds."""

from __future__ import annotations

from alembic import context

from auth.models import SCHEMA, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
)
context.run_migrations()
