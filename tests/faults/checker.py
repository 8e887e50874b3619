"""The checker: eight invariants over what was read from the journal, the stores, the books and the answers. Pure.

I1  no loss          what was promised is stored or dead
I2  once             one document in MongoDB, one row in Postgres; both hold the same
I3  closed books     stored and dead are apart, and together they are what was promised or unknown;
                     dead is only what asked for it
I4  nothing else     what is there was sent, with the same bytes; nothing of what was refused is there
I5  counters         Redis = rollups = a GROUP BY of the facts = a recount of the journal
I6  honest           every 429 and 503 says when to come again; no other 5xx than 503 and 504
I7  liveness         after the last fault all is ready and drained in time, without a hand on it
I8  bounded          memory, descriptors and connections do not grow from cycle to cycle
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.faults.journal import FAIL, OK, Fate, Outcome
from tests.faults.payload import Payload

# (metric, key, bucket in seconds since 1970) → (count, value)
Counts = Mapping[tuple[str, str, int], tuple[int, int | None]]

_SHOWN = 5
_OPERATOR_STATUSES: Final = frozenset({503, 504})
_GROWN_RSS_BYTES: Final = 96 << 20
_GROWN_DESCRIPTORS: Final = 24
_FEW_SAMPLES: Final = 12


@dataclass(frozen=True, slots=True)
class Stored:
    """One document as a store has it; `content` is the digest of its fields (`payload.content_of`)."""

    id: str
    name: str
    sha256: str
    content: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; `sha256` is of the bytes that it kept."""

    id: str
    name: str
    stage: str
    code: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process held at a moment."""

    process: str
    pid: int
    rss_bytes: int
    descriptors: int


@dataclass(frozen=True)
class Observed:
    """All that was read.

    Attributes:
        fates: of every document that was sent, by name.
        payloads: what each of them was.
        ledger: a GROUP BY over the facts.
        caught_up_seconds: from the end of the last fault until all was ready and drained; None if it never was.
    """

    fates: Mapping[str, Fate]
    payloads: Callable[[str], Payload]
    documents: Sequence[Stored]
    facts: Sequence[Stored]
    letters: Sequence[Letter]
    redis: Counts
    rollups: Counts
    ledger: Counts
    answers: Sequence[Outcome] = ()
    caught_up_seconds: float | None = 0.0
    caught_up_limit_seconds: float = 30.0
    usages: Sequence[Usage] = ()
    balanced: bool = True
    broken_journal: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant, with some of what broke it."""

    invariant: str
    what: str
    count: int
    some: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f": {', '.join(self.some)}{', …' if self.count > len(self.some) else ''}" if self.some else ""
        return f"{self.invariant}  {self.count} × {self.what}{shown}"


def check(observed: Observed) -> list[Violation]:
    """Return every violation; none when all holds."""
    parts = (_lost, _once, _books, _strangers, _counters, _honest, _alive, _bounded)
    return [violation for part in parts for violation in part(observed)]


def _lost(observed: Observed) -> Iterator[Violation]:
    landed = {one.name for one in observed.facts} | {one.name for one in observed.letters}
    promised = [one for one in observed.fates.values() if one.result == OK]
    yield from _violation("I1", "promised, neither stored nor dead", [o.name for o in promised if o.name not in landed])


def _once(observed: Observed) -> Iterator[Violation]:
    for store, rows in (("MongoDB", observed.documents), ("Postgres", observed.facts)):
        yield from _violation("I2", f"twice in {store} by id", _twice(one.id for one in rows))
        yield from _violation("I2", f"twice in {store} by name", _twice(one.name for one in rows))
    documents, facts = ({one.id: one.name for one in rows} for rows in (observed.documents, observed.facts))
    yield from _violation("I2", "in Postgres, not in MongoDB", [facts[one] for one in facts.keys() - documents.keys()])
    yield from _violation(
        "I2", "in MongoDB, not in Postgres", [documents[one] for one in documents.keys() - facts.keys()]
    )


def _books(observed: Observed) -> Iterator[Violation]:
    stored = {one.name for one in observed.facts} | {one.name for one in observed.documents}
    dead = {one.name for one in observed.letters}
    yield from _violation("I3", "both stored and dead", stored & dead)
    # Sent twice because the first answer was lost, it is refused twice.
    times = Counter(one.name for one in observed.letters)
    often = [name for name, n in times.items() if name in observed.fates and n > observed.fates[name].landings]
    yield from _violation("I3", "dead more often than it was sent", often)
    may = {name for name, one in observed.fates.items() if one.result != FAIL}
    unasked = may - {name for name in dead & may if observed.payloads(name).refused}
    blamed = [f"{one.name} ({one.stage}: {one.code})" for one in observed.letters if one.name in unasked]
    yield from _violation("I3", "dead without a reason of its own", blamed)
    yield from _violation(
        "I3", "stored, though it asked to be refused", [n for n in stored & may if observed.payloads(n).refused]
    )
    if not observed.balanced:
        yield Violation("I3", "the product's own ledger does not balance", 1)


