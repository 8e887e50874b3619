"""Sources: how a pipeline's files become documents. One module per pipeline whose files need it, found by its name.

Such a module has `rows(path) -> Iterator[Row]`; every other pipeline reads tables and JSON as they stand.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from producer.formats import Row, SourceError, read_file

__all__ = ["Row", "SourceError", "read"]


def has_form_of_its_own(pipeline: str) -> bool:
    """Return whether the pipeline's files are read by a module of their own."""
    return pipeline.isidentifier() and importlib.util.find_spec(f"{__name__}.{pipeline}") is not None


def read(pipeline: str, path: Path) -> Iterator[Row]:
    """Yield the file's rows as documents of a pipeline, not yet checked against its schema.

    Raises:
        SourceError: the file cannot be read as a source at all.
    """
    if not has_form_of_its_own(pipeline):
        return read_file(path)
    rows: Iterator[Row] = importlib.import_module(f"{__name__}.{pipeline}").rows(path)
    return rows
