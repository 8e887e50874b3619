"""The source of searches: lines of user, time and hotels become one document per hotel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from producer.sources import Row, read

USER = "001adddd-6a55-4cd0-a1a1-9ca20e20d488"


def rows(tmp_path: Path, content: str | bytes, name: str = "past.txt") -> list[Row]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read("searches", path))


def search(hotel: str, advertisers: dict[str, Any], moment: Any = 1620224528) -> dict[str, Any]:
    return {"user_id": USER, "hotel_id": hotel, "search_timestamp": moment, "hotel_advertisers": advertisers}


def test_a_line_is_one_search_per_hotel(tmp_path: Path) -> None:
    hotels = '{6036:{"advertisers":{"Amoma":[{"eurocents":17558,"breakfast":false}]}},6035:{"advertisers":{"B":[]}}}'

    assert rows(tmp_path, f"{USER}\t1620224528\t{hotels}\n") == [
        Row(1, search("6036", {"Amoma": [{"eurocents": 17558, "breakfast": False}]})),
        Row(2, search("6035", {"B": []})),
    ]


@pytest.mark.parametrize(
    "hotels",
    [
        '{ 6036 : {"advertisers":{"A":[]}} }',
        '{"6036":{"advertisers":{"A":[]}}}',
        '{6036:{advertisers:{"A":[]}}}',
    ],
)
def test_keys_may_stand_with_or_without_quotes(tmp_path: Path, hotels: str) -> None:
    assert rows(tmp_path, f"{USER}\t1620224528\t{hotels}\r\n") == [Row(1, search("6036", {"A": []}))]


def test_what_looks_like_a_key_inside_a_name_stays(tmp_path: Path) -> None:
    name = '{1:,2: \\"x\\",3:'

    found = rows(tmp_path, f'{USER}\t1620224528\t{{6036:{{"advertisers":{{"{name}":[]}}}}}}\n')

    assert found == [Row(1, search("6036", {'{1:,2: "x",3:': []}))]


@pytest.mark.parametrize(("text", "moment"), [("1620224528.5", 1620224528.5), ("soon", "soon"), ("", "")])
def test_a_time_that_is_no_number_is_left_to_the_schema(tmp_path: Path, text: str, moment: Any) -> None:
    found = rows(tmp_path, f'{USER}\t{text}\t{{6036:{{"advertisers":{{"A":[]}}}}}}\n')

    assert found == [Row(1, search("6036", {"A": []}, moment))]


@pytest.mark.parametrize("value", ["{}", "[]", "null", '{"offers":1}'])
def test_a_hotel_without_advertisers_is_left_to_the_schema(tmp_path: Path, value: str) -> None:
    found = rows(tmp_path, f"{USER}\t1620224528\t{{6036:{value}}}\n")

    assert found == [Row(1, {"user_id": USER, "hotel_id": "6036", "search_timestamp": 1620224528})]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("only a user", "line 2: not user, time and hotels with tabs between"),
        (f"{USER}\t1620224528", "line 2: not user, time and hotels with tabs between"),
        (f"{USER}\t1\t{{}}", "line 2: there is no hotel"),
        (f"{USER}\t1\t[]", "line 2: the hotels are JSON, but not an object"),
        (f"{USER}\t1\t{{6036:", "line 2: the hotels are not JSON"),
        (b"\xff\t1\t{}", "line 2: not UTF-8"),
    ],
)
def test_a_broken_line_is_reported_and_the_lines_behind_it_come(
    tmp_path: Path, line: str | bytes, problem: str
) -> None:
    good = f'{USER}\t1620224528\t{{6036:{{"advertisers":{{"A":[]}}}}}}\n'.encode()
    broken = line.encode() if isinstance(line, str) else line

    found = rows(tmp_path, good + broken + b"\n\n" + good)

    assert [row.number for row in found] == [1, 2, 3]
    assert [row.document is None for row in found] == [False, True, False]
    assert found[1].problem is not None
    assert found[1].problem.startswith(problem)


def test_searches_may_also_come_as_json_or_as_a_table(tmp_path: Path) -> None:
    assert rows(tmp_path, '{"hotel_id":"1"}\n', "past.ndjson") == [Row(1, {"hotel_id": "1"})]
    assert rows(tmp_path, '[{"hotel_id":"1"}]', "past.txt") == [Row(1, {"hotel_id": "1"})]
    assert rows(tmp_path, "hotel_id,user_id\n1,2\n", "past.csv") == [Row(1, {"hotel_id": "1", "user_id": "2"})]
