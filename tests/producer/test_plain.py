"""Files in other encodings and packed ones: their rows come out as if the files were plain, or are refused by row."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest

from producer.formats import Row, SourceError
from producer.formats.plain import check_encoding
from producer.origins.files import file_source_rows

TABLE = "name;price\nCafé;2,55\nNaïve;3\n"


def rows(path: Path, encoding: str | None = None) -> list[Row]:
    return list(file_source_rows("anything", path, encoding, None))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-8", "utf-8-sig", "mac-roman"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_in_another_encoding_is_read_as_it_was_written(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = TABLE.encode(encoding)
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(content) if packed else content)

    assert rows(path, encoding) == [Row(1, {"name": "Café", "price": "2,55"}), Row(2, {"name": "Naïve", "price": "3"})]


def test_a_packed_file_is_of_the_kind_that_its_inner_name_says(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n[]\n{"a": 2}\n'))

    assert [row.document for row in rows(path)] == [{"a": 1}, None, {"a": 2}]


def test_a_wrong_encoding_is_refused_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"name\ngood\nCaf\xe9\nCaf\x81\n")

    found = rows(path)
    assert [row.document for row in found] == [{"name": "good"}, None, None]
    assert all("--encoding" in (row.problem or "") for row in found[1:])

    # 0x81 is no character of cp1252 either, and none is made up for it.
    assert [row.document for row in rows(path, "cp1252")] == [{"name": "good"}, {"name": "Café"}, None]


def test_utf_16_that_is_not_named_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TABLE.encode("utf-16"))

    with pytest.raises(SourceError, match="give --encoding utf-16"):
        rows(path)


def test_a_packed_file_that_breaks_off_gives_its_rows_and_then_says_so(tmp_path: Path) -> None:
    content = gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(100_000)))
    path = tmp_path / "t.ndjson.gz"
    path.write_bytes(content[: len(content) // 2])

    found: list[Row] = []
    with pytest.raises(SourceError, match="cut off"):
        found.extend(file_source_rows("anything", path, None, None))

    good = [row for row in found if row.document is not None]
    assert len(good) > 1000
    assert [row.document for row in good] == [{"n": n} for n in range(len(good))]
    # The row at the break is refused, not guessed.
    assert len(found) - len(good) <= 1


def test_of_a_packed_file_that_is_damaged_nothing_is_trusted(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(10_000))))
    content[-6] ^= 0xFF
    path = tmp_path / "t.ndjson.gz"
    path.write_bytes(content)

    with pytest.raises(SourceError, match="damaged"):
        next(file_source_rows("anything", path, None, None))


def test_no_copy_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    rows(path)
    unfinished = file_source_rows("anything", path, None, None)
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["klingon", "hex", "rot13", ""])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no such encoding"):
        check_encoding(name)
