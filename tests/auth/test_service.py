"""The auth service as a process: several at once, servers that go away, its schema, its audit."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from jose import jwt
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from auth.database import migrate
from auth.models import SCHEMA, Base
from auth.service import run
from auth.tokens import ROTATION_LEAD, new_signing_key
from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.messaging.mesh import Everyone
from headrace.settings import LogSettings, Settings
from tests.auth.system import (
    DEADLINE_SECONDS,
    PASSWORD,
    Auth,
    answers,
    client,
    eventually,
    instance,
    running,
    through_valve,
    with_auth,
)


async def statuses(auth: Auth) -> list[dict[str, Any]]:
    return [msgspec.json.decode(body) for body in await Everyone(auth.bus, auth.settings.namespace, "status").ask()]


async def test_instances_that_start_together_share_the_schema_the_key_and_the_load(settings: Settings) -> None:
    bootstrapped = with_auth(settings, bootstrap_admin="root", bootstrap_password="a lock and a key")
    async with client(settings) as auth, instance(bootstrapped), instance(bootstrapped):
        await answers(auth)

        async def both() -> bool:
            return len(await statuses(auth)) == 2

        await eventually(both)
        await auth.register("ada")
        verifier = await auth.verifier()
        logins = await asyncio.gather(*(auth.login("ada") for _ in range(8)))
        for pair in logins:
            assert verifier.verify(pair["access_token"]).subject == "ada"
            assert await auth.ask("refresh", {"refresh_token": pair["refresh_token"]})
        for _ in range(40):
            await auth.ask("jwks")

        assert len(verifier.key_ids) == 1
        assert len(await auth.rows("SELECT FROM auth.signing_keys")) == 1
        assert all(status["requests"] > 0 for status in await statuses(auth))


async def test_instances_share_the_limit_on_failed_logins(settings: Settings) -> None:
    strict = with_auth(settings, login_attempts=4)
    async with running(strict) as auth, instance(strict):

        async def both() -> bool:
            return len(await statuses(auth)) == 2

        await eventually(both)
        outcomes = [(await auth.refused("token", {"username": "a", "password": "b"})).status for _ in range(8)]

    assert outcomes == [401] * 4 + [429] * 4


async def test_a_restart_keeps_users_sessions_and_the_signing_key(settings: Settings) -> None:
    async with running(settings) as auth:
        await auth.register("ada")
        pair = await auth.login("ada")
    async with running(settings) as auth:
        assert (await auth.ask("me", {"token": pair["access_token"]}))["username"] == "ada"
        assert await auth.ask("refresh", {"refresh_token": pair["refresh_token"]})


async def test_while_postgres_is_away_requests_are_refused_and_afterwards_served(settings: Settings) -> None:
    async with (
        through_valve(settings.postgres_url.get_secret_value()) as (url, valve),
        running(settings.model_copy(update={"postgres_url": SecretStr(url)})) as auth,
    ):
        await auth.register("ada")
        pair = await auth.login("ada")

        valve.cut()
        for endpoint, body in (
            ("token", {"username": "ada", "password": PASSWORD}),
            ("register", {"username": "bob", "password": PASSWORD}),
            ("refresh", {"refresh_token": pair["refresh_token"]}),
            ("me", {"token": pair["access_token"]}),
            ("jwks", None),
        ):
            error = await auth.refused(endpoint, body)
            assert (error.status, error.code) == (503, "postgres_unavailable")
            assert error.retry_after_seconds

        valve.mend()
        assert await eventually(lambda: auth.login("ada"))


async def test_a_postgres_that_hangs_is_told_before_the_callers_deadline(settings: Settings) -> None:
    async with (
        through_valve(settings.postgres_url.get_secret_value()) as (url, valve),
        running(settings.model_copy(update={"postgres_url": SecretStr(url)})) as auth,
    ):
        await auth.register("ada")

        valve.freeze()
        refusals = await asyncio.gather(
            *(auth.refused("refresh", {"refresh_token": f"hrr_{number}"}) for number in range(20))
        )

        login = await auth.refused("token", {"username": "ada", "password": PASSWORD})

        assert (login.status, login.code) == (503, "postgres_unavailable")
        assert {(error.status, error.code) for error in refusals} == {(503, "postgres_unavailable")}
        valve.mend()
        assert await eventually(lambda: auth.login("ada"))


async def test_the_service_waits_for_postgres_at_its_start(settings: Settings) -> None:
    async with through_valve(settings.postgres_url.get_secret_value()) as (url, valve):
        valve.cut()
        async with (
            client(settings) as auth,
            instance(settings.model_copy(update={"postgres_url": SecretStr(url)})),
        ):
            with pytest.raises(UnavailableError) as error:
                await auth.ask("jwks")
            assert error.value.code == "auth_unavailable"

            valve.mend()
            await answers(auth)


async def test_a_service_that_waits_for_postgres_can_be_stopped(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"postgres_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")})
    stop = asyncio.Event()
    service = asyncio.create_task(run(nowhere, stop))
    await asyncio.sleep(0)

    stop.set()

    await asyncio.wait_for(service, DEADLINE_SECONDS)


async def test_migrations_make_the_tables_that_the_models_describe(settings: Settings) -> None:
    url = settings.postgres_url.get_secret_value()
    await asyncio.gather(*(migrate(url) for _ in range(3)))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table_schema": SCHEMA,
                "include_schemas": True,
                "include_name": lambda name, kind, _parents: kind != "schema" or name in (SCHEMA, None),
            },
        )
        return list(compare_metadata(context, Base.metadata))

    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1))
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


async def test_a_key_file_signs_instead_of_postgres(settings: Settings, tmp_path: Path) -> None:
    old, new = (new_signing_key(datetime.now(UTC)) for _ in range(2))
    file = tmp_path / "signing.pem"
    file.write_text(new.private_pem + old.private_pem)

    async with running(with_auth(settings, signing_key_file=file)) as auth:
        await auth.register("ada")
        verifier = await auth.verifier()

        assert verifier.key_ids == {new.kid, old.kid}
        assert verifier.verify((await auth.login("ada"))["access_token"]).subject == "ada"


async def test_a_rotated_key_is_published_before_it_signs_and_signs_when_all_had_time_to_fetch_it(
    settings: Settings,
) -> None:
    administered = with_auth(settings, bootstrap_admin="root", bootstrap_password="a lock and a key")
    async with running(administered) as auth:
        root = await auth.verified((await auth.login("root", "a lock and a key"))["access_token"])
        (first,) = (await auth.verifier()).key_ids

        rotated = await auth.ask("signing.rotate", acts_for=root)
        waiting = await auth.verifier()
        before = (await auth.login("root", "a lock and a key"))["access_token"]

        assert waiting.key_ids == {first, rotated["kid"]}
        assert abs(datetime.fromisoformat(rotated["signs_from"]) - datetime.now(UTC) - ROTATION_LEAD) < timedelta(
            minutes=1
        )

        await auth.rows("UPDATE auth.signing_keys SET signs_from = now() WHERE signs_from > now() RETURNING kid")
        after = (await auth.login("root", "a lock and a key"))["access_token"]

        assert _kid(before) == first
        assert _kid(after) == rotated["kid"]
        assert waiting.verify(before).subject == waiting.verify(after).subject == "root"

        await auth.rows("UPDATE auth.signing_keys SET signs_from = signs_from - interval '1 day' RETURNING kid")
        again = await auth.ask("signing.rotate", acts_for=root)
        assert (await auth.verifier()).key_ids == {rotated["kid"], again["kid"]}


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_what_happens_is_audited(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    await auth.refused("token", {"username": "ada", "password": "guess again"}, client="192.0.2.7")
    await auth.refused("token", {"username": "my-secret-password", "password": "ada"})
    key = await auth.ask("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=ada)
    await auth.ask("keys.delete", {"id": key["id"]}, acts_for=ada)
    pair = await auth.login("ada")
    await auth.ask("revoke", {"token": pair["access_token"]})
    await auth.ask("refresh", {"refresh_token": pair["refresh_token"]})
    await auth.refused("refresh", {"refresh_token": pair["refresh_token"]})

    rows = await auth.rows("SELECT event, account, client FROM auth.audit ORDER BY id")

    assert [row["event"] for row in rows] == [
        "registered",
        "logged_in",
        "login_failed",
        "login_failed",
        "key_created",
        "key_deleted",
        "logged_in",
        "token_revoked",
        "refresh_reused",
    ]
    assert rows[2]["account"] == "ada"
    assert rows[2]["client"] == "192.0.2.7"
    # Somebody typed the password in the wrong field.
    assert rows[3]["account"].startswith("unknown:")


async def test_no_secret_reaches_the_log(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    root_logger = logging.getLogger()
    before = (root_logger.level, list(root_logger.handlers))
    telemetry.configure_logs(LogSettings(level="debug", format="json"), "auth")
    try:
        async with running(settings) as auth:
            ada = await auth.newcomer("ada")
            pair = await auth.login("ada")
            again = await auth.ask("refresh", {"refresh_token": pair["refresh_token"]})
            key = await auth.ask("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=ada)
            await auth.ask("verify_key", {"key": key["key"]})
            await auth.refused("token", {"username": "wrong-field-secret", "password": "wrong-guess-secret"})
            await auth.refused("register", {"username": "bob", "password": "weak\x00secret"})
            await auth.refused("register", b'{"username": "bob", "password": "broken-json-secret')
            await auth.rows("ALTER TABLE auth.api_keys RENAME TO gone")
            await auth.refused("verify_key", {"key": key["key"]})
            private = await auth.rows("SELECT private_pem FROM auth.signing_keys")
    finally:
        root_logger.setLevel(before[0])
        root_logger.handlers = before[1]
    written = "".join(capfd.readouterr())

    assert "logged_in" in written
    assert "handler_failed" in written
    secrets = [
        PASSWORD,
        *(pair[name] for name in ("access_token", "refresh_token")),
        *(again[name] for name in ("access_token", "refresh_token")),
        key["key"].split("_", 2)[2],
        "wrong-field-secret",
        "wrong-guess-secret",
        "weak",
        "broken-json-secret",
        private[0]["private_pem"].splitlines()[1],
    ]
    assert [secret for secret in secrets if secret in written] == []
