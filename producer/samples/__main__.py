"""Writes the sample files of deliveries, invoices, licences, searches and students.

python -m producer.samples [FOLDER]
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random

from pipelines.students import Student
from producer.generators import documents
from producer.generators.deliveries import location, straight

INVOICES = 200
LINES = 60
STUDENTS = 240
LICENSES = 120
ORDERS = 12
TRACKS = 6
_SEED = 7
# 2024-01-31T11:00:00Z, in milliseconds.
_BEGAN = 1_706_698_800_000


def invoices() -> str:
    """Return a table as spreadsheets of half of Europe write it: semicolons, decimal commas, mark at the start."""
    rows = [dict(row) for row in islice(documents("invoices", _SEED), INVOICES)]
    # As in the real set: no customer, nor description, and a return that is no cancellation.
    for number in (23, 24, 25, 118, 161):
        del rows[number]["CustomerID"]
    del rows[161]["Description"]
    rows[77]["Quantity"] = -3
    text = io.StringIO("\ufeff", newline="")
    text.seek(0, io.SEEK_END)
    table = csv.DictWriter(text, list(rows[0]), delimiter=";", lineterminator="\n", restval="")
    table.writeheader()
    for row in rows:
        table.writerow({**row, "UnitPrice": f"{row['UnitPrice']:.2f}".replace(".", ",")})
    lines = text.getvalue().splitlines(keepends=True)
    # A row that some program has put in quotes as a whole.
    lines[140] = '"' + lines[140].rstrip("\n").replace('"', '""') + '"\n'
    return "".join(lines)


def searches() -> str:
    """Return lines of user, time and hotels; hotel ids are bare, and one hotel has advertisers without offers."""
    lines = []
    made = documents("searches", _SEED)
    for number in range(LINES):
        found = list(islice(made, 1 + number % 5))
        hotels = {search["hotel_id"]: {"advertisers": search["hotel_advertisers"]} for search in found}
        if number == 41:
            hotels[found[0]["hotel_id"]] = {"advertisers": {"Roomvine": [], "Pillowpost": []}}
        bare = ",".join(f"{hotel}:{json.dumps(offers, separators=(',', ':'))}" for hotel, offers in hotels.items())
        lines.append(f"{found[0]['user_id']}\t{int(found[0]['search_timestamp'])}\t{{{bare}}}\n")
    return "".join(lines)


def students() -> str:
    """Return a table as the UCI set writes it: semicolons, texts and two of the marks in quotes; some rows untidy."""
    rows = [dict(row) for row in islice(documents("students", _SEED), STUDENTS)]
    # As people type them: these are cleaned,
    rows[11]["school"] = " gp "
    rows[12]["Mjob"] = "At Home"
    rows[13]["higher"] = "YES\u00a0"
    # and these are refused.
    rows[57]["age"] = 71
    rows[58]["G3"] = "n/a"
    del rows[59]["reason"]
    names = list(Student.model_fields)
    lines = [";".join(names)]
    for row in rows:
        lines.append(";".join(_cell(name, row.get(name, "")) for name in names))
    return "\n".join(lines) + "\n"


def _cell(name: str, value: object) -> str:
    return f'"{value}"' if isinstance(value, str) or name in ("G1", "G2") else str(value)


def deliveries() -> str:
    """Return locations in the order in which networks delivered them, with some sent twice and some impossible."""
    random = Random(_SEED)
    rows = []
    for order in range(1, ORDERS + 1):
        way, began = straight(random), _BEGAN + order * 40_000
        rows += [location(order, 1 + order % 4, way, index, 8, began + index * 15_000) for index in range(8)]
    # No fix, a clock that was never set, degrees times ten, a state that there is not.
    rows[13] = {**rows[13], "latitude": 0, "longitude": 0}
    rows[31] = {**rows[31], "timestamp": "1970-01-01T00:00:31Z"}
    rows[44] = {**rows[44], "latitude": -109.472}
    rows[59] = {**rows[59], "delivery_state": "lost"}
    rows += rows[20:26]
    random.shuffle(rows)
    return _table(rows)


def tracks() -> tuple[str, str]:
    """Return points and tracks in the form of the Go!Track set; the points of tracks are mixed, as they came in."""
    random = Random(_SEED)
    points, of_tracks = [], []
    for track in range(1, TRACKS + 1):
        way, count = straight(random), 3 * track - 2
        of_tracks.append({"id": track, "id_android": track % 3, "rating": 3, "car_or_bus": 1})
        for index in range(count):
            found = location(track, 0, way, index, count, _BEGAN + index * 5_000 + track * 1_000)
            time = found["timestamp"][:19].replace("T", " ")
            points.append((time, {"latitude": found["latitude"], "longitude": found["longitude"], "track_id": track}))
    points.sort(key=lambda point: point[0])
    return _table([{**point, "time": time} for time, point in points]), _table(of_tracks)


def orders() -> str:
    """Return orders in the form of the food delivery set: text padded, NaN where nothing is known, 0 for no place."""
    rows: list[dict[str, object]] = []
    for number in range(1, 21):
        latitude, longitude = straight(Random(number))(1.0)
        ordered = 19 * 60 + 17 * number
        picked = ordered + 10
        rows.append(
            {
                "ID": f"0x{4096 + 37 * number:x} ",
                "Delivery_person_ID": f"AJURES0{1 + number % 5}DEL0{1 + number % 3} ",
                "Restaurant_latitude": round(latitude, 6),
                "Restaurant_longitude": round(longitude, 6),
                "Delivery_location_latitude": round(latitude + 0.02, 6),
                "Delivery_location_longitude": round(longitude + 0.02, 6),
                "Order_Date": "31-01-2024",
                "Time_Orderd": _time_of_day(ordered),
                "Time_Order_picked": _time_of_day(picked),
            }
        )
    rows[3]["Time_Orderd"] = "NaN "
    rows[8] |= {"Restaurant_latitude": 0, "Restaurant_longitude": 0}
    rows[11]["Time_Order_picked"] = "NaN "
    return _table(rows)


def _time_of_day(minute: int) -> str:
    return f"{minute // 60 % 24:02d}:{minute % 60:02d}:00"


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def licenses() -> str:
    """Return rows as the city's API gives them: an array, one row a line, old names in some, a few rows spoiled."""
    rows = [dict(row) for row in islice(documents("licenses", _SEED), LICENSES)]
    for row in rows[:30]:
        # The API before 2020 had no time of change, and called some fields otherwise.
        row["industry"], row["business_name_2"] = row.pop("business_category"), "ANOTHER NAME"
        del row[":updated_at"], row["business_unique_id"]
    rows[44]["license_creation_date"] = "31/12/2025"
    del rows[77]["license_nbr"]
    rows[101]["latitude"] = "north"
    return "[" + "\n,".join(json.dumps(row, separators=(",", ":")) for row in rows) + "]\n"


def write(folder: Path) -> None:
    (folder / "invoices.csv").write_text(invoices(), encoding="utf-8", newline="")
    (folder / "licenses.json").write_text(licenses(), encoding="utf-8", newline="")
    (folder / "searches.txt").write_text(searches(), encoding="utf-8", newline="")
    (folder / "students.csv").write_text(students(), encoding="utf-8", newline="")
    (folder / "deliveries.csv").write_text(deliveries(), encoding="utf-8", newline="")
    points, of_tracks = tracks()
    (folder / "deliveries_trackspoints.csv").write_text(points, encoding="utf-8", newline="")
    (folder / "deliveries_tracks.csv").write_text(of_tracks, encoding="utf-8", newline="")
    (folder / "deliveries_orders.csv").write_text(orders(), encoding="utf-8", newline="")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
