"""Files of deliveries: tracks and orders as the public data sets have them, and locations as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from producer.formats import SourceError
from producer.sources import read
from producer.sources.deliveries import tracks

POINTS = """latitude,longitude,track_id,time
1.5,2.5,7,2014-09-13 07:24:37
1.0,2.0,7,2014-09-13 07:24:32
9.0,9.0,8,2014-09-13 07:24:00
2.0,3.0,7,2014-09-13 07:24:42
,3.0,7,2014-09-13 07:24:40
"""


def documents(path: Path) -> list[dict[str, Any] | None]:
    return [row.document for row in read("deliveries", path)]


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def states(path: Path) -> list[str]:
    return [found["delivery_state"] for found in documents(path) if found]


def test_a_track_starts_at_its_earliest_point_and_arrives_at_its_latest_wherever_they_stand(tmp_path: Path) -> None:
    path = file(tmp_path, "go_trackspoints.csv", POINTS)

    # The second track has one point: it has started, and whether it arrived nobody knows.
    assert states(path) == ["on_the_way", "start", "start", "arrived", "on_the_way"]
    assert documents(path)[4] == {
        "order_id": "7",
        "deliverer_id": "track-7",
        "delivery_state": "on_the_way",
        "timestamp": "2014-09-13 07:24:40",
        "longitude": "3.0",
    }


def test_shuffled_tracks_are_the_same_documents(tmp_path: Path) -> None:
    header, *lines = POINTS.splitlines(keepends=True)
    path = file(tmp_path, "go_trackspoints.csv", POINTS)
    other = file(tmp_path, "other.csv", header + "".join(reversed(lines)))

    assert sorted(map(str, documents(path))) == sorted(map(str, documents(other)))


def test_the_table_beside_the_points_says_who_drove(tmp_path: Path) -> None:
    path = file(tmp_path, "go_trackspoints.csv", POINTS)
    file(tmp_path, "go_tracks.csv", "id,id_android\n7,3\n")

    assert [found and found.get("deliverer_id") for found in documents(path)] == ["3", "3", None, "3", "3"]


ORDERS = """ID,Delivery_person_ID,Restaurant_latitude,Restaurant_longitude,Order_Date,Time_Orderd,Time_Order_picked
0x2318 ,COIMBRES13DEL01 ,11.003669,76.976494,30-03-2022,NaN ,15:05:00
0x3e86 ,MYSRES03DEL02 ,12.299524,76.64262,31-03-2022,23:55:00,00:05:00
0x0001 ,MYSRES03DEL02 ,NaN ,76.64262,31-02-2022,23:55:00,NaN
0x0002 ,MYSRES03DEL02 ,1,2,31-02-2022,11:55:00,12:00:00
"""


def test_an_order_starts_where_and_when_it_was_picked_up_and_its_arrival_is_not_made_up(tmp_path: Path) -> None:
    found = documents(file(tmp_path, "food.csv", ORDERS))

    assert found[0] == {
        "order_id": "0x2318",
        "deliverer_id": "COIMBRES13DEL01",
        "delivery_state": "start",
        "timestamp": "2022-03-30T15:05:00",
        "latitude": "11.003669",
        "longitude": "76.976494",
    }
    assert found[1]
    assert found[1]["timestamp"] == "2022-04-01T00:05:00"
    assert found[2] == {
        "order_id": "0x0001",
        "deliverer_id": "MYSRES03DEL02",
        "delivery_state": "start",
        "longitude": "76.64262",
    }
    # No such day: the schema names it.
    assert found[3]
    assert found[3]["timestamp"] == "31-02-2022 12:00:00"


@pytest.mark.parametrize("text", ['[{"latitude": 1, "longitude": 2, "track_id": 3, "time": "now"}]', "a,b\n1,2\n"])
def test_any_other_file_is_read_as_it_stands(tmp_path: Path, text: str) -> None:
    [found] = documents(file(tmp_path, "any", text))

    assert found in ({"latitude": 1, "longitude": 2, "track_id": 3, "time": "now"}, {"a": "1", "b": "2"})


def test_ways_are_the_tracks_in_order_of_time_without_what_is_no_place(tmp_path: Path) -> None:
    path = file(tmp_path, "points.csv", POINTS + "0,0,7,2014-09-13 07:24:33\n95,1,7,2014-09-13 07:24:34\nx,1,7,y\n")

    assert tracks(path) == {"7": [(1.0, 2.0), (1.5, 2.5), (2.0, 3.0)]}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b\n1,2\n", "has no tracks"), ("latitude,longitude,track_id,time\n1,2,3,now\n", "two points")],
)
def test_a_file_without_tracks_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        tracks(file(tmp_path, "points.csv", text))
