"""The typed table of one pipeline in Postgres: made from its schema, filled in one statement, each id once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from headrace.document import Envelope, json_text, parse_time, rfc3339
from headrace.errors import DocumentError, HeadraceError
from headrace.fields import Field
from headrace.pipeline import Pipeline
from headrace.precedence import precedence as precedence_by

if TYPE_CHECKING:
    from headrace.storage.pool import Connection


@dataclass(frozen=True, slots=True)
class Known:
    """A document that was stored before: the digest of its bytes, the block it came in and its ordinal there."""

    sha256: str
    block: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One document for the facts table: its envelope, its raw block's id, the stored form in JSON types."""

    envelope: Envelope
    block: str
    document: Mapping[str, Any]


class FactsTable:
    """The typed table of one pipeline. An entity has two: every version's id, and the newest version by key."""

    def __init__(self, pipeline: Pipeline, schema: str = "facts") -> None:
        self.pipeline = pipeline
        self._schema = schema
        self.name = f"{schema}.{quoted(pipeline.name)}"
        self.ledger = f"{schema}.{quoted(pipeline.name + '_versions')}" if pipeline.entity else self.name
        self._values = [_converter(field) for field in pipeline.fields]
        columns = ["id", "received_at", "sender", "block", "ordinal", "sha256"]
        columns += [quoted(f.column) for f in pipeline.fields]
        types = ["uuid", "timestamptz", "text", "uuid", "integer", "bytea"] + [f.sql_type for f in pipeline.fields]
        once = "ON CONFLICT (id) DO NOTHING RETURNING id"
        self._insert = f"INSERT INTO {self.name} ({', '.join(columns)}) {_rows(types)} {once}"
        about, their_types = columns[:_ABOUT], types[:_ABOUT]
        self._insert_version = f"INSERT INTO {self.ledger} ({', '.join(about)}) {_rows(their_types)} {once}"
        # Of an entity's row also what its version says of its own age, right behind what all rows have.
        self._precedence = precedence_by(pipeline.newest_by, pipeline.fields)
        columns.insert(_ABOUT, "precedence")
        types.insert(_ABOUT, "text")
        key_columns = [quoted(column_of(pipeline, path)) for path in pipeline.key] if pipeline.entity else []
        updates = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in key_columns)
        self._upsert_newest = (
            f"INSERT INTO {self.name} AS r ({', '.join(columns)}) {_rows(types)}"
            f" ON CONFLICT ({', '.join(key_columns)}) DO UPDATE SET {updates}"
            " WHERE (r.precedence, r.received_at, r.id) < (excluded.precedence, excluded.received_at, excluded.id)"
        )

    async def prepare(self, connection: Connection) -> None:
        fields = self.pipeline.fields
        columns = "".join(f", {quoted(f.column)} {f.sql_type}" for f in fields)
        about = (
            "received_at timestamptz NOT NULL, sender text NOT NULL, block uuid NOT NULL, ordinal integer NOT NULL,"
            " sha256 bytea NOT NULL"
        )
        if self.pipeline.entity:
            keys = ", ".join(quoted(column_of(self.pipeline, path)) for path in self.pipeline.key)
            await connection.execute(f"CREATE TABLE IF NOT EXISTS {self.ledger} (id uuid PRIMARY KEY, {about})")
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self.name} (id uuid NOT NULL, {about}{columns}, PRIMARY KEY ({keys}))"
            )
        else:
            await connection.execute(f"CREATE TABLE IF NOT EXISTS {self.name} (id uuid PRIMARY KEY, {about}{columns})")
        # Rows come nearly in the order of their acceptance, so that this index is small and costs them nothing.
        index = quoted(f"{self.pipeline.name}.received_at")
        await connection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {self.ledger} USING brin (received_at)")
        found = {
            row["column_name"]: row["data_type"]
            for row in await connection.fetch(
                "SELECT column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = $1 AND table_name = $2",
                *(self._schema, self.pipeline.name),
            )
        }
        if self.pipeline.entity and "precedence" not in found:
            await connection.execute(
                f"""ALTER TABLE {self.name} ADD COLUMN precedence text COLLATE "C" NOT NULL DEFAULT ''"""
            )
        for field in fields:
            there = found.get(field.column)
            if there is None:
                await connection.execute(f"ALTER TABLE {self.name} ADD COLUMN {quoted(field.column)} {field.sql_type}")
            elif there != _LONG_NAMES.get(field.sql_type, field.sql_type):
                raise HeadraceError(
                    f"Pipeline {self.pipeline.name!r}: column {field.column!r} of {self.name} is {there}; the schema"
                    f" now gives {field.sql_type}. Name the field otherwise, or change the column by hand.",
                    code="schema_conflict",
                )

    async def copy(self, connection: Connection, other: FactsTable) -> None:
        """Hold what another table of the same pipeline holds, and nothing else."""
        for mine, its in {self.ledger: other.ledger, self.name: other.name}.items():
            columns = ["id", "received_at", "sender", "block", "ordinal", "sha256"]
            if mine == self.name:
                columns += ["precedence"] if self.pipeline.entity else []
                columns += [quoted(field.column) for field in self.pipeline.fields]
            names = ", ".join(columns)
            await connection.execute(f"DELETE FROM {mine}")
            await connection.execute(f"INSERT INTO {mine} ({names}) SELECT {names} FROM {its}")

    async def insert(self, connection: Connection, facts: Sequence[Fact]) -> set[str]:
        """Insert facts, of an entity their versions; return the ids that are new."""
        if self.pipeline.entity:
            found = await connection.fetch(self._insert_version, *self._about(facts))
        else:
            found = await connection.fetch(self._insert, *self._about(facts), *self._fields(facts))
        return {str(row["id"]) for row in found}

    async def keep_newest(self, connection: Connection, facts: Sequence[Fact]) -> None:
        """Let each entity's row be its newest version, whatever order and repetition they come in."""
        newest = self._newest(facts)
        precedences = _json_array([precedence for precedence, _ in newest])
        records = [fact for _, fact in newest]
        await connection.execute(self._upsert_newest, *self._about(records), precedences, *self._fields(records))

    def _about(self, facts: Sequence[Fact]) -> list[str]:
        return [
            _json_array([fact.envelope.id for fact in facts]),
            _json_array([fact.envelope.time for fact in facts]),
            _json_array([fact.envelope.subject for fact in facts]),
            _json_array([fact.block for fact in facts]),
            _json_array([fact.envelope.ordinal for fact in facts]),
            _json_array([fact.envelope.sha256 for fact in facts]),
        ]

    def _fields(self, facts: Sequence[Fact]) -> list[str]:
        columns = []
        for field, value in zip(self.pipeline.fields, self._values, strict=True):
            try:
                values = [value(fact.document) for fact in facts]
                taken = _TAKEN.get(field.sql_type)
                if taken is not None and not taken.issuperset(map(type, values)):
                    raise TypeError(f"not {field.sql_type}")
                columns.append(_json_array(values))
            except (TypeError, ValueError, ArithmeticError) as error:
                raise refused(f"{type(error).__name__}, field {field.path}") from error
        return columns

    def _newest(self, facts: Sequence[Fact]) -> list[tuple[str, Fact]]:
        """Return the newest version of each key with its precedence.

        In order of the key, and one of each: a statement may touch a row once.
        """
        from_key = [_path_getter(tuple(path.split("."))) for path in self.pipeline.key]
        newest: dict[tuple[str, ...], tuple[str, Fact]] = {}
        for fact in facts:
            key = tuple(str(get(fact.document)) for get in from_key)
            try:
                found = self._precedence(fact.document), fact
            except (TypeError, ValueError) as error:
                raise refused(f"{type(error).__name__}, newest_by") from error
            if key not in newest or _age(*found) > _age(*newest[key]):
                newest[key] = found
        return [newest[key] for key in sorted(newest)]

    async def known(self, connection: Connection, ids: Sequence[str]) -> dict[str, Known]:
        found = await connection.fetch(
            f"SELECT id, sha256, block, ordinal FROM {self.ledger} WHERE id = ANY($1::uuid[])", list(ids)
        )
        return {str(row["id"]): Known(row["sha256"].hex(), str(row["block"]), row["ordinal"]) for row in found}


