"""What a file holds, and how it is cut into requests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from cli.sending import CHUNK_BYTES, CHUNK_DOCUMENTS, Documents, chunks, open_documents
from headrace.errors import RequestError


def documents(folder: Path, content: bytes) -> tuple[str, list[tuple[int, bytes]]]:
    file = folder / "input"
    file.write_bytes(content)
    with open_documents(str(file)) as source:
        found = [one for one in source.numbered() if one is not None]
        return source.place, found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n\n  \n", []),
        (b'{"a":1}', [(1, b'{"a":1}')]),
        (b'{"a":1}\n{"a":2}\n', [(1, b'{"a":1}'), (2, b'{"a":2}')]),
        (b'\xef\xbb\xbf{"a":1}\r\n{"a":2}', [(1, b'{"a":1}\r'), (2, b'{"a":2}')]),
        (b'\n{"a":1}\n\n{"a":2}', [(2, b'{"a":1}'), (4, b'{"a":2}')]),
        (b'broken\n{"a":2}\n\nbroken', [(1, b"broken"), (2, b'{"a":2}'), (4, b"broken")]),
        (b'{"a":"' + b"x" * 200_000 + b'"}\n{}', [(1, b'{"a":"' + b"x" * 200_000 + b'"}'), (2, b"{}")]),
    ],
)
def test_lines_are_documents(tmp_path: Path, content: bytes, found: list[tuple[int, bytes]]) -> None:
    assert documents(tmp_path, content) == ("line", found)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{\n "a": 1\n}\n', [b'{\n "a": 1\n}']),
        (b'[{"a": 1.10},\n5, {"a":\n3}]', [b'{"a": 1.10}', b"5", b'{"a":\n3}']),
        (b'\xef\xbb\xbf\n [{"a":1}]', [b'{"a":1}']),
        (b"[]", []),
    ],
)
def test_an_array_and_a_document_over_several_lines_are_taken_as_they_are(
    tmp_path: Path, content: bytes, found: list[bytes]
) -> None:
    place, items = documents(tmp_path, content)

    assert place == "item"
    assert [(number, item.strip()) for number, item in items] == list(enumerate(found, start=1))


def test_a_broken_first_line_keeps_no_stream_waiting() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"broken\n")
    found = Documents(reading).numbered()
    try:
        assert next(one for one in found if one is not None) == (1, b"broken")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_line_that_looks_like_a_document_and_is_none_is_a_line(tmp_path: Path) -> None:
    assert documents(tmp_path, b'{"a":\n{"b":1}\n') == ("line", [(1, b'{"a":'), (2, b'{"b":1}')])


def test_an_array_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not JSON"):
        documents(tmp_path, b'[{"a":1}, {')


def sizes(numbered: Iterable[tuple[int, bytes] | None], *, whole: bool) -> list[tuple[int, int]]:
    return [(chunk.numbers[0], len(chunk.documents)) for chunk in chunks(numbered, whole=whole)]


def test_a_chunk_has_bounded_documents_and_bytes() -> None:
    many = [(number, b"{}") for number in range(1, CHUNK_DOCUMENTS + 2)]
    large = [(number, b"x" * (CHUNK_BYTES // 2)) for number in range(1, 4)]
    huge = [(1, b"x" * 2 * CHUNK_BYTES), (2, b"{}")]

    assert sizes(many, whole=True) == [(1, CHUNK_DOCUMENTS), (CHUNK_DOCUMENTS + 1, 1)]
    assert sizes(large, whole=True) == [(1, 2), (3, 1)]
    assert sizes(huge, whole=True) == [(1, 1), (2, 1)]


def test_a_pause_sends_what_there_is_unless_the_bounds_must_not_depend_on_it() -> None:
    paused = [(1, b"{}"), None, None, (2, b"{}"), (3, b"{}"), None]

    assert sizes(paused, whole=False) == [(1, 1), (2, 2)]
    assert sizes(paused, whole=True) == [(1, 3)]
