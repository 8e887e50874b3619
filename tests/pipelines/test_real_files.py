"""Real files from end to end of the pure path: source, schema, transform; recounted with nothing but csv and json."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from headrace.errors import DocumentError
from headrace.pipeline import Pipeline
from headrace.schema import validate
from pipelines.deliveries import deliveries
from pipelines.invoices import StoredInvoiceLine, invoices
from pipelines.searches import searches
from pipelines.students import students
from producer.sources import read

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not beside this repository")


def run(pipeline: Pipeline, path: Path) -> tuple[list[Any], Counter[str]]:
    """Return the stored form of every accepted row, and how many rows were refused for what."""
    stored: list[Any] = []
    refused: Counter[str] = Counter()
    for row in read(pipeline.name, path):
        if row.document is None:
            refused["unreadable"] += 1
            continue
        try:
            stored.append(pipeline.apply(validate(pipeline, msgspec.json.encode(row.document))))
        except DocumentError as error:
            refused[" ".join(f"{broken.pointer} {broken.code}" for broken in error.errors)] += 1
    return stored, refused


@dataclass
class Totals:
    """What an accountant would add up."""

    lines: int = 0
    cancelled: int = 0
    revenue: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    pieces: Counter[str] = field(default_factory=Counter)
    days: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    def add(self, country: str, product: str, day: str, quantity: int, amount: Decimal, *, cancelled: bool) -> None:
        self.lines += 1
        self.cancelled += cancelled
        self.revenue[country] += amount
        self.pieces[product] += quantity
        self.days[day] += amount


def totals(stored: list[StoredInvoiceLine]) -> Totals:
    found = Totals()
    for line in stored:
        day = line.invoice_date.date().isoformat()
        found.add(line.country, line.stock_code, day, line.quantity, line.amount, cancelled=line.cancelled)
    return found


def recount(path: Path, delimiter: str, date_format: str) -> Totals:
    found = Totals()
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            if row["StockCode"] is None or not row["CustomerID"] or not row["Description"]:
                continue
            quantity = int(row["Quantity"])
            found.add(
                row["Country"],
                row["StockCode"],
                datetime.strptime(row["InvoiceDate"], date_format).date().isoformat(),  # noqa: DTZ007  # only its day
                quantity,
                quantity * Decimal(row["UnitPrice"].replace(",", ".")),
                cancelled=row["InvoiceNo"].startswith("C"),
            )
    return found


def test_the_semicolon_file_is_accepted_but_for_lines_without_customer() -> None:
    path = DATA / "invoices" / "OnlineRetail_semicolon.csv"

    stored, refused = run(invoices, path)

    assert refused == {"/CustomerID missing": 2249, "/Description missing /CustomerID missing": 42}
    assert len(stored) == 10_000 - 2_291
    assert totals(stored) == recount(path, ";", "%d/%m/%Y %H:%M")
    # December 2010 has days 1 to 5 in this file; read month first they would be in five months.
    assert {line.invoice_date.month for line in stored} == {12}


def test_the_comma_file_is_accepted_but_for_two_rows_in_quotes() -> None:
    path = DATA / "invoices" / "OnlineRetail_comma.csv"

    stored, refused = run(invoices, path)

    assert refused == {"unreadable": 2}
    assert len(stored) == 493
    assert totals(stored) == recount(path, ",", "%d-%m-%Y %H:%M")


def test_every_past_search_is_accepted_and_priced_as_by_hand() -> None:
    path = DATA / "searches" / "search_results_data.txt"

    stored, refused = run(searches, path)

    expected = []
    for line in path.read_text().splitlines():
        user, moment, hotels = line.split("\t")
        for hotel, found in json.loads(re.sub(r"([{,])([0-9]+):", r'\1"\2":', hotels)).items():
            offers = [(offer["eurocents"], name) for name, all_ in found["advertisers"].items() for offer in all_]
            price, advertiser = min(offers, key=lambda offer: offer[0])
            expected.append((user, hotel, float(moment), list(found["advertisers"]), price, advertiser))
    assert not refused
    assert [
        (s.user_id, s.hotel_id, s.search_timestamp, s.advertisers, s.min_offer.price, s.min_offer.advertiser)
        for s in stored
    ] == expected
    assert len(stored) == 1664
    assert len({s.user_id for s in stored}) == 130


def test_every_student_is_accepted_and_the_marks_are_those_that_pandas_counts() -> None:
    path = DATA / "students" / "student-por.csv"

    stored, refused = run(students, path)

    frame = pd.read_csv(path, sep=";")
    assert not refused
    assert len(stored) == len(frame) == 649
    found = pd.DataFrame(one.model_dump() for one in stored)
    bands = pd.cut(
        frame.G3, [-1, 9, 11, 13, 15, 20], labels=["fail", "sufficient", "satisfactory", "good", "excellent"]
    )
    assert found.band.value_counts().to_dict() == bands.value_counts().to_dict()
    assert found.passed.tolist() == (frame.G3 >= 10).tolist()
    assert found.groupby("school").G3.mean().to_dict() == frame.groupby("school").G3.mean().to_dict()
    words = found[frame.columns].map(lambda value: {True: "yes", False: "no"}[value] if type(value) is bool else value)
    assert (words == frame).all(axis=None)


def test_every_point_of_every_track_is_accepted_and_ends_where_the_file_ends() -> None:
    path = DATA / "deliveries" / "go_track_trackspoints.csv"

    stored, refused = run(deliveries, path)

    with path.open(newline="") as points, path.with_name("go_track_tracks.csv").open(newline="") as tracks:
        rows = list(csv.DictReader(points))
        drivers = {row["id"]: row["id_android"] for row in csv.DictReader(tracks)}
    # Within a track the file is in order of time.
    last = {row["track_id"]: (row["time"], float(row["latitude"]), float(row["longitude"])) for row in rows}
    newest = {
        one.order_id: (one.timestamp.strftime("%Y-%m-%d %H:%M:%S"), one.latitude, one.longitude)
        for one in sorted(stored, key=lambda one: one.timestamp)
    }
    assert not refused
    assert newest == last
    assert Counter(one.order_id for one in stored) == Counter(row["track_id"] for row in rows)
    assert {one.order_id: one.deliverer_id for one in stored} == drivers
    assert Counter(one.delivery_state for one in stored) == {"start": 163, "on_the_way": 17_790, "arrived": 154}


def test_an_order_without_a_place_is_refused_and_any_other_starts_when_it_was_picked_up() -> None:
    path = DATA / "deliveries" / "food_delivery_orders.csv"

    stored, refused = run(deliveries, path)

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["Restaurant_latitude"]) != 0]
    assert refused == {"/longitude no_fix": 431}
    assert [one.order_id for one in stored] == [row["ID"].strip() for row in rows]
    assert [one.timestamp.strftime("%H:%M:%S") for one in stored] == [row["Time_Order_picked"] for row in rows]
    later = [
        one.timestamp.date() - datetime.strptime(row["Order_Date"], "%d-%m-%Y").date()  # noqa: DTZ007  # only its day
        for one, row in zip(stored, rows, strict=True)
    ]
    past_midnight = ["NaN" not in row["Time_Orderd"] and row["Time_Order_picked"] < row["Time_Orderd"] for row in rows]
    assert [days.days for days in later] == past_midnight
    assert sum(past_midnight) == 95
