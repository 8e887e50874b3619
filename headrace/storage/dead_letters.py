"""Dead letters in Postgres: their index, and what people decide about them, so that no decision is half done.

A letter is `dead` until an action takes it: `discarded`, or `replaying` and, once its block is on disk, `replayed`.
An action is a row of `dead_actions`, and that row is the audit: who, when, which letters, why, with which patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.document import DeadLetter, json_text, parse_time, rfc3339

if TYPE_CHECKING:
    from headrace.storage.pool import Connection, Database

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS dead_letters (
    seq bigint GENERATED ALWAYS AS IDENTITY, document_id uuid NOT NULL, block uuid NOT NULL, ordinal integer NOT NULL,
    stage text NOT NULL, pipeline text NOT NULL, code text NOT NULL, reason text NOT NULL, pointer text NOT NULL,
    errors jsonb NOT NULL, attempts integer NOT NULL, sender text NOT NULL, received_at timestamptz NOT NULL,
    dead_at timestamptz NOT NULL, body bytea NOT NULL, state text NOT NULL DEFAULT 'dead',
    PRIMARY KEY (block, document_id, ordinal, stage)
);
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = 'dead_letters'::regclass AND conname = 'dead_letters_once') THEN
        ALTER TABLE dead_letters ADD COLUMN replays integer NOT NULL DEFAULT 0,
            ADD COLUMN sha256 text NOT NULL DEFAULT '', ADD COLUMN action uuid, ADD COLUMN again uuid;
        ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_pkey,
            ADD CONSTRAINT dead_letters_once PRIMARY KEY (block, document_id, ordinal, stage, replays);
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS dead_letters_by_document ON dead_letters (document_id);
CREATE UNIQUE INDEX IF NOT EXISTS dead_letters_by_seq ON dead_letters (seq);
CREATE INDEX IF NOT EXISTS dead_letters_by_received_at ON dead_letters USING brin (received_at);
CREATE INDEX IF NOT EXISTS dead_letters_open ON dead_letters (seq) WHERE state = 'dead';
CREATE INDEX IF NOT EXISTS dead_letters_replaying ON dead_letters (action) WHERE state = 'replaying';
CREATE TABLE IF NOT EXISTS dead_actions (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id uuid PRIMARY KEY, kind text NOT NULL,
    state text NOT NULL DEFAULT 'running', made_by text NOT NULL, token_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, selection text NOT NULL, patch text,
    patch_sha256 text, reason text, rate double precision NOT NULL, force boolean NOT NULL,
    matched bigint NOT NULL, last bigint NOT NULL, place bigint NOT NULL DEFAULT 0, done bigint NOT NULL DEFAULT 0,
    left_out bigint NOT NULL DEFAULT 0, samples text NOT NULL DEFAULT '[]', problem text,
    owner uuid, lease timestamptz NOT NULL DEFAULT now(), tries integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS dead_actions_running ON dead_actions (lease) WHERE state = 'running';
"""

Row = asyncpg.Record | Mapping[str, Any]

# With the seven arguments of a selection.
CHOSEN: Final = """
state = 'dead' AND ($1::uuid[] IS NULL OR document_id = ANY($1)) AND ($2::text IS NULL OR pipeline = $2)
AND ($3::text IS NULL OR stage = $3) AND ($4::text IS NULL OR code = $4) AND ($5::text IS NULL OR pointer = $5)
AND ($6::timestamptz IS NULL OR dead_at > $6) AND ($7::timestamptz IS NULL OR dead_at < $7)
"""
_COUNT: Final = f"SELECT count(*) AS n, coalesce(max(seq), 0) AS last FROM dead_letters WHERE {CHOSEN}"
_SIZES: Final = f"""
SELECT seq, octet_length(body) AS size FROM dead_letters
WHERE {CHOSEN} AND seq > $8 AND seq <= $9 ORDER BY seq LIMIT $10
"""
_BODIES: Final = "SELECT * FROM dead_letters WHERE seq = ANY($1::bigint[]) AND state = 'dead' ORDER BY seq"
_CLAIM: Final = """
UPDATE dead_actions SET owner = $1, lease = now() + make_interval(secs => $2), tries = tries + 1
WHERE id IN (SELECT id FROM dead_actions WHERE state = 'running' AND lease <= now()
             ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING *
"""
_BATCH_BYTES: Final = 8 << 20
_CLAIMED_AT_ONCE: Final = 8
_BRIEF_IDS: Final = 10
_BRIEF_PATCH: Final = 2000


@dataclass(frozen=True)
class Selection:
    """Which dead letters are meant: of these documents, or all that are so. `after` and `before` are of `dead_at`."""

    ids: tuple[UUID, ...] | None = None
    pipeline: str | None = None
    stage: str | None = None
    code: str | None = None
    pointer: str | None = None
    after: datetime | None = None
    before: datetime | None = None

    def arguments(self) -> list[Any]:
        ids = None if self.ids is None else list(self.ids)
        return [ids, self.pipeline, self.stage, self.code, self.pointer, self.after, self.before]


