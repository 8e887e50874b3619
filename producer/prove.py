"""Asking the ledger and the stores, patiently, what became of the accepted documents."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from headrace.errors import UnavailableError
from headrace.tasks import end
from producer.proof import Books, Found, Proof, Recent, compare, fill_by_ids, fill_by_ledger

AT_ONCE: Final = 5000  # ids in one look-up

_POLL_SECONDS: Final = 0.25
# Books that others keep busy never close; past this they are taken as they are.
_CLOSE_SECONDS: Final = 5.0
_SAMPLE: Final = 200
_MOST_IDS_IN_MEMORY: Final = 2_000_000

ReadIds = Callable[[], Iterable[Sequence[bytes]]]
Say = Callable[[str], None]
Answered = TypeVar("Answered")


class Store(Protocol):
    """A place that documents end in."""

    @property
    def name(self) -> str: ...

    async def rows(self, ids: Sequence[bytes]) -> Iterable[bytes]:
        """Return the ids of the rows that belong to any of these ids; an id once for each of its rows."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """What a document must reach, and where it lies if it cannot."""

    sinks: Sequence[Store]
    dead: Store


@dataclass(frozen=True, slots=True)
class Ledger:
    """A pipeline's books.

    Attributes:
        read: returns them; counting takes a while, so it may be a count of before.
        before: as they were before the run.
    """

    read: Callable[[], Awaitable[Books]]
    before: Books


async def prove(
    accepted: int,
    *,
    unknown: int,
    ledger: Ledger | None,
    stores: Stores | None,
    read_ids: ReadIds,
    settle_seconds: float,
    ended_at: float | None = None,
    say: Say = lambda text: None,
) -> Proof:
    """Wait until the accepted documents have settled, then return what became of them.

    Args:
        accepted: how many were accepted; as many ids are in `read_ids()`.
        unknown: documents whose outcome the client does not know.
        settle_seconds: after so long without any progress, what is missing is missing.
        ended_at: when the sending ended, by `time.monotonic`; now by default.
        say: told what is going on.

    Raises:
        UnavailableError: a store stayed away for `settle_seconds`.
    """
    proof = Proof(level="none", accepted=accepted)
    patience = _Patience(settle_seconds, time.monotonic() if ended_at is None else ended_at)
    if stores is not None:
        await _prove_by_ids(proof, unknown, ledger, stores, read_ids, patience, say)
    elif ledger is not None:
        await _prove_by_ledger(proof, unknown, ledger, patience, say)
    else:
        proof.notes.append("Neither the ledger nor the stores could be asked, so nothing is proven.")
    return proof


async def _prove_by_ids(
    proof: Proof,
    unknown: int,
    ledger: Ledger | None,
    stores: Stores,
    read_ids: ReadIds,
    patience: _Patience,
    say: Say,
) -> None:
    look = partial(
        look_up,
        sinks=[_PatientStore(sink, patience.limit_seconds) for sink in stores.sinks],
        dead=_PatientStore(stores.dead, patience.limit_seconds),
    )
    # Looking everything up costs the stores more than it costs us, so it begins when a sample is there.
    sample = _sample(read_ids(), proof.accepted)
    found = await look([sample])
    while found.missing:
        say(f"{len(sample) - len(found.missing)} of {len(sample)} sampled documents are stored")
        if patience.over:
            break
        await asyncio.sleep(_POLL_SECONDS)
        found = patience.watch(found, await look([found.missing]))
    proof.settle_seconds = patience.seconds
    close_seconds = min(patience.limit_seconds, _CLOSE_SECONDS)
    # Beside the look-ups, for much of it is waiting: with the sample, everything is there as a rule.
    closing = asyncio.create_task(_closed_books(ledger, proof.accepted, close_seconds))
    try:
        ids = UniqueIds(read_ids, proof.accepted)
        found = await look(_told(ids, proof.accepted, say))
        late = bool(found.missing)
        while found.missing and not patience.over:
            say(f"{len(found.missing):,} documents are not stored yet")
            await asyncio.sleep(_POLL_SECONDS)
            found = patience.watch(found, await look(_portions(found.missing)))
            proof.settle_seconds = patience.seconds
        if ledger is not None:
            say("comparing the ledger")
        books = await closing
        if late:
            books = await _closed_books(ledger, proof.accepted, close_seconds)
    finally:
        await end(closing)
    fill_by_ids(proof, found, ids.repeated, books)
    if books is not None:
        compare(proof, books, unknown)
    elif ledger is not None:
        proof.notes.append("The ledger was not counted in time, so it is not compared.")


async def _prove_by_ledger(proof: Proof, unknown: int, ledger: Ledger, patience: _Patience, say: Say) -> None:
    enough_at = float("inf")
    last = Books()
    recent = Recent()
    while True:
        books = (await _patiently(ledger.read, patience.limit_seconds)).since(ledger.before)
        current = recent.holds(books)
        say(f"{books.placed:,} stored or dead, {books.in_flight:,} in flight")
        if current and books.placed >= proof.accepted:
            enough_at = min(enough_at, time.monotonic())
        # Another count that finds no more is no progress, but one that is still being made is none of ours.
        if not current or books.placed != last.placed:
            patience.moved()
        last = books
        closed = current and books.accepted >= proof.accepted and not books.in_flight and not books.unaccounted
        # What others send keeps the books open; then enough is enough.
        if closed or patience.over or time.monotonic() > enough_at + _CLOSE_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    proof.settle_seconds = patience.seconds
    if not current:
        proof.notes.append("The ledger was not counted in time, so nothing is proven.")
        return
    fill_by_ledger(proof, books)
    compare(proof, books, unknown)


async def _closed_books(ledger: Ledger | None, accepted: int, wait_seconds: float) -> Books | None:
    """Return the books once everything in them is at rest, or as they are after a while; None if they cannot be had."""
    if ledger is None:
        return None
    deadline = time.monotonic() + wait_seconds
    recent = Recent()
    while True:
        current = None
        with contextlib.suppress(UnavailableError):
            books = (await ledger.read()).since(ledger.before)
            current = books if recent.holds(books) else None
        if current and current.accepted >= accepted and not (current.in_flight or current.unaccounted):
            return current
        if time.monotonic() >= deadline:
            return current
        await asyncio.sleep(_POLL_SECONDS)


async def look_up(batches: Iterable[Sequence[bytes]], sinks: Sequence[Store], dead: Store) -> Found:
    """Return what the stores hold of these ids. A document is stored when every sink has it."""
    found = Found()
    for batch in batches:
        rows = await asyncio.gather(*(store.rows(batch) for store in (*sinks, dead)))
        # A document may well have several dead letters, one from each stage that refused it.
        *in_sinks, letters = [Counter(one) for one in rows]
        for identity in batch:
            times = [there[identity] for there in in_sinks]
            if not all(times) and identity not in letters:
                found.missing.append(identity)
                continue
            for sink, number in zip(sinks, times, strict=True):
                found.stored_by[sink.name] += number > 0
            found.duplicated += max(times) > 1
            if all(times):
                found.stored += 1
                # Stored and dead at once would be processed again by a replay.
                found.duplicated += identity in letters
            else:
                found.dead += 1
    return found


class UniqueIds:
    """Ids without repetitions, in portions; `repeated` counts those left out so far. Memory is bounded."""

    def __init__(self, read: ReadIds, count: int) -> None:
        self._read = read
        # One pass over the files for so many ids; the last byte of an id is random in every version of UUID we use.
        self._passes = min(256, count // _MOST_IDS_IN_MEMORY + 1)
        self.repeated = 0

    def __iter__(self) -> Iterator[list[bytes]]:
        for one in range(self._passes):
            seen: set[bytes] = set()
            for batch in self._read():
                mine = [identity for identity in batch if identity[-1] % self._passes == one]
                fresh = [identity for identity in dict.fromkeys(mine) if identity not in seen]
                seen.update(fresh)
                self.repeated += len(mine) - len(fresh)
                if fresh:
                    yield fresh


class _Patience:
    """How long ago something last moved, and how long it is since the sending ended."""

    def __init__(self, limit_seconds: float, ended_at: float) -> None:
        self.limit_seconds = limit_seconds
        self._ended_at = ended_at
        self._moved_at = time.monotonic()

    def moved(self) -> None:
        self._moved_at = time.monotonic()

    def watch(self, earlier: Found, later: Found) -> Found:
        """Return both together; fewer missing is progress."""
        if len(later.missing) < len(earlier.missing):
            self.moved()
        return earlier.then(later)

    @property
    def over(self) -> bool:
        return time.monotonic() - self._moved_at >= self.limit_seconds

    @property
    def seconds(self) -> float:
        """Return the time since the sending ended."""
        return round(time.monotonic() - self._ended_at, 3)


async def _patiently(ask: Callable[[], Awaitable[Answered]], seconds: float) -> Answered:
    """Return what `ask` returns, asking again while the answering service is away; faults are tested under load too.

    Raises:
        UnavailableError: it stayed away for so long.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except UnavailableError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS)


class _PatientStore:
    """A store that is asked patiently."""

    def __init__(self, store: Store, seconds: float) -> None:
        self.name = store.name
        self._store = store
        self._seconds = seconds

    async def rows(self, ids: Sequence[bytes]) -> Iterable[bytes]:
        return await _patiently(partial(self._store.rows, ids), self._seconds)


def _sample(batches: Iterable[Sequence[bytes]], count: int) -> list[bytes]:
    """Return ids from the whole run, evenly spread, and its last ones, which arrive last."""
    step = max(1, count // _SAMPLE)
    place = 0
    chosen: list[bytes] = []
    tail: list[bytes] = []
    for batch in batches:
        chosen += batch[-place % step :: step]
        place += len(batch)
        tail = [*tail, *batch][-_SAMPLE // 2 :]
    return list(dict.fromkeys(chosen + tail))


def _told(portions: Iterable[list[bytes]], count: int, say: Say) -> Iterator[list[bytes]]:
    done = 0
    for portion in portions:
        yield portion
        done += len(portion)
        say(f"looked up {done:,} of {count:,} documents in the stores")


def _portions(ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]
