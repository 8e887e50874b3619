"""API keys: for machines, and never stronger than who made them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from auth.keys import MAX_KEYS
from headrace.revocations import watch_revocations
from headrace.settings import Settings
from headrace.tokens import Principal
from tests.auth.system import Auth, eventually, running, with_auth


async def made(auth: Auth, owner: Principal, *scopes: str, **more: Any) -> dict[str, Any]:
    body = {"name": "nightly import", "scopes": list(scopes) or ["documents:write"], **more}
    answer: dict[str, Any] = await auth.ask("keys.create", body, acts_for=owner)
    return answer


async def verified(auth: Auth, key: str) -> dict[str, Any]:
    answer: dict[str, Any] = await auth.ask("verify_key", {"key": key})
    return answer


async def test_a_key_speaks_for_its_owner_with_its_own_scopes(auth: Auth) -> None:
    ada = await auth.newcomer("ada")

    key = await made(auth, ada, "documents:write:invoices")
    principal = await verified(auth, key["key"])

    assert principal["subject"] == "ada"
    assert principal["scopes"] == ["documents:write:invoices"]
    assert principal["token_id"] == key["id"]
    assert principal["session_id"] == ""
    assert principal["expires_at"] > datetime.now(UTC).timestamp() + 10**9


async def test_a_key_is_shown_once_and_kept_as_a_digest(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    key = await made(auth, ada)
    secret = key["key"].split("_", 2)[2]

    listed = await auth.ask("keys.list", acts_for=ada)

    assert listed == [{name: value for name, value in key.items() if name != "key"}]
    assert secret not in str(await auth.rows("SELECT * FROM auth.api_keys"))
    assert secret not in str(await auth.rows("SELECT * FROM auth.audit"))


@pytest.mark.parametrize("scope", ["admin", "dead:read", "dead:write"])
async def test_a_key_cannot_hold_what_its_owner_does_not(auth: Auth, scope: str) -> None:
    ada = await auth.newcomer("ada")

    error = await auth.refused("keys.create", {"name": "k", "scopes": ["documents:read", scope]}, acts_for=ada)

    assert (error.status, error.code) == (403, "scope_not_held")
    assert scope in error.detail


async def test_a_narrowed_login_cannot_make_a_wider_key(auth: Auth) -> None:
    await auth.register("ada")
    narrow = await auth.verified((await auth.login("ada", scope="documents:write:invoices"))["access_token"])

    wider = await auth.refused("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=narrow)

    assert wider.code == "scope_not_held"
    assert await made(auth, narrow, "documents:write:invoices")


async def test_a_key_loses_what_its_owner_loses(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    key = await made(auth, ada, "documents:write:invoices", "analytics:read")

    await auth.rows("UPDATE auth.users SET scopes = '{analytics:read}' RETURNING id")

    assert (await verified(auth, key["key"]))["scopes"] == ["analytics:read"]


async def test_an_administrators_key_may_make_keys(settings: Settings) -> None:
    administered = with_auth(settings, bootstrap_admin="root", bootstrap_password="a lock and a key")
    async with running(administered) as auth:
        root = await auth.verified((await auth.login("root", "a lock and a key"))["access_token"])
        machine = msgspec.convert(await verified(auth, (await made(auth, root, "admin"))["key"]), Principal)

        assert (await verified(auth, (await made(auth, machine, "dead:read"))["key"]))["scopes"] == ["dead:read"]


async def test_a_key_cannot_make_or_delete_keys(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    key = await made(auth, ada)
    machine = Principal("ada", frozenset({"documents:write"}), key["id"], "", 2**40)

    for endpoint, body in (
        ("keys.create", {"name": "k", "scopes": ["documents:write"]}),
        ("keys.delete", {"id": key["id"]}),
    ):
        error = await auth.refused(endpoint, body, acts_for=machine)
        assert (error.status, error.code) == (403, "login_required")


async def test_a_malformed_wish_is_refused_at_its_field(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    malformed: list[tuple[object, str]] = [
        ({"scopes": ["documents:write"]}, "/name"),
        ({"name": "", "scopes": ["documents:write"]}, "/name"),
        ({"name": "a\nb", "scopes": ["documents:write"]}, "/name"),
        ({"name": "n" * 65, "scopes": ["documents:write"]}, "/name"),
        ({"name": "k"}, "/scopes"),
        ({"name": "k", "scopes": []}, "/scopes"),
        ({"name": "k", "scopes": ["everything"]}, "/scopes/0"),
        ({"name": "k", "scopes": ["documents:write:In Voices"]}, "/scopes/0"),
        ({"name": "k", "scopes": ["dead:read:invoices"]}, "/scopes/0"),
        ({"name": "k", "scopes": ["documents:write"] * 33}, "/scopes"),
        ({"name": "k", "scopes": ["documents:write"], "expires_in": 0}, "/expires_in"),
        ({"name": "k", "scopes": ["documents:write"], "expires_in": 10**12}, "/expires_in"),
        ({"name": "k", "scopes": ["documents:write"], "owner": "root"}, "/owner"),
    ]
    for body, pointer in malformed:
        error = await auth.refused("keys.create", body, acts_for=ada)
        assert (error.status, error.code, error.errors[0].pointer) == (422, "invalid_request", pointer)


async def test_a_key_expires(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    key = await made(auth, ada, expires_in=3600)
    about_an_hour = datetime.now(UTC) + timedelta(hours=1)

    principal = await verified(auth, key["key"])
    assert abs(principal["expires_at"] - about_an_hour.timestamp()) < 60

    await auth.rows("UPDATE auth.api_keys SET expires_at = now() RETURNING id")
    error = await auth.refused("verify_key", {"key": key["key"]})
    assert (error.status, error.code) == (401, "key_expired")


async def test_a_deleted_key_dies_everywhere(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    key = await made(auth, ada)
    cached = Principal("ada", frozenset({"documents:write"}), key["id"], "", 2**40)
    async with watch_revocations(auth.bus, auth.settings.namespace) as revocations:
        heard: list[str] = []
        revocations.on_revoked.append(heard.append)

        assert await auth.ask("keys.delete", {"id": key["id"]}, acts_for=ada) is None

        assert (await auth.refused("verify_key", {"key": key["key"]})).code == "invalid_key"
        assert await auth.ask("keys.list", acts_for=ada) == []

        async def known() -> bool:
            return revocations.is_revoked(cached)

        assert await eventually(known)
        assert heard == [f"key.{key['id']}"]


async def test_a_key_may_be_deleted_twice_and_revoked_by_itself(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    first, second = await made(auth, ada), await made(auth, ada)

    for _ in range(2):
        await auth.ask("keys.delete", {"id": first["id"]}, acts_for=ada)
        await auth.ask("revoke", {"token": second["key"]})

    for key in (first, second):
        assert (await auth.refused("verify_key", {"key": key["key"]})).code == "invalid_key"


@pytest.mark.parametrize("key_id", ["", "0123456789abcdef", "\x00", "../../x"])
async def test_deleting_a_key_that_never_was_is_404(auth: Auth, key_id: str) -> None:
    error = await auth.refused("keys.delete", {"id": key_id}, acts_for=await auth.newcomer("ada"))

    assert (error.status, error.code) == (404, "unknown_key_id")


async def test_anothers_key_is_not_seen_and_not_deleted_but_by_an_administrator(settings: Settings) -> None:
    administered = with_auth(settings, bootstrap_admin="root", bootstrap_password="a lock and a key")
    async with running(administered) as auth:
        key = await made(auth, await auth.newcomer("ada"))
        bob = await auth.newcomer("bob")
        root = await auth.verified((await auth.login("root", "a lock and a key"))["access_token"])

        assert await auth.ask("keys.list", acts_for=bob) == []
        assert (await auth.refused("keys.delete", {"id": key["id"]}, acts_for=bob)).status == 404
        assert (await verified(auth, key["key"]))["subject"] == "ada"

        await auth.ask("keys.delete", {"id": key["id"]}, acts_for=root)
        assert (await auth.refused("verify_key", {"key": key["key"]})).code == "invalid_key"


async def test_forged_keys_are_refused(auth: Auth) -> None:
    key = (await made(auth, await auth.newcomer("ada")))["key"]
    prefix, key_id, secret = key.split("_", 2)
    forged = [
        "",
        "hr_",
        "nonsense",
        "x" * 100_000,
        "hr_\x00_\x00",
        key + "x",
        key[:-1],
        key.upper(),
        f"{prefix}_{key_id}_{'A' * 43}",
        f"{prefix}_{'0' * 16}_{secret}",
    ]

    for attempt in forged:
        error = await auth.refused("verify_key", {"key": attempt})
        assert (error.status, error.code) == (401, "invalid_key")


async def test_one_user_has_so_many_keys_and_no_more(auth: Auth) -> None:
    ada = await auth.newcomer("ada")
    first = await made(auth, ada)
    await auth.rows(
        "INSERT INTO auth.api_keys (id, user_id, name, sha256, scopes, created_at) "
        "SELECT n::text, user_id, name, sha256, scopes, created_at "
        f"FROM auth.api_keys, generate_series(2, {MAX_KEYS}) n RETURNING id"
    )

    full = await auth.refused("keys.create", {"name": "k", "scopes": ["documents:write"]}, acts_for=ada)
    await auth.ask("keys.delete", {"id": first["id"]}, acts_for=ada)

    assert (full.status, full.code) == (409, "too_many_keys")
    assert await made(auth, ada)