@dataclass(frozen=True)
class NewAction:
    """What somebody wants done; `selection` and `patch` are JSON."""

    id: str
    kind: str
    made_by: str
    token_id: str
    selection: str
    patch: str | None
    patch_sha256: str | None
    reason: str | None
    rate: float
    force: bool
    matched: int
    last: int


async def record(database: Database, letters: Sequence[DeadLetter]) -> None:
    """Index dead letters, each once."""
    await database.fetch(
        "INSERT INTO dead_letters (document_id, block, ordinal, stage, pipeline, code, reason, pointer, errors,"
        " attempts, sender, received_at, dead_at, body, sha256, replays)"
        " SELECT a, b, c, d, e, f, g, h, i::jsonb, j, k, l, m, n, o, p FROM unnest($1::uuid[], $2::uuid[],"
        " $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],"
        " $10::integer[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::bytea[], $15::text[],"
        " $16::integer[]) AS t(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) ON CONFLICT DO NOTHING",
        [x.id for x in letters],
        [x.block for x in letters],
        [x.ordinal for x in letters],
        [x.stage for x in letters],
        [x.pipeline for x in letters],
        [x.code for x in letters],
        [x.reason for x in letters],
        [x.errors[0]["pointer"] if x.errors else "" for x in letters],
        [json_text(x.errors).decode() for x in letters],
        [x.attempts for x in letters],
        [x.subject for x in letters],
        [parse_time(x.time) for x in letters],
        [parse_time(x.dead_at) for x in letters],
        [x.body for x in letters],
        [x.sha256 for x in letters],
        [x.replays for x in letters],
    )


async def count(database: Database, selection: Selection) -> tuple[int, int]:
    """Return how many dead letters are chosen, and the sequence of the last."""
    [row] = await database.fetch(_COUNT, *selection.arguments())
    return int(row["n"]), int(row["last"])


async def read(
    database: Database, selection: Selection, after: int, last: int, limit: int
) -> tuple[list[asyncpg.Record], int | None]:
    """Return the next letters that are chosen, no more than memory can well hold, and the sequence they end at.

    Args:
        after, last: look between these sequences.

    Returns:
        Where there are no more, None in place of a sequence.
    """
    async with database.transaction() as connection:
        return await _portion(connection, selection, after, last, limit, _BODIES)


async def begin(
    database: Database, action: NewAction, owner: str, lease_seconds: float, most_running: int
) -> Row | None:
    """Note an action and claim it; None where as many as may be are running."""
    async with database.transaction() as connection:
        # One at a time, or two that begin together would both see room for one.
        await connection.execute("LOCK TABLE dead_actions IN SHARE ROW EXCLUSIVE MODE")
        running = await connection.fetchval("SELECT count(*) FROM dead_actions WHERE state = 'running'")
        if running >= most_running:
            return None
        return await connection.fetchrow(
            "INSERT INTO dead_actions (id, kind, made_by, token_id, selection, patch, patch_sha256, reason, rate,"
            " force, matched, last, owner, lease, tries)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + make_interval(secs => $14), 1)"
            " RETURNING *",
            *(action.id, action.kind, action.made_by, action.token_id, action.selection, action.patch),
            *(action.patch_sha256, action.reason, action.rate, action.force, action.matched, action.last),
            *(owner, lease_seconds),
        )


async def claim(database: Database, owner: str, lease_seconds: float) -> list[asyncpg.Record]:
    """Return running actions that nobody works on, now claimed by `owner`; a lease that ran out is nobody's."""
    return await database.fetch(_CLAIM, owner, lease_seconds, _CLAIMED_AT_ONCE)


async def action(database: Database, action_id: UUID) -> asyncpg.Record | None:
    found = await database.fetch("SELECT * FROM dead_actions WHERE id = $1", action_id)
    return found[0] if found else None


def progress(row: Row) -> dict[str, Any]:
    """Return how far an action is, as its users see it."""
    done = {"replayed": row["done"], "left_out": row["left_out"]} if row["kind"] == "replay" else {}
    return {
        "id": str(row["id"]),
        "action": row["kind"],
        "state": row["state"],
        "matched": row["matched"],
        **(done or {"discarded": row["done"]}),
        "samples": msgspec.json.decode(row["samples"]),
        "problem": row["problem"],
        "at": rfc3339(row["at"]),
        "ended_at": rfc3339(row["ended_at"]) if row["ended_at"] else None,
    }