def _strangers(observed: Observed) -> Iterator[Violation]:
    if observed.broken_journal:
        yield Violation("I4", observed.broken_journal, 1)
    fates = observed.fates
    there: list[Stored | Letter] = [*observed.documents, *observed.facts, *observed.letters]
    yield from _violation("I4", "there, never sent", {one.name for one in there if one.name not in fates})
    refused = {one.name for one in there if one.name in fates and fates[one.name].result == FAIL}
    yield from _violation("I4", "there, though it was refused for good", refused)
    known = [one for one in there if one.name in fates]
    yield from _violation(
        "I4", "under another id than was answered", {o.name for o in known if fates[o.name].id not in ("", o.id)}
    )
    yield from _violation(
        "I4",
        "with another digest than was sent",
        {o.name for o in known if observed.payloads(o.name).sha256 != o.sha256},
    )
    yield from _violation(
        "I4",
        "with other content than was sent",
        {o.name for o in known if isinstance(o, Stored) and observed.payloads(o.name).content != o.content},
    )


def _counters(observed: Observed) -> Iterator[Violation]:
    recount = counts_of(observed.payloads(one.name) for one in observed.facts if one.name in observed.fates)
    timeless = {key: value for key, value in observed.ledger.items() if key[0] != "per_minute"}
    for left, right, what in (
        (timeless, recount, "a GROUP BY of the facts is not a recount of the journal"),
        (observed.rollups, observed.ledger, "rollups are not a GROUP BY of the facts"),
        (observed.redis, observed.rollups, "Redis is not the rollups"),
    ):
        wrong = [key for key in left.keys() | right.keys() if left.get(key) != right.get(key)]
        yield from _violation("I5", what, [f"{k[0]}{k[1]}@{k[2]} {left.get(k)} ≠ {right.get(k)}" for k in wrong])


def counts_of(payloads: Iterable[Payload]) -> dict[tuple[str, str, int], tuple[int, int | None]]:
    """Return what the metrics without a time must say of these documents, by an arithmetic of their own."""
    sizes: dict[str, list[int]] = {}
    for one in payloads:
        sizes.setdefault(one.group, []).append(one.size)
    counts: dict[tuple[str, str, int], tuple[int, int | None]] = {}
    for group, of_group in sizes.items():
        key = key_of(group)
        counts["by_group", key, 0] = (len(of_group), None)
        counts["sizes", key, 0] = (len(of_group), sum(of_group))
        counts["least", key, 0] = (len(of_group), min(of_group))
    return counts


def key_of(group: str) -> str:
    """Return a group as rollups write their keys: a JSON list."""
    return f'["{group}"]'


def _honest(observed: Observed) -> Iterator[Violation]:
    answers = observed.answers
    mute = [one for one in answers if one.status in (429, 503) and not one.retry_after_seconds]
    yield from _violation("I6", "429 or 503 without Retry-After", [f"{one.status} {one.code}" for one in mute])
    wrong = [one for one in answers if one.status >= 500 and one.status not in _OPERATOR_STATUSES]
    yield from _violation("I6", "5xx that is neither 503 nor 504", [f"{one.status} {one.code}" for one in wrong])
    odd = [one for one in answers if (300 <= one.status < 500 and one.status != 429) or one.status in (200, 207)]
    yield from _violation("I6", "answer that a sound document must not get", [f"{o.status} {o.code}" for o in odd])


def _alive(observed: Observed) -> Iterator[Violation]:
    seconds, limit = observed.caught_up_seconds, observed.caught_up_limit_seconds
    if seconds is None:
        yield Violation("I7", "never ready and drained after the last fault", 1)
    elif seconds > limit:
        yield Violation("I7", f"ready and drained only {seconds:.1f} s after the last fault, not {limit:g}", 1)


def _bounded(observed: Observed) -> Iterator[Violation]:
    by_pid: dict[tuple[str, int], list[Usage]] = {}
    for one in observed.usages:
        by_pid.setdefault((one.process, one.pid), []).append(one)
    for (process, pid), of_one in by_pid.items():
        # The first samples are of a process that warms up.
        of_one = of_one[len(of_one) // 4 :]
        if len(of_one) < _FEW_SAMPLES:
            continue
        third = len(of_one) // 3
        early, late = of_one[:third], of_one[-third:]
        for what, limit, of in (
            ("bytes of memory", _GROWN_RSS_BYTES, lambda usage: usage.rss_bytes),
            ("descriptors", _GROWN_DESCRIPTORS, lambda usage: usage.descriptors),
        ):
            grown = median(map(of, late)) - median(map(of, early))
            if grown > limit:
                yield Violation("I8", f"{process} ({pid}) grew by {grown:.0f} {what} while it ran", 1)


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, times in Counter(values).items() if times > 1]


def _violation(invariant: str, what: str, some: Collection[str]) -> Iterator[Violation]:
    if some:
        yield Violation(invariant, what, len(some), tuple(sorted(some)[:_SHOWN]))
