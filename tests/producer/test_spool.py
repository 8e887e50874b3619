"""The files of a run."""

from __future__ import annotations

import uuid
from pathlib import Path

from producer.spool import Documents, IdFile, read_ids, write_documents


def test_documents_come_back_with_their_rows_and_begin_anew_after_the_last(tmp_path: Path) -> None:
    assert write_documents(tmp_path, [(3, b'{"a":1}'), (9, b"{}"), (10, b'{"b":[]}')]) == 3
    documents = Documents(tmp_path)

    assert [documents.body(number) for number in range(4)] == [b'{"a":1}', b"{}", b'{"b":[]}', b'{"a":1}']
    assert [documents.row(number) for number in (0, 1, 2, 5)] == [3, 9, 10, 10]


def test_ids_come_back_in_portions_from_all_files(tmp_path: Path) -> None:
    ids = [uuid.uuid4().bytes for _ in range(25)]
    for name, part in (("one", ids[:13]), ("two", ids[13:])):
        with IdFile(tmp_path / name) as file:
            for identity in part:
                file.add(identity)

    portions = list(read_ids([tmp_path / "one", tmp_path / "two"], at_once=5))

    assert [len(portion) for portion in portions] == [5, 5, 3, 5, 5, 2]
    assert [identity for portion in portions for identity in portion] == ids
