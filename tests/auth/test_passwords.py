"""Passwords: how they are hashed, which will do, and what happens when many come at once."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from passlib.context import CryptContext

from auth import passwords
from auth.passwords import Hasher, open_hasher, weakness
from headrace.errors import UnavailableError
from tests.servers import until


@pytest.fixture
async def hasher() -> AsyncIterator[Hasher]:
    async with open_hasher(threads=2, waiting=8) as hasher:
        yield hasher


async def test_hashes_are_argon2id_at_owasps_floor(hasher: Hasher) -> None:
    hashed = await hasher.hash("a mill needs water")

    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_the_same_password_never_hashes_alike(hasher: Hasher) -> None:
    assert await hasher.hash("a mill needs water") != await hasher.hash("a mill needs water")


async def test_the_right_password_and_no_other_verifies(hasher: Hasher) -> None:
    hashed = await hasher.hash("a mill needs water")

    assert await hasher.verify("a mill needs water", hashed) == (True, None)
    assert await hasher.verify("a mill needs Water", hashed) == (False, None)
    assert await hasher.verify("a mill needs water", None) == (False, None)


async def test_a_hash_of_another_strength_is_renewed_at_login(hasher: Hasher) -> None:
    weaker = CryptContext(schemes=["argon2"], argon2__memory_cost=8192, argon2__time_cost=1, argon2__parallelism=1)

    right, renewed = await hasher.verify("a mill needs water", weaker.hash("a mill needs water"))

    assert right
    assert renewed is not None
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await hasher.verify("a mill needs water", renewed) == (True, None)


@pytest.mark.parametrize("password", ["x" * 1025, "é" * 513, "x" * 1_000_000, "nul\x00inside", "lone \ud800", "\udfff"])
async def test_what_could_not_be_anybodys_password_is_wrong_without_hashing(hasher: Hasher, password: str) -> None:
    hashed = await hasher.hash("a mill needs water")

    assert await hasher.verify(password, hashed) == (False, None)


class SlowContext:
    """Stands for argon2, and hashes until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.at_work = 0
        self.most_at_work = 0
        self._lock = threading.Lock()

    def _work(self) -> None:
        with self._lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        self.let_go.wait(30)
        with self._lock:
            self.at_work -= 1

    def hash(self, _password: str) -> str:
        self._work()
        return "hash"

    def dummy_verify(self) -> None:
        self._work()


async def test_few_hash_few_wait_and_the_rest_come_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hasher(threads=2, waiting=3) as hasher:
        slow = SlowContext()
        monkeypatch.setattr(passwords, "_CONTEXT", slow)
        try:
            inside: list[asyncio.Task[Any]] = [asyncio.create_task(hasher.hash("password")) for _ in range(4)]
            inside.append(asyncio.create_task(hasher.verify("password", None)))
            await asyncio.sleep(0)
            with pytest.raises(UnavailableError) as refusal:
                await hasher.hash("one too many")
            await until(lambda: slow.at_work == 2)
        finally:
            slow.let_go.set()
        await asyncio.gather(*inside)

        assert (refusal.value.code, refusal.value.status) == ("logins_saturated", 503)
        assert refusal.value.retry_after_seconds
        assert slow.most_at_work == 2
        assert await hasher.hash("there is room again") == "hash"


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("", "too_short"),
        ("seven77", "too_short"),
        ("🔑🔑🔑🔑🔑🔑🔑", "too_short"),
        ("aaaaaaaaaaaa", "too_common"),
        ("ababababab", "too_common"),
        ("password", "too_common"),
        ("PassWord123", "too_common"),
        ("12345678", "too_common"),
        ("ada.lovelace", "too_common"),
        ("Ada.Lovelace", "too_common"),
        ("nul\x00 inside", "malformed"),
        ("lone \ud800 surrogate", "malformed"),
        ("x" * 1025, "malformed"),
        ("correct horse", None),
        ("s3cret-mill", None),
        ("пароль на мельницу", None),
        ("ada.lovelace's mill", None),
    ],
)
def test_weak_passwords_are_told_why(password: str, rule: str | None) -> None:
    found = weakness(password, "Ada.Lovelace")

    assert (found and found.code) == rule
    assert found is None or found.pointer == "/password"


async def test_a_user_that_does_not_exist_costs_as_much_as_a_wrong_password() -> None:
    dummy: str = passwords._CONTEXT._dummy_hash  # type: ignore[attr-defined]  # the stubs do not know it
    costs = set(re.findall(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$", dummy))
    async with open_hasher(threads=1, waiting=0) as hasher:
        costs |= set(re.findall(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$", await hasher.hash("a mill needs water")))
        assert await hasher.verify("a mill needs water", None) == (False, None)

    assert len(costs) == 1


@pytest.mark.parametrize("wrong", ["x" * 4097, "x" * 1_000_000, "nul\x00", "\ud800", "🔑" * 300, ""])
async def test_what_no_hash_takes_is_just_wrong(wrong: str) -> None:
    async with open_hasher(threads=1, waiting=0) as hasher:
        hashed = await hasher.hash("a mill needs water")

        assert await hasher.verify(wrong, hashed) == (False, None)
        assert await hasher.verify(wrong, None) == (False, None)
