"""News of revocations reach whoever watches, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import time

import pytest
from nats.js.kv import KeyValue
from pydantic import SecretStr

from headrace.errors import UnavailableError
from headrace.messaging.connection import connect
from headrace.revocations import Revocations, open_revocations, revoke, watch_revocations
from headrace.settings import NatsSettings, Settings
from headrace.tokens import Principal
from tests.auth.system import DEADLINE_SECONDS, through_valve


def token(token_id: str, session_id: str = "s") -> Principal:
    return Principal("ada", frozenset(), token_id, session_id, 2**40)


async def heard(revocations: Revocations, principal: Principal) -> None:
    """Return when a principal is known to be revoked."""
    news = asyncio.Event()
    revocations.on_revoked.append(lambda _key: news.set())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not revocations.is_revoked(principal):
            news.clear()
            await news.wait()


async def test_a_revocation_reaches_a_watcher(settings: Settings) -> None:
    async with connect(settings, "test") as bus, watch_revocations(bus, settings.namespace) as revocations:
        bucket = await open_revocations(bus, settings.namespace, 60, 1)

        await revoke(bucket, "jti.t1")
        await heard(revocations, token("t1"))

        assert not revocations.is_revoked(token("t2"))


async def test_a_session_and_a_key_are_revoked_by_their_own_names(settings: Settings) -> None:
    async with connect(settings, "test") as bus, watch_revocations(bus, settings.namespace) as revocations:
        bucket = await open_revocations(bus, settings.namespace, 60, 1)

        await revoke(bucket, "sid.s1")
        await revoke(bucket, "key.k1")
        await heard(revocations, token("t1", "s1"))
        await heard(revocations, token("k1", ""))

        assert revocations.is_revoked(token("t2", "s1"))
        assert not revocations.is_revoked(token("k1", "s2"))
        assert not revocations.is_revoked(token("s1", ""))


async def test_what_was_revoked_before_is_loaded_first(settings: Settings) -> None:
    async with connect(settings, "test") as bus:
        bucket = await open_revocations(bus, settings.namespace, 60, 1)
        for number in range(600):
            await bucket.put(f"jti.t{number}", b"")

        async with watch_revocations(bus, settings.namespace) as revocations:
            await asyncio.wait_for(revocations.loaded.wait(), DEADLINE_SECONDS)

            assert all(revocations.is_revoked(token(f"t{number}")) for number in range(600))


async def test_a_watcher_that_came_before_the_bucket_is_not_loaded_until_it_is_there(settings: Settings) -> None:
    async with connect(settings, "test") as bus, watch_revocations(bus, settings.namespace) as revocations:
        assert not revocations.loaded.is_set()

        await open_revocations(bus, settings.namespace, 60, 1)

        await asyncio.wait_for(revocations.loaded.wait(), DEADLINE_SECONDS)


async def test_what_was_revoked_while_a_watcher_was_cut_off_reaches_it_afterwards(settings: Settings) -> None:
    async with through_valve(settings.nats_url.get_secret_value()) as (url, valve):
        far = settings.model_copy(update={"nats_url": SecretStr(url)})
        async with (
            connect(settings, "near") as near,
            connect(far, "far") as bus,
            watch_revocations(bus, settings.namespace) as revocations,
        ):
            bucket = await open_revocations(near, settings.namespace, 60, 1)
            await revoke(bucket, "jti.before")
            await heard(revocations, token("before"))

            valve.cut()
            await revoke(bucket, "jti.meanwhile")
            assert revocations.is_revoked(token("before"))
            assert not revocations.is_revoked(token("meanwhile"))
            valve.mend()
            await heard(revocations, token("meanwhile"))

            await revoke(bucket, "jti.after")
            await heard(revocations, token("after"))


async def test_a_revocation_that_could_not_be_written_is_an_error(settings: Settings) -> None:
    async with through_valve(settings.nats_url.get_secret_value()) as (url, valve):
        impatient = NatsSettings(ping_seconds=0.2)
        far = settings.model_copy(update={"nats_url": SecretStr(url), "nats": impatient})
        async with connect(far, "far") as bus:
            bucket = await open_revocations(bus, settings.namespace, 60, 1)
            valve.cut()

            with pytest.raises(UnavailableError) as error:
                await revoke(bucket, "jti.t1")

            assert error.value.code == "nats_unavailable"
            valve.mend()


async def test_the_bucket_keeps_entries_as_long_as_tokens_may_live(settings: Settings) -> None:
    async with connect(settings, "test") as bus:
        await open_revocations(bus, settings.namespace, 60, 1)
        bucket: KeyValue = await open_revocations(bus, settings.namespace, 900, 1)

        assert (await bucket.status()).ttl == 900


def test_memory_forgets_what_the_bucket_forgets() -> None:
    revocations = Revocations()
    now = time.time()
    revocations.add("jti.old", now + 1, now)
    revocations.add("jti.too-old", now - 1, now)

    revocations.add("jti.new", now + 60, now + 2)

    assert not revocations.is_revoked(token("old"))
    assert not revocations.is_revoked(token("too-old"))
    assert revocations.is_revoked(token("new"))


def test_a_name_is_news_once() -> None:
    revocations = Revocations()
    news: list[str] = []
    revocations.on_revoked.append(news.append)
    now = time.time()

    revocations.add("jti.t1", now + 60, now)
    revocations.add("jti.t1", now + 60, now)

    assert news == ["jti.t1"]
