"""The process of the auth service: opens everything, waits for its servers, answers until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Final

from auth.accounts import Accounts
from auth.administration import Administration
from auth.database import Database, migrate, open_database
from auth.endpoints import AuthService
from auth.jobs import jobs
from auth.passwords import open_hasher
from auth.signing import ensure_signing_key
from auth.tokens import keyring_of_pem
from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.job_runner import jobs_running
from headrace.messaging.connection import connect
from headrace.messaging.mesh import serve
from headrace.revocations import open_revocations, watch_revocations
from headrace.settings import Settings
from headrace.tokens import LEEWAY_SECONDS

log = telemetry.logger(__name__)

_BACKOFF_CEILING_SECONDS: Final = 5.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Be one instance of the auth service until `stop` is set; waits for Postgres as long as it takes.

    Raises:
        HeadraceError: the signing key or the first administrator in the settings will not do.
        UnavailableError: NATS was not there in `nats.down_seconds`.
        BusLostError: NATS went away for good.
    """
    auth, url = settings.auth, settings.postgres_url.get_secret_value()
    file_keyring = (
        keyring_of_pem(auth.signing_key_file.read_text(), datetime.now(UTC)) if auth.signing_key_file else None
    )
    async with (
        open_database(url) as database,
        open_hasher(auth.hash_threads, auth.hash_waiting) as hasher,
    ):
        accounts = Accounts(auth, database, hasher)
        if not await _prepared(url, database, accounts, stop):
            return
        async with connect(settings, "headrace-auth") as bus, watch_revocations(bus, settings.namespace) as revocations:
            # A revocation must outlast every copy of what it revokes.
            ttl_seconds = max(auth.access_seconds, int(settings.gateway.token_cache_seconds)) + 2 * LEEWAY_SECONDS
            bucket = await open_revocations(bus, settings.namespace, ttl_seconds, settings.nats.replicas)
            administration = Administration(auth, database, accounts, bucket)
            service = AuthService(auth, database, accounts, administration, bucket, revocations, file_keyring)
            async with (
                serve(bus, settings.namespace, "auth", service.handlers()),
                jobs_running(bus, settings, "auth", jobs(database, settings.jobs), stop),
            ):
                log.info("auth_ready")
                await stop.wait()


async def _prepared(url: str, database: Database, accounts: Accounts, stop: asyncio.Event) -> bool:
    """Return True when schema, signing key and first administrator are there; False when told to stop before."""
    wait_seconds = 0.25
    while not stop.is_set():
        try:
            await migrate(url)
            async with database.transaction(lock=True) as session:
                await ensure_signing_key(session)
            await accounts.bootstrap()
            return True
        except UnavailableError as error:
            log.warning("postgres_awaited", code=error.code, reason=error.detail, retry_in_seconds=wait_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await stop.wait()
        wait_seconds = min(2 * wait_seconds, _BACKOFF_CEILING_SECONDS)
    return False
