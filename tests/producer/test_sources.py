"""Sources: every row of a file comes out, as a document or as what is wrong with it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from producer.sources import Row, SourceError, read


def rows(tmp_path: Path, content: str | bytes, *, name: str = "rows.csv", pipeline: str = "anything") -> list[Row]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(pipeline, path))


def documents(found: list[Row]) -> list[dict[str, Any] | None]:
    return [row.document for row in found]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,4\n",
        "a;b\n1;2\n3;4\n",
        "a\tb\n1\t2\n3\t4\n",
        "a,b\r\n1,2\r\n3,4\r\n",
        "\ufeffa;b\r\n1;2\r\n3;4",
        '"a","b"\n"1","2"\n"3","4"\n',
        "\n\na,b\n\n1,2\n\n3,4\n\n",
        " a , b \n1,2\n3,4\n",
    ],
    ids=["comma", "semicolon", "tab", "crlf", "mark", "quoted", "blank_lines", "padded_header"],
)
def test_tables_are_read_however_they_are_written(tmp_path: Path, content: str) -> None:
    assert rows(tmp_path, content) == [Row(1, {"a": "1", "b": "2"}), Row(2, {"a": "3", "b": "4"})]


def test_a_decimal_comma_does_not_decide_the_delimiter(tmp_path: Path) -> None:
    assert rows(tmp_path, "price;count\n2,55;6\n") == [Row(1, {"price": "2,55", "count": "6"})]


def test_empty_fields_are_left_out(tmp_path: Path) -> None:
    assert documents(rows(tmp_path, "a,b,c\n1,,3\n ,2,\n,,\n")) == [{"a": "1", "c": "3"}, {"b": "2"}, {}]


def test_a_text_may_hold_delimiters_quotes_and_line_breaks(tmp_path: Path) -> None:
    found = rows(tmp_path, 'a,b\n"x, ""y""","two\nlines"\nlast,1\n')

    assert documents(found) == [{"a": 'x, "y"', "b": "two\nlines"}, {"a": "last", "b": "1"}]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("1", "1 field where the header has 2"),
        ("1,2,3", "3 fields where the header has 2"),
        ('"1,""2"""', "perhaps since the whole row stands in quotes"),
        ('"1"x,2', "not a row of a table"),
        ('1,"2', "where the header has 2|not a row of a table"),
        ('"1,2', "where the header has 2|not a row of a table"),
        (b"\xa32.55,1", "not UTF-8"),
    ],
)
def test_a_broken_row_is_reported_and_the_rows_behind_it_come(tmp_path: Path, broken: str | bytes, why: str) -> None:
    line = broken.encode() if isinstance(broken, str) else broken

    found = rows(tmp_path, b"a,b\n0,0\n" + line + b'\n5,6\n"7","8"\n')

    assert [row.number for row in found] == [1, 2, 3, 4]
    assert documents(found) == [{"a": "0", "b": "0"}, None, {"a": "5", "b": "6"}, {"a": "7", "b": "8"}]
    assert found[1].problem is not None
    assert any(part in found[1].problem for part in why.split("|"))


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    found = rows(tmp_path, 'a,b\n"1,2\n' + "3,4\n" * 1000)

    assert found[0].problem == "not a row of a table: a quote is not closed within 100 lines"
    assert documents(found[1:]) == [{"a": "3", "b": "4"}] * 1000


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"a,a\n1,2\n", b"a,,c\n1,2,3\n", "a;b".encode("utf-16"), b'"a,b\n1,2\n'],
    ids=["empty", "blank", "repeated", "unnamed", "utf-16", "unclosed"],
)
def test_a_table_without_a_usable_header_is_no_source(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError):
        rows(tmp_path, content)


def test_a_file_that_is_not_there_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read("anything", tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('[{"a":1},{"a":2}]', "rows.json"),
        ('\ufeff [\n{"a":1}\n,\n{"a":2}\n]\n', "rows.json"),
        ('[{"a":1},{"a":2},]', "rows.json"),
        ('{"a":1}\n{"a":2}\n', "rows.ndjson"),
        ('\ufeff{"a":1}\r\n\r\n{"a":2}', "rows.jsonl"),
        ('{"a":1}\n{"a":2}\n', "rows.json"),
        ('{"a":1}\n{"a":2}\n', "rows.txt"),
        ('[{"a":1},{"a":2}]', "rows"),
    ],
)
def test_json_is_read_however_it_is_written(tmp_path: Path, content: str, name: str) -> None:
    assert rows(tmp_path, content, name=name) == [Row(1, {"a": 1}), Row(2, {"a": 2})]


