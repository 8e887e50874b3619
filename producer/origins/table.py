"""A database table as a source, read in batches by its key: no row twice, none left out, no long transaction.

Any database that SQLAlchemy knows. The next batch is what has a greater key than the last row, so the key must be
unique and never null; where it is not, the run ends and says so rather than leave rows out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from producer.formats import Row, SourceError
from producer.mapping import REST, Columns
from producer.origins.values import NoJsonError, json_value
from producer.source import Place, Source

T = TypeVar("T")

_BATCH_ROWS: Final = 1000
_MOST_ATTEMPTS: Final = 5
_KEY_TYPES: Final[dict[type, Callable[[Any], Any]]] = {
    int: int,
    str: str,
    float: float,
    Decimal: Decimal,
    UUID: UUID,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
}

Run = Callable[[Callable[[Connection], T]], Any]


def table_source(
    database: str,
    name: str,
    *,
    key_columns: Sequence[str] = (),
    columns: Columns | None = None,
    batch_rows: int = _BATCH_ROWS,
) -> Source:
    """Return the rows of a table, or of a view where `key_columns` are given.

    Raises:
        SourceError: the URL is none, or needs a driver that is not installed.
    """
    url = _url(database)
    whole = f"{url.set(username=None, password=None, query={}).render_as_string()} {name}"
    key = hashlib.sha256(whole.encode()).hexdigest()[:16]

    async def rows(after: Place | None) -> AsyncGenerator[Row, None]:
        async with _open(url) as run:
            table = await run(lambda connection: _reflect(connection, name, key_columns, columns))
            number, last = (after.number, table.restore(after.key)) if after else (0, None)
            while True:
                batch = await run(partial(table.batch, last=last, rows=batch_rows))
                for row in batch:
                    number += 1
                    yield table.row(number, row)
                if len(batch) < batch_rows:
                    return
                last = table.key_of(batch[-1])

    return Source(f"table {name} of {url.render_as_string()}", key, rows, seekable=True, grows=True)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table as it was found.

    Attributes:
        names: columns that documents have.
        keys: columns that it is read by.
        typed: whether values have the types of their columns; SQLite's have what was stored.
    """

    name: str
    table: sa.Table
    names: Sequence[str]
    keys: Sequence[str]
    typed: bool

    def batch(self, connection: Connection, last: Sequence[Any] | None, rows: int) -> list[Any]:
        """Return the next rows, by key.

        Raises:
            SourceError: two of them have the same key.
        """
        keys = [self._column(name) for name in self.keys]
        selected = [self._column(name).label(name) for name in dict.fromkeys([*self.names, *self.keys])]
        # One more than wanted shows whether the last key comes again.
        query = sa.select(*selected).order_by(*keys).limit(rows + 1)
        if last is not None:
            query = query.where(_greater(keys, last))
        found = [row._mapping for row in connection.execute(query)]
        for one, other in pairwise(found):
            if self.key_of(one) == self.key_of(other):
                raise SourceError(
                    f"Table {self.name}: two rows have the same {_listed(self.keys)}, so rows would be left out; "
                    "give --key-column for each column that together are unique."
                )
        return found[:rows]

    def key_of(self, row: Any) -> list[Any]:
        return [row[name] for name in self.keys]

    def row(self, number: int, row: Any) -> Row:
        document: dict[str, Any] = {}
        errors = []
        for name in self.names:
            # As an empty field of a file: the schema says whether it may be missing.
            if row[name] is None:
                continue
            try:
                document[name] = json_value(row[name])
            except NoJsonError as error:
                pointer = "/" + name.replace("~", "~0").replace("/", "~1")
                errors.append({"pointer": pointer, "code": "no_json_form", "message": str(error)})
        key = msgspec.json.encode([json_value(value) for value in self.key_of(row)]).decode()
        return Row(number, document, key=key, errors=tuple(errors))

    def restore(self, key: str) -> list[Any]:
        """Return the values that a key in a checkpoint stands for.

        Raises:
            SourceError: it is none of this table's.
        """
        try:
            values = msgspec.json.decode(key, type=list[Any])
            if not self.typed:
                return values
            return [
                _KEY_TYPES[self.table.c[name].type.python_type](value)
                for name, value in zip(self.keys, values, strict=True)
            ]
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError, ArithmeticError):
            raise SourceError(f"Table {self.name}: the checkpoint is not of this key; run without --resume.") from None

    def _column(self, name: str) -> Any:
        column = self.table.c[name]
        return column if self.typed else sa.type_coerce(column, sa.types.NullType())