def audited(row: Row, *, brief: bool = False) -> dict[str, Any]:
    """Return who did what and why, as the audit tells it.

    Args:
        brief: with ten ids at most, and without a patch that is long, as many are listed at once.
    """
    selection = msgspec.json.decode(row["selection"])
    count = len(selection.get("ids", ()))
    patch = row["patch"]
    if brief:
        selection = {"ids": selection["ids"][:_BRIEF_IDS]} if count else selection
        patch = patch if len(patch or "") <= _BRIEF_PATCH else None
    return {
        **progress(row),
        "by": row["made_by"],
        "token_id": row["token_id"],
        "selection": selection,
        "ids": count,
        "reason": row["reason"],
        "patch": msgspec.json.decode(patch) if patch else None,
        "patch_sha256": row["patch_sha256"],
        "rate": row["rate"] if row["kind"] == "replay" else None,
        "force": row["force"],
    }


async def owned(connection: Connection, action_id: UUID, owner: str, lease_seconds: float) -> asyncpg.Record | None:
    """Return an action that is still this owner's, locked until the transaction ends, with its lease renewed."""
    return await connection.fetchrow(
        "UPDATE dead_actions SET lease = now() + make_interval(secs => $3)"
        " WHERE id = $1 AND owner = $2 AND state = 'running' RETURNING *",
        *(action_id, owner, lease_seconds),
    )


async def take(
    connection: Connection, selection: Selection, after: int, last: int, limit: int
) -> tuple[list[asyncpg.Record], int | None]:
    """Return what `read` does, locked: of two actions that want a letter, one gets it."""
    return await _portion(connection, selection, after, last, limit, _BODIES + " FOR UPDATE")


async def discard(
    connection: Connection, action_id: UUID, selection: Selection, after: int, last: int, limit: int
) -> tuple[int, int | None]:
    """Discard the next letters; return how many, and the sequence they end at, or None where there are no more."""
    chosen = [row["seq"] for row in await connection.fetch(_SIZES, *selection.arguments(), after, last, limit)]
    if not chosen:
        return 0, None
    found = await connection.fetch(
        "UPDATE dead_letters SET state = 'discarded', action = $2 WHERE seq = ANY($1::bigint[]) AND state = 'dead'"
        " RETURNING seq",
        *(chosen, action_id),
    )
    return len(found), chosen[-1]


async def mark_replaying(connection: Connection, action_id: UUID, blocks: Mapping[int, str]) -> None:
    """Note which block each letter, by its sequence, goes back in; before that block is published."""
    await connection.execute(
        "UPDATE dead_letters d SET state = 'replaying', action = $1, again = t.block"
        " FROM unnest($2::bigint[], $3::uuid[]) AS t(seq, block) WHERE d.seq = t.seq",
        *(action_id, list(blocks), list(blocks.values())),
    )


async def replaying(database: Database, action_id: UUID) -> list[asyncpg.Record]:
    """Return the letters of an action whose block may or may not be on disk."""
    return await database.fetch(
        "SELECT * FROM dead_letters WHERE action = $1 AND state = 'replaying' ORDER BY seq", action_id
    )


async def mark_replayed(database: Database, action_id: UUID, blocks: Sequence[str]) -> int:
    """Note that these blocks are on disk; return how many letters nobody had noted so before."""
    async with database.transaction() as connection:
        found = await connection.fetch(
            "UPDATE dead_letters SET state = 'replayed'"
            " WHERE action = $1 AND state = 'replaying' AND again = ANY($2::uuid[]) RETURNING seq",
            *(action_id, list(blocks)),
        )
        await connection.execute(
            "UPDATE dead_actions SET done = done + $2, problem = NULL WHERE id = $1", action_id, len(found)
        )
    return len(found)


async def advance(
    connection: Connection, action_id: UUID, place: int, *, done: int = 0, left_out: int = 0, samples: str | None = None
) -> None:
    """Note how far an action is; `samples` are of what it left out, as JSON."""
    await connection.execute(
        "UPDATE dead_actions SET place = $2, done = done + $3, left_out = left_out + $4,"
        " samples = coalesce($5, samples) WHERE id = $1",
        *(action_id, place, done, left_out, samples),
    )


async def end(database: Database, action_id: UUID, owner: str) -> None:
    await database.fetch(
        "UPDATE dead_actions SET state = 'done', ended_at = now(), problem = NULL WHERE id = $1 AND owner = $2",
        *(action_id, owner),
    )


async def let_go(database: Database, action_id: UUID, owner: str, problem: str | None, after_seconds: float) -> None:
    """Leave an action to whoever claims it next, in a while."""
    await database.fetch(
        "UPDATE dead_actions SET lease = now() + make_interval(secs => $4), problem = $3"
        " WHERE id = $1 AND owner = $2 AND state = 'running'",
        *(action_id, owner, problem, after_seconds),
    )


async def _portion(
    connection: Connection, selection: Selection, after: int, last: int, limit: int, query: str
) -> tuple[list[asyncpg.Record], int | None]:
    sizes = await connection.fetch(_SIZES, *selection.arguments(), after, last, limit)
    chosen: list[int] = []
    total = 0
    for row in sizes:
        total += row["size"]
        if chosen and total > _BATCH_BYTES:
            break
        chosen.append(row["seq"])
    if not chosen:
        return [], None
    return await connection.fetch(query, chosen), chosen[-1]
