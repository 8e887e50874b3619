"""What Postgres has of each minute of acceptance: tallies of the journal, the facts, the repeats and the dead letters.

One scan of an index of each table, for a portion of time; the hashes are summed by Postgres itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from headrace.identity import BARE_SENDER
from headrace.pipeline import Pipeline
from headrace.storage.facts_table import FactsTable
from headrace.tally import Tally

if TYPE_CHECKING:
    from headrace.storage.postgres import Facts

_TALLIED: Final = f"""
SELECT minute, class, count(*) AS n, sum(high) AS high, sum(low) AS low, count(*) FILTER (WHERE low < 0) AS negative
FROM (
    SELECT minute, class, ('x' || left(hash, 16))::bit(64)::bigint AS high,
           ('x' || substr(hash, 17, 16))::bit(64)::bigint AS low
    FROM (
        SELECT date_trunc('minute', received_at) AS minute, class,
               encode(sha256((CASE WHEN sender = '{BARE_SENDER}' THEN block ELSE id END)::text::bytea), 'hex') AS hash
        FROM (%s) AS rows
    ) AS hashed
) AS summed GROUP BY 1, 2
"""
_LETTERS: Final = """
SELECT received_at, sender, block, document_id AS id,
    CASE WHEN stage = 'refine' THEN 'refine'
         WHEN stage = 'facts' AND code = 'idempotency_conflict' THEN 'facts_conflict'
         WHEN stage = 'facts' THEN 'facts'
         WHEN stage = 'documents' AND code = 'idempotency_conflict' THEN 'documents_conflict'
         WHEN stage = 'documents' AND (
            EXISTS (SELECT FROM repeats r WHERE (r.block, r.id, r.ordinal) = (d.block, d.document_id, d.ordinal))
            OR EXISTS (SELECT FROM dead_letters f
                       WHERE (f.block, f.document_id, f.ordinal) = (d.block, d.document_id, d.ordinal)
                       AND f.stage = 'facts' AND f.code = 'idempotency_conflict')) THEN 'documents_known'
         ELSE stage END AS class
FROM dead_letters d
WHERE pipeline = $1 AND received_at >= $2 AND received_at < $3
    AND (stage = 'refine' OR state NOT IN ('replaying', 'replayed'))
"""
_OTHERS: Final = """
SELECT received_at, sender, block, id, 'stored' AS class FROM {ledger} WHERE received_at >= $2 AND received_at < $3
UNION ALL
SELECT received_at, sender, block, id, 'repeats' FROM repeats
WHERE pipeline = $1 AND received_at >= $2 AND received_at < $3
UNION ALL
"""
_EMPTY: Final = Tally()


@dataclass(slots=True)
class Minute:
    """The books of one minute.

    Attributes:
        untold: documents of blocks that do not say which they are.
        documents: what MongoDB has, for whoever asks it.
        classes: tallies of what Postgres has, by what became of it.
    """

    accepted: Tally = _EMPTY
    untold: int = 0
    documents: Tally = _EMPTY
    classes: dict[str, Tally] = field(default_factory=dict)

    def expected(self, sink: str) -> Tally:
        """Return what a sink should hold of what was accepted.

        As in the ledger: what is no document of its own in the sink came again, was refused, or both sinks know.
        """
        rest = self.accepted - self._of("repeats") - self._of("refine")
        if sink == "facts":
            return rest - self._of("facts") - self._of("facts_conflict")
        # Conflicts of its own are what it met again, and so are in its duplicates already; so is what is known.
        return rest - self._of("facts_conflict") - self._of("documents")

    def stored(self, sink: str) -> Tally:
        return self._of("stored") if sink == "facts" else self.documents

    def _of(self, name: str) -> Tally:
        return self.classes.get(name, _EMPTY)


async def first_minute(facts: Facts, pipeline: Pipeline) -> datetime | None:
    """Return the first minute that the journal has all of; None where there is none.

    A journal that was begun by an older version had blocks before it had minutes, and its first minute may lack some.
    """
    [row] = await facts.fetch(
        "SELECT min(minute) AS first, sum(documents + untold)::bigint AS documents,"
        " (SELECT sum(documents) FROM journal WHERE pipeline = $1)::bigint AS journal"
        " FROM journal_minutes WHERE pipeline = $1",
        pipeline.name,
    )
    first: datetime | None = row["first"]
    return first if first is None or row["documents"] == row["journal"] else first + timedelta(minutes=1)


async def minutes(facts: Facts, pipeline: Pipeline, since: datetime, until: datetime) -> dict[datetime, Minute]:
    """Return the books of each minute that has any; all read at one moment."""
    found: dict[datetime, Minute] = {}
    rows = _OTHERS.format(ledger=FactsTable(pipeline).ledger) + _LETTERS
    async with facts.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        noted = await connection.fetch(
            "SELECT minute, documents, digest, untold FROM journal_minutes"
            " WHERE pipeline = $1 AND minute >= $2 AND minute < $3",
            *(pipeline.name, since, until),
        )
        tallied = await connection.fetch(_TALLIED % rows, pipeline.name, since, until)
    for row in noted:
        found[row["minute"]] = Minute(Tally(row["documents"], int(row["digest"])), row["untold"])
    for row in tallied:
        digest = (int(row["high"]) << 64) + int(row["low"]) + (row["negative"] << 64)
        found.setdefault(row["minute"], Minute()).classes[row["class"]] = Tally(row["n"], digest % 2**128)
    return found


async def stored_ids(facts: Facts, pipeline: Pipeline, since: datetime, until: datetime) -> dict[str, str]:
    """Return {id: sha256} of what the facts hold of a minute or more."""
    rows = await facts.fetch(
        f"SELECT id, sha256 FROM {FactsTable(pipeline).ledger} WHERE received_at >= $1 AND received_at < $2",
        *(since, until),
    )
    return {str(row["id"]): row["sha256"].hex() for row in rows}


async def letters_of(facts: Facts, pipeline: Pipeline, ids: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the dead letters of documents."""
    rows = await facts.fetch(
        "SELECT document_id, stage, state, code FROM dead_letters"
        " WHERE pipeline = $1 AND document_id = ANY($2::uuid[])",
        *(pipeline.name, list(ids)),
    )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["document_id"]), []).append(dict(row))
    return found


async def blocks_noted(
    facts: Facts, pipeline: Pipeline, since: datetime, until: datetime
) -> dict[str, tuple[int, datetime]]:
    """Return {block: (documents, when stored)} of the journal's blocks."""
    rows = await facts.fetch(
        "SELECT block, documents, stored_at FROM journal WHERE pipeline = $1 AND stored_at >= $2 AND stored_at < $3",
        *(pipeline.name, since, until),
    )
    return {str(row["block"]): (row["documents"], row["stored_at"]) for row in rows}


async def traced(facts: Facts, pipeline: Pipeline, blocks: Sequence[str]) -> set[str]:
    """Return those of these blocks of which something became, in Postgres."""
    ledger = FactsTable(pipeline).ledger
    rows = await facts.fetch(
        f"SELECT block FROM {ledger} WHERE block = ANY($1::uuid[])"
        " UNION SELECT block FROM repeats WHERE block = ANY($1::uuid[])"
        " UNION SELECT block FROM dead_letters WHERE block = ANY($1::uuid[])",
        [UUID(one) for one in blocks],
    )
    return {str(row["block"]) for row in rows}
