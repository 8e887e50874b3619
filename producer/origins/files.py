"""A pipeline's file as a source."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from producer.formats import Row, SourceError, first_bytes, header
from producer.formats.plain import plain
from producer.mapping import Columns
from producer.source import Source, rows_of
from producer.sources import has_form_of_its_own, read
from producer.upload import source_key


def file_source(pipeline: str, path: Path, *, encoding: str | None = None, columns: Columns | None = None) -> Source:
    """Return the rows of a file, packed or not.

    Args:
        columns: names that must be among its columns.

    Raises:
        SourceError: it cannot be read.
    """
    first_bytes(path)
    rows = partial(file_source_rows, pipeline, path, encoding, columns)
    return Source(str(path), source_key(path), rows_of(rows), seekable=True)


def file_source_rows(pipeline: str, path: Path, encoding: str | None, columns: Columns | None) -> Iterator[Row]:
    """Yield the rows of a file, their columns not yet mapped.

    Raises:
        SourceError: it cannot be read, at once or from some row on.
    """
    with plain(path, encoding) as (copy, wrong):
        # Where a pipeline's files have a form of their own, columns are what its reader makes of them.
        if columns and not has_form_of_its_own(pipeline) and (found := header(copy)) is not None:
            columns.check(found, str(path))
        yield from read(pipeline, copy)
        if wrong:
            raise SourceError(wrong[0])
