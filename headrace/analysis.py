"""What an analysis is: a module that turns all of a pipeline's stored documents into one result. Pure.

    VERSION = 1                                    of its method; another version computes anew
    FIELDS = ("school", "G3")                      of the stored documents, as dotted paths
    LIBRARIES = ("pandas",)                        distributions whose versions are kept with the result
    def analyse(table: Table) -> dict[str, Any]    the result, in JSON's types

A pipeline names the module (`Pipeline(analysis=…)`), and only `headrace analyse` imports it, in a process of its own.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from headrace.document import json_text
from headrace.errors import HeadraceError

# Field to its values, one for each document.
Table = Mapping[str, Sequence[Any]]

# All are held at once; the analysis of students needs 3 KB for each.
MOST_ROWS: Final = 1_000_000


class AnalysisError(HeadraceError):
    """An analysis cannot be made; the message names the fix."""

    default_code = "analysis_failed"


class Analysis(Protocol):
    """What such a module has."""

    @property
    def VERSION(self) -> int: ...

    @property
    def FIELDS(self) -> Sequence[str]: ...

    @property
    def LIBRARIES(self) -> Sequence[str]: ...

    def analyse(self, table: Table, /) -> dict[str, Any]:
        """Return the result; the same for the same table, whenever and wherever it runs.

        Args:
            table: at least one row; rows are in an order that follows from their values alone.
        """


class Rows:
    """Gathers documents chunk by chunk, column by column.

    Ids, and with them the order in which documents came, are no part of it: the same records give the same table
    and digest in every Headrace.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._paths = {field: field.split(".") for field in fields}
        self._columns: dict[str, list[Any]] = {field: [] for field in fields}
        self._digests: list[bytes] = []

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Take in the wanted fields of some documents; a field that one has not is None.

        Raises:
            AnalysisError: they have become too many.
        """
        if len(self) + len(documents) > MOST_ROWS:
            raise AnalysisError(f"There are more than {MOST_ROWS} documents; an analysis takes no more at once.")
        for document in documents:
            row = [_at(document, path) for path in self._paths.values()]
            for column, value in zip(self._columns.values(), row, strict=True):
                # The same few words stand in most rows; one copy of each will do.
                column.append(sys.intern(value) if type(value) is str else value)
            self._digests.append(hashlib.sha256(json_text(row)).digest())

    def table(self) -> Table:
        order = sorted(range(len(self)), key=self._digests.__getitem__)
        return {field: [column[place] for place in order] for field, column in self._columns.items()}

    def digest(self) -> str:
        """Return the SHA-256, hex, of the fields and all values: what tells whether there is anything new."""
        found = hashlib.sha256(json_text(list(self._paths)))
        for one in sorted(self._digests):
            found.update(one)
        return found.hexdigest()


def _at(document: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = document
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
