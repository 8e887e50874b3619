"""Files of one run: the documents to send, and the ids that came back. So neither must fit into memory."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

_FLUSH_BYTES: Final = 1 << 20
ID_BYTES: Final = 16


def write_documents(folder: Path, documents: Iterable[tuple[int, bytes]]) -> int:
    """Write (row number, JSON text) pairs to `folder` and return how many; `Documents` reads them again."""
    index = array("Q", [0])
    rows = array("Q")
    with (folder / "documents").open("wb") as bodies:
        for row, body in documents:
            rows.append(row)
            index.append(index[-1] + bodies.write(body))
    for name, numbers in (("index", index), ("rows", rows)):
        with (folder / name).open("wb") as file:
            numbers.tofile(file)
    return len(rows)


class Documents:
    """The documents that `write_documents` wrote; numbers beyond the last begin anew at the first."""

    def __init__(self, folder: Path) -> None:
        self._index = _numbers(folder / "index")
        self._rows = _numbers(folder / "rows")
        with (folder / "documents").open("rb") as file:
            self._bodies = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._rows)

    def body(self, number: int) -> bytes:
        place = number % len(self._rows)
        return self._bodies[self._index[place] : self._index[place + 1]]

    def row(self, number: int) -> int:
        """Return the row of its file that the document stood in."""
        return self._rows[number % len(self._rows)]


def _numbers(path: Path) -> array[int]:
    numbers = array("Q")
    numbers.frombytes(path.read_bytes())
    return numbers


class IdFile:
    """Ids of accepted documents, 16 bytes each, in the order they came."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab")
        self._pending = bytearray()

    def add(self, identity: bytes) -> None:
        self._pending += identity
        if len(self._pending) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._pending)
        self._file.flush()
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._file.close()


def read_ids(paths: Iterable[Path], *, at_once: int) -> Iterator[list[bytes]]:
    """Yield the ids of all files, at most `at_once` at a time."""
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(at_once * ID_BYTES):
                yield [chunk[start : start + ID_BYTES] for start in range(0, len(chunk), ID_BYTES)]
