"""The checker catches what it is for: every kind of damage to a sound record is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.document import Envelope, derived_id
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.mongo import Documents
from tests.faults.checker import Counts, Letter, Observed, Stored, Usage, Violation, check, counts_of
from tests.faults.journal import FAIL, OK, UNKNOWN, Fate, Intent, Journal, Outcome, Result, fates, read
from tests.faults.observe import Stores, observe_stores
from tests.faults.payload import payload
from tests.workers.plant import open_plant
from workers.documents import StoreDocuments

SEED = 7
PIPELINES = Path(__file__).parent / "pipelines"
NUMBER = 12_000


@lru_cache(maxsize=1)
def sound() -> Observed:
    """Return the record of a run in which all went well: most promised, some refused, some unknown of both kinds."""
    known: dict[str, Fate] = {}
    stored: list[Stored] = []
    letters: list[Letter] = []
    for number in range(NUMBER):
        name = f"s0-{number}-0"
        one, document_id = payload(SEED, name), derived_id("key", name)
        result = FAIL if number % 100 == 0 else UNKNOWN if number % 50 == 25 else OK
        known[name] = Fate(name, result, document_id if result == OK else "")  # type: ignore[arg-type]
        if result == FAIL or number % 100 == 75:
            continue
        if one.refused:
            letters.append(Letter(document_id, name, "refine", "transform_refused", one.sha256))
        else:
            stored.append(Stored(document_id, name, one.sha256, one.content))
    counts = counts_of(payload(SEED, one.name) for one in stored)
    minutes = {("per_minute", "[]", 60): (len(stored), None)}
    every = {**counts, **minutes}
    remembered = lru_cache(maxsize=None)(lambda name: payload(SEED, name))
    return Observed(known, remembered, stored, list(stored), letters, every, every, every)


def without(rows: list[Stored]) -> list[Stored]:
    """Drop one document in 10,000."""
    return [row for number, row in enumerate(rows) if number % 10_000 != 5_000]


def off_by_one(counts: Counts) -> Counts:
    key = next(key for key in counts if key[0] == "sizes")
    count, value = counts[key]
    assert value is not None
    return {**counts, key: (count, value + 1)}


def ghost(observed: Observed) -> Observed:
    """Store a document that was answered with a 503."""
    name = next(
        one.name for one in observed.fates.values() if one.result == FAIL and not payload(SEED, one.name).refused
    )
    one = payload(SEED, name)
    row = Stored(derived_id("key", name), name, one.sha256, one.content)
    stored = [*observed.facts, row]
    counts = {**counts_of(payload(SEED, s.name) for s in stored), ("per_minute", "[]", 60): (len(stored), None)}
    return replace(observed, facts=stored, documents=stored, redis=counts, rollups=counts, ledger=counts)


def first_changed(rows: list[Stored], **changes: str) -> list[Stored]:
    return [replace(rows[0], **changes), *rows[1:]]


def blamed(one: Stored) -> Letter:
    return Letter(one.id, one.name, "documents", "attempts_exhausted", one.sha256)


def refused_answer(**changes: object) -> Outcome:
    outcome = Outcome("k", FAIL, 503, "stream_full", 1.0, 0.1)
    for name, value in changes.items():
        setattr(outcome, name, value)
    return outcome


MUTATIONS: dict[str, tuple[Callable[[Observed], Observed], set[tuple[str, str]]]] = {
    "documents drops one in 10,000": (
        lambda o: replace(o, documents=without(list(o.documents))),
        {("I2", "in Postgres, not in MongoDB")},
    ),
    "facts drops one in 10,000": (
        lambda o: replace(o, facts=without(list(o.facts))),
        {("I1", "promised, neither stored nor dead"), ("I2", "in MongoDB, not in Postgres"),
         ("I5", "a GROUP BY of the facts is not a recount of the journal")},
    ),
    "documents writes one twice": (
        lambda o: replace(o, documents=[*o.documents, replace(o.documents[3], id=derived_id("another"))]),
        {("I2", "twice in MongoDB by name"), ("I2", "in MongoDB, not in Postgres"),
         ("I4", "under another id than was answered")},
    ),
    "facts writes one twice": (
        lambda o: replace(o, facts=[*o.facts, o.facts[3]]),
        {("I2", "twice in Postgres by id"), ("I2", "twice in Postgres by name"),
         ("I5", "a GROUP BY of the facts is not a recount of the journal")},
    ),
    "a rollup is off by one": (
        lambda o: replace(o, rollups=off_by_one(o.rollups)),
        {("I5", "rollups are not a GROUP BY of the facts"), ("I5", "Redis is not the rollups")},
    ),
    "a counter in Redis is off by one": (
        lambda o: replace(o, redis=off_by_one(o.redis)), {("I5", "Redis is not the rollups")},
    ),
    "a counter is missing in Redis": (
        lambda o: replace(o, redis={k: v for k, v in o.redis.items() if k[0] != "least"}),
        {("I5", "Redis is not the rollups")},
    ),
    "a ghost is stored after a 503": (ghost, {("I4", "there, though it was refused for good")}),
    "bytes change on the way": (
        lambda o: replace(o, documents=first_changed(list(o.documents), sha256="00")),
        {("I4", "with another digest than was sent")},
    ),
    "what is stored is not what was sent": (
        lambda o: replace(o, documents=first_changed(list(o.documents), content="00")),
        {("I4", "with other content than was sent")},
    ),
    "a document comes from nowhere": (
        lambda o: replace(o, documents=[*o.documents, Stored("x", "nobody", "0", "0")]),
        {("I4", "there, never sent"), ("I2", "in MongoDB, not in Postgres")},
    ),
    "a dead letter is lost": (
        lambda o: replace(o, letters=o.letters[1:]), {("I1", "promised, neither stored nor dead")},
    ),
    "a dead letter is written twice": (
        lambda o: replace(o, letters=[*o.letters, o.letters[0]]), {("I3", "dead more often than it was sent")},
    ),
    "an innocent is blamed": (
        lambda o: replace(o, letters=[*o.letters, blamed(o.facts[0])]),
        {("I3", "both stored and dead"), ("I3", "dead without a reason of its own")},
    ),
    "a 503 says not when to come again": (
        lambda o: replace(o, answers=[refused_answer(retry_after_seconds=None)]),
        {("I6", "429 or 503 without Retry-After")},
    ),
    "a 500 is answered": (
        lambda o: replace(o, answers=[refused_answer(status=500, code="internal_error")]),
        {("I6", "5xx that is neither 503 nor 504")},
    ),
    "a sound document is called unsound": (
        lambda o: replace(o, answers=[refused_answer(status=422)]),
        {("I6", "answer that a sound document must not get")},
    ),
    "it never catches up": (
        lambda o: replace(o, caught_up_seconds=None), {("I7", "never ready and drained after the last fault")},
    ),
    "descriptors leak": (
        lambda o: replace(o, usages=[Usage("gateway", 1, 1 << 20, 20 + 2 * n) for n in range(60)]),
        {("I8", "gateway (1) grew by 60 descriptors while it ran")},
    ),
    "the product says that its ledger is open": (
        lambda o: replace(o, balanced=False), {("I3", "the product's own ledger does not balance")},
    ),
}  # fmt: skip


def test_a_sound_record_breaks_nothing() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_damage_is_caught_and_named(name: str) -> None:
    mutate, expected = MUTATIONS[name]

    assert named(check(mutate(sound()))) == expected


def named(violations: list[Violation]) -> set[tuple[str, str]]:
    return {(one.invariant, one.what) for one in violations}


def test_a_violation_names_documents() -> None:
    dropped = sound().facts[5_000].name
    [lost, *_] = check(replace(sound(), facts=without(list(sound().facts))))

    assert (lost.count, dropped in lost.some) == (1, True)
    assert dropped in str(lost)


def test_what_a_journal_knows_of_a_request(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    attempts: dict[str, list[tuple[Result, list[str]]]] = {
        "promised at last": [(FAIL, []), (UNKNOWN, []), (OK, ["1"])],
        "promised, then unknown": [(OK, ["2"]), (UNKNOWN, [])],
        "refused": [(FAIL, []), (FAIL, [])],
        "unknown once": [(UNKNOWN, []), (FAIL, [])],
    }
    for key, results in attempts.items():
        for result, ids in results:
            journal.write(Intent(key, [key]))
            journal.write(Outcome(key, result, 0, "", None, 0.0, ids))
    journal.write(Intent("refused", ["refused"]))
    journal.write(Outcome("refused", FAIL, 503, "", 1.0, 0.0))
    journal.write(Intent("cut off", ["cut off"]))
    journal.close()

    found = fates(read([tmp_path / "j.jsonl"]))

    assert {name: (one.result, one.id) for name, one in found.items()} == {
        "promised at last": (OK, "1"),
        "promised, then unknown": (OK, "2"),
        "refused": (FAIL, ""),
        "unknown once": (UNKNOWN, ""),
        "cut off": (UNKNOWN, ""),
    }


NAMES = [f"s0-{number}-0" for number in range(200)]
DROPPED, CHANGED, DOUBLED = [name for name in NAMES if not payload(SEED, name).refused][:3]


class Broken(Documents):
    """A sink that is wrong in three ways."""

    async def insert(
        self, pipeline: Pipeline, rows: Sequence[tuple[Envelope, str, dict[str, Any]]]
    ) -> dict[str, tuple[str, str]]:
        for envelope, block, document in rows:
            if document["name"] == CHANGED:
                document["filler"] += "!"
            if document["name"] == DOUBLED:
                twin = msgspec.structs.replace(envelope, id=derived_id("twin"))
                await super().insert(pipeline, [(twin, block, dict(document))])
        return await super().insert(pipeline, [row for row in rows if row[2]["name"] != DROPPED])


async def test_a_sink_that_drops_changes_and_doubles_is_caught(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [payload(SEED, name) for name in NAMES]

    def broken(self: StoreDocuments, documents: Documents) -> None:
        documents.__class__ = Broken
        self._documents = documents

    monkeypatch.setattr(StoreDocuments, "__init__", broken)
    async with open_plant(settings.model_copy(update={"pipelines": PIPELINES})) as plant:
        ids = await plant.submit("ticks", *(one.body for one in payloads))
        await plant.work()
    known = {name: Fate(name, OK, one) for name, one in zip(NAMES, ids, strict=True)}
    mongo, postgres, redis = (
        getattr(settings, f"{store}_url").get_secret_value() for store in ("mongo", "postgres", "redis")
    )
    found = check(await observe_stores(Stores(mongo, postgres, redis, settings.namespace), SEED, known))

    assert named(found) == {
        ("I2", "in Postgres, not in MongoDB"),
        ("I2", "twice in MongoDB by name"),
        ("I2", "in MongoDB, not in Postgres"),
        ("I4", "with other content than was sent"),
        ("I4", "under another id than was answered"),
    }
