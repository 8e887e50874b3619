"""Pipelines with a metric of every kind, for the tests of analytics."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel

from headrace.pipeline import Count, Distinct, GroupBy, Latest, Listing, Maximum, Minimum, Pipeline, Sum, Trend


class Order(BaseModel):
    product: str
    shop: str | None = None
    price: Decimal = Decimal("1.00")
    quantity: int = 1
    paid: bool = False
    at: datetime = datetime.fromisoformat("2026-01-01T00:00:00Z")
    day: date | None = None
    score: float | None = None
    customer: UUID | None = None
    tags: list[str] = []


orders = Pipeline(
    name="orders",
    accepts=Order,
    example={"product": "tea"},
    metrics=[
        Count("total"),
        Count("shops", by="shop"),
        Count("tags", by="tags[]"),
        Count("products_by_shop", by=("shop", "product")),
        Sum("revenue", of="price", by="shop"),
        Sum("items", of="quantity"),
        Minimum("cheapest", of="price", by=("shop", "product")),
        Maximum("dearest", of="price", by="product"),
        Trend("per_minute", every="1m", of="price", at="at"),
        Trend("by_hour", every="1h", by="shop", at="at"),
        Latest("last", by="product", at="at", of=("price", "shop")),
        Latest("newest", at="at", of=("product",)),
    ],
)


class Active(BaseModel):
    active: bool


class Member(BaseModel):
    number: int
    status: str | None = None
    city: str = "Graz"
    active: bool = True


members = Pipeline(
    name="members",
    accepts=Member,
    key=("number",),
    entity=True,
    example={"number": 1},
    metrics=[
        GroupBy("members"),
        GroupBy("statuses", by="status"),
        GroupBy("activity_by_city", by=("city", "active")),
        Distinct("cities", of="city"),
        Distinct("kinds", of="status"),
    ],
    views=[Listing(path="/members", sort="city", where=("active",), asks=Active)],
)
