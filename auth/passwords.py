"""Passwords: which ones will do, and argon2id in a bounded pool of threads. The only user of passlib."""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from passlib.context import CryptContext

from headrace.errors import FieldError, UnavailableError

MIN_CHARACTERS: Final = 8
# Well below passlib's own limit of 4096, past which it raises.
MAX_BYTES: Final = 1024

# OWASP's floor for argon2id. passlib's defaults cost five times as much, on every login.
_CONTEXT: Final = CryptContext(
    schemes=["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19456,
    argon2__time_cost=2,
    argon2__parallelism=1,
)

# The most used passwords of eight characters and more; guessing starts with these.
_COMMON_TEXT: Final = """
password password1 password12 password123 passw0rd p@ssw0rd p@ssword 12345678 123456789 1234567890 0123456789
87654321 987654321 qwertyui qwertyuiop qwerty123 qwerty12 1q2w3e4r 1q2w3e4r5t 1qaz2wsx q1w2e3r4 asdfghjk
asdfghjkl zxcvbnm1 abcd1234 abc12345 abcdefgh a1b2c3d4 iloveyou iloveyou1 sunshine princess football baseball
superman starwars trustno1 whatever computer internet michelle jennifer letmein1 welcome1 welcome123 admin123
administrator changeme changeme1 changeit default1 secret123 testtest test1234 headrace
"""
_COMMON: Final = frozenset(_COMMON_TEXT.split())

T = TypeVar("T")


def weakness(password: str, username: str) -> FieldError | None:
    """Return why a password will not do for a new account, or None."""
    text = _normal(password)
    folded = text.casefold()
    if not _usable(text):
        rule, advice = "malformed", f"Use at most {MAX_BYTES} bytes of text, without U+0000."
    elif len(text) < MIN_CHARACTERS:
        rule, advice = "too_short", f"Use at least {MIN_CHARACTERS} characters; a few words do well."
    elif folded in _COMMON or len(set(folded)) < 4 or folded == username.casefold():
        rule, advice = "too_common", "This one is among the first to be guessed; choose another."
    else:
        return None
    return FieldError("/password", rule, advice)


class Hasher:
    """Hashes a few passwords at a time and turns away those who would have to wait long.

    Hashing frees the interpreter lock, so it takes a core but does not hold up the event loop.
    """

    def __init__(self, threads: ThreadPoolExecutor, most_at_once: int) -> None:
        self._threads = threads
        self._most_at_once = most_at_once
        self._at_once = 0
        self._placed = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a password that will be hashed in the body, before the database is asked about it.

        A crowd at the door then leaves the database to the others.

        Raises:
            UnavailableError: too many hold one already.
        """
        if self._placed >= self._most_at_once:
            raise _saturated()
        self._placed += 1
        try:
            yield
        finally:
            self._placed -= 1

    async def hash(self, password: str) -> str:
        """Return the argon2id hash, parameters and salt included.

        Raises:
            UnavailableError: too many wait already.
        """
        text = _normal(password)
        return await self._run(lambda: _CONTEXT.hash(text))

    async def verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        """Return whether a password is right, and a new hash if the stored one is of another strength.

        Args:
            hashed: what is stored, or None for a user that does not exist; that takes as long.

        Raises:
            UnavailableError: too many wait already.
        """
        text = _normal(password)
        if not _usable(text):
            return False, None
        if hashed is None:
            await self._run(_CONTEXT.dummy_verify)
            return False, None
        return await self._run(lambda: _CONTEXT.verify_and_update(text, hashed))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._at_once >= self._most_at_once:
            raise _saturated()
        self._at_once += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._at_once -= 1


@contextlib.asynccontextmanager
async def open_hasher(threads: int, waiting: int) -> AsyncIterator[Hasher]:
    """Open a pool that hashes `threads` passwords at a time while at most `waiting` more wait."""
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        # The first dummy also makes the hash that it compares with: not on the first unknown user's time.
        await asyncio.get_running_loop().run_in_executor(pool, _CONTEXT.dummy_verify)
        yield Hasher(pool, threads + waiting)


def _saturated() -> UnavailableError:
    return UnavailableError("Too many people are logging in at once.", code="logins_saturated", retry_after_seconds=1)


def _normal(password: str) -> str:
    """Return the form that is hashed: the same keys typed on another system must give the same bytes (NIST 800-63B)."""
    return unicodedata.normalize("NFKC", password)


def _usable(text: str) -> bool:
    encodable = not any("\ud800" <= character <= "\udfff" for character in text)
    return encodable and "\x00" not in text and len(text.encode()) <= MAX_BYTES
