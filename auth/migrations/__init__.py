"""Alembic's scripts for the `auth` schema; run at the start of the service, never edited once released."""