# Columns before those of the schema: id, received_at, sender, block, ordinal, sha256.
_ABOUT: Final = 6
_LONG_NAMES: Final = {"timestamptz": "timestamp with time zone"}
# What makes rows of a JSON array, and what makes a column's type of them. An absent value is NULL, also of jsonb.
_TEXTS: Final = "json_array_elements_text"
_ELEMENTS: Final = {"jsonb": "json_array_elements"}
_CASTS: Final = {"text": "{}", "bytea": "decode({}, 'hex')", "jsonb": "nullif({}::jsonb, 'null')"}


# Postgres would make a text of anything, and `true` of `yes`.
_NULL: Final = type(None)
_TAKEN: Final[Mapping[str, frozenset[type]]] = {
    "text": frozenset({_NULL, str}),
    "bigint": frozenset({_NULL, int}),
    "boolean": frozenset({_NULL, bool}),
}


def refused(why: str) -> DocumentError:
    """Return the error of a document that Postgres cannot take; `why` holds nothing of it."""
    return DocumentError(f"Postgres cannot store the document ({why}).", code="store_refused")


def _age(precedence: str, fact: Fact) -> tuple[str, datetime, str]:
    return precedence, parse_time(fact.envelope.time), fact.envelope.id


def _json_array(values: Sequence[Any]) -> str:
    # A column travels as one JSON array: asyncpg looks at each element of an array several times, in Python.
    return json_text(values).decode()


def _rows(types: Sequence[str]) -> str:
    """Return a query of rows whose columns are its arguments, each a JSON array."""
    arrays = ", ".join(f"{_ELEMENTS.get(t, _TEXTS)}(${n}::json)" for n, t in enumerate(types, 1))
    names = ", ".join(f"c{n}" for n in range(len(types)))
    picked = ", ".join(_CASTS.get(t, "{}::" + t).format(f"c{n}") for n, t in enumerate(types))
    return f"SELECT {picked} FROM ROWS FROM ({arrays}) AS t({names})"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column_of(pipeline: Pipeline, path: str) -> str:
    """Return the column that holds the field at a path."""
    return next(field.column for field in pipeline.fields if field.path == path)


def _path_getter(parts: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Any]:
    if len(parts) == 1:
        name = parts[0]
        return lambda document: document.get(name)

    def walk(document: Mapping[str, Any]) -> Any:
        value: Any = document
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    return walk


def _converter(field: Field) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function from the stored form in JSON types to what Postgres reads as this column's type."""
    get = _path_getter(field.parts)
    make: Callable[[Any], Any] | None = {"timestamptz": _moment, "date": _day}.get(field.sql_type)
    if make is None:
        return get
    known = make

    def convert(document: Mapping[str, Any]) -> Any:
        value = get(document)
        return None if value is None else known(value)

    return convert


def _moment(text: str) -> str:
    """Return a time in UTC; without a zone it is that already, where Postgres would take the session's.

    Postgres also knows times that nobody could read from it again (of the year 10000), and fewer zones.
    """
    time = parse_time(text)
    return rfc3339(time if time.tzinfo else time.replace(tzinfo=UTC))


def _day(text: str) -> str:
    # Postgres would read `today`, too.
    return date.fromisoformat(text).isoformat()