def _greater(keys: Sequence[Any], last: Sequence[Any]) -> Any:
    """Return the condition that a row comes after another; not every database compares whole rows."""
    return sa.or_(
        *(
            sa.and_(*(keys[before] == last[before] for before in range(place)), keys[place] > last[place])
            for place in range(len(keys))
        )
    )


def _reflect(connection: Connection, name: str, key_columns: Sequence[str], columns: Columns | None) -> _Table:
    """Look at a table.

    Raises:
        SourceError: there is none, or its rows have no order that can be trusted.
    """
    schema, _, bare = name.rpartition(".")
    inspector = sa.inspect(connection)
    if not inspector.has_table(bare, schema=schema or None):
        known = [*inspector.get_table_names(schema=schema or None), *inspector.get_view_names(schema=schema or None)]
        raise SourceError(f"There is no table {name!r}; there are: {', '.join(sorted(known)[:40]) or 'none'}.")
    table = sa.Table(bare, sa.MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)
    keys = list(key_columns) or [column.name for column in table.primary_key.columns]
    if not keys:
        raise SourceError(f"Table {name} has no primary key; give --key-column with a column that is unique.")
    there = [column.name for column in table.columns]
    unknown = [key for key in keys if key not in there]
    if unknown:
        raise SourceError(f"Table {name} has no column {_listed(unknown)}; it has {_listed(there)}.")
    typed = connection.dialect.name != "sqlite"
    for key in keys:
        _check_key(connection, name, table.c[key], typed)
    names = there
    if columns:
        columns.check(there, f"Table {name}")
        rest = REST in columns.dropped
        names = [one for one in there if one in columns.fields or not (rest or one in columns.dropped)]
    return _Table(name, table, names, keys, typed)


def _check_key(connection: Connection, name: str, column: Any, typed: bool) -> None:
    if typed:
        try:
            known = column.type.python_type in _KEY_TYPES
        except NotImplementedError:
            known = False
        if not known:
            raise SourceError(f"Table {name}: rows cannot be read in order of {column.name!r}, which is {column.type}.")
    if column.nullable:
        empty = connection.execute(sa.select(sa.func.count()).where(column.is_(None))).scalar_one()
        if empty:
            raise SourceError(f"Table {name}: {empty} rows have no {column.name!r}; give another --key-column.")


@contextlib.asynccontextmanager
async def _open(url: URL) -> AsyncIterator[Run[Any]]:
    """Give what runs a function with a connection, again where the connection breaks.

    Raises:
        SourceError: the database is away, or refuses.
    """
    dispose: Callable[[], Any]
    if url.get_dialect().is_async:
        engine = create_async_engine(url, poolclass=NullPool)
        dispose = engine.dispose

        async def once(doing: Callable[[Connection], T]) -> T:
            async with engine.connect() as connection:
                return await connection.run_sync(doing)
    else:
        blocking = sa.create_engine(url, poolclass=NullPool)

        async def dispose() -> None:
            blocking.dispose()

        def here(doing: Callable[[Connection], T]) -> T:
            with blocking.connect() as connection:
                return doing(connection)

        async def once(doing: Callable[[Connection], T]) -> T:
            return await asyncio.to_thread(here, doing)

    async def run(doing: Callable[[Connection], T]) -> T:
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                return await once(doing)
            except (sa.exc.SQLAlchemyError, OSError, ValueError, TypeError) as error:
                if attempt == _MOST_ATTEMPTS or not _passing(error):
                    raise SourceError(f"{url.render_as_string()}: {_reason(error, url)}") from None
                await asyncio.sleep(min(10.0, 0.5 * 2.0**attempt) * random.random())
        raise AssertionError("the last attempt returns or raises")

    try:
        yield run
    finally:
        await dispose()


def _passing(error: Exception) -> bool:
    """Return whether the next attempt may go better."""
    return (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated) or isinstance(error, OSError)


def _reason(error: Exception, url: URL) -> str:
    original = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error
    lines = str(original).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(url.password, "***")[:300] if url.password else lines[0][:300]


_ASYNC_DRIVERS: Final = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}


def _url(text: str) -> URL:
    """Return where a database is, with the driver that is at hand.

    Raises:
        SourceError: the text is no URL, or needs a driver that is not installed.
    """
    try:
        url = sa.make_url(text)
        url = url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))
        if url.drivername == "postgresql+asyncpg" and "sslmode" in url.query:
            url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
        url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise SourceError(f"--database needs the driver {error.name}; install it beside Headrace.") from None
    except (sa.exc.ArgumentError, ValueError):
        raise SourceError(
            "--database: not a URL of SQLAlchemy, such as postgresql://user@host/database or sqlite:///file.db."
        ) from None
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        # SQLite would make an empty one.
        raise SourceError(f"--database: there is no file {url.database or ':memory:'}.")
    return url


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:40]))