def test_a_single_object_may_be_laid_out_over_lines(tmp_path: Path) -> None:
    assert rows(tmp_path, '{\n  "a": [1,\n 2]\n}\n', name="one.json") == [Row(1, {"a": [1, 2]})]


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, "[ ]", name="rows.json") == []


@pytest.mark.parametrize("broken", ["{", '{"a":}', "7", "[1]", "null", '{"a":1}}', '{"a":"\\x"}', '{"a":NaN}'])
def test_a_line_that_is_no_object_is_reported(tmp_path: Path, broken: str) -> None:
    found = rows(tmp_path, f'{{"a":1}}\n{broken}\n{{"a":3}}\n', name="rows.ndjson")

    assert documents(found) == [{"a": 1}, None, {"a": 3}]
    assert found[1].problem


@pytest.mark.parametrize(
    "broken", ['{"a":}', "7", '"x, {y"', "[1, [2, 3]]", "null", '{"a":1}}', "", '{"a":1]', '{"a":NaN}']
)
def test_an_element_that_is_no_object_is_reported(tmp_path: Path, broken: str) -> None:
    found = rows(tmp_path, f'[{{"a":1}},{broken},{{"a":3}}]', name="rows.json")

    assert documents(found) == [{"a": 1}, None, {"a": 3}]
    assert found[1].problem


@pytest.mark.parametrize("broken", ['{"a":2', '{"a":"2}', '{"a":[2}', '{"a":"2\\"}'])
def test_an_element_that_never_ends_costs_one_row(tmp_path: Path, broken: str) -> None:
    lines = ",\n".join(['{"a":1}', broken, *(f'{{"a":{number}}}' for number in range(3, 30_000))])

    found = rows(tmp_path, f"[\n{lines}\n]", name="rows.json")

    assert [row.number for row in found if row.document is None] == [2]
    assert [row.document["a"] for row in found if row.document] == [1, *range(3, 30_000)]


@pytest.mark.parametrize("end", [",", ",\n", "", "\n", ',{"a', ',{"a":3'])
def test_an_array_that_is_cut_off_says_so_wherever_the_cut_is(tmp_path: Path, end: str) -> None:
    found = rows(tmp_path, '[{"a":1},{"a":2}' + end, name="rows.json")

    assert documents(found) == [{"a": 1}, {"a": 2}, None]
    assert found[2].problem


@pytest.mark.parametrize("content", ["42", '"text"', "null", "a,b\n1,2\n"])
def test_a_json_file_that_holds_no_objects_is_not_read_as_a_table(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match="neither an array nor an object"):
        rows(tmp_path, content, name="rows.json")


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
@pytest.mark.parametrize("content", ["", "\ufeff", " \n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(SourceError, match="it is empty"):
        rows(tmp_path, content, name=name)


def test_what_follows_an_array_is_reported(tmp_path: Path) -> None:
    found = rows(tmp_path, '[{"a":1}] [{"a":2}]', name="rows.json")

    assert documents(found) == [{"a": 1}, None]


def test_texts_with_brackets_and_escapes_do_not_end_an_element(tmp_path: Path) -> None:
    # One text of backslashes spans the places where the file is read in pieces.
    text = "\\\\" * 50_000 + '\\"],[{'

    found = rows(tmp_path, '[{"a":"' + text + '"},{"b":{"c":["]","}"]}}]', name="rows.json")

    assert documents(found) == [{"a": text.replace("\\\\", "\\").replace('\\"', '"')}, {"b": {"c": ["]", "}"]}}]


@pytest.mark.parametrize("name", ["rows.json", "rows.ndjson", "rows.csv"])
def test_a_large_file_is_read_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = '{"a":"%s"}' % ("x" * 200)
    with path.open("w") as file:
        file.write({"rows.json": "[", "rows.ndjson": "", "rows.csv": "a\n"}[name])
        for number in range(20_000):
            file.write(
                {"rows.json": f"{',' if number else ''}{line}\n", "rows.ndjson": f"{line}\n"}.get(
                    name, "x" * 200 + "\n"
                )
            )
        file.write("]" if name == "rows.json" else "")

    tracemalloc.start()
    count = sum(row.document is not None for row in read("anything", path))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 20_000
    assert peak_bytes < path.stat().st_size / 4


@pytest.mark.parametrize("pipeline", ["formats", "os", "a.b", "../searches", ""])
def test_a_pipeline_without_a_source_of_its_own_reads_files_as_they_stand(tmp_path: Path, pipeline: str) -> None:
    assert rows(tmp_path, "a\n1\n", pipeline=pipeline) == [Row(1, {"a": "1"})]
