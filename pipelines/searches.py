"""Searches: a hotel search with every advertiser's offers; stored with the cheapest one, counted per user and hotel."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from headrace.pipeline import Count, Minimum, Pipeline, Trend, View

# 9999-12-31T23:59:59Z; a time in milliseconds lies beyond it and is refused.
_LAST_SECOND = 253_402_300_799

Advertiser = Annotated[str, StringConstraints(min_length=1, max_length=128)]


# A dict and not a model: a search holds some twenty offers, and pydantic makes dicts twice as fast.
@with_config(ConfigDict(extra="forbid"))
class Offer(TypedDict):
    """One price of an advertiser."""

    eurocents: Annotated[int, Field(strict=True, ge=0)]
    breakfast: NotRequired[Literal[True, False, "true", "false"] | None]


class HotelSearch(BaseModel):
    """One user's search of one hotel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: str = Field(
        pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", json_schema_extra={"format": "uuid"}
    )
    hotel_id: str = Field(pattern="^[0-9A-Za-z_-]{1,64}$", coerce_numbers_to_str=True)
    search_timestamp: float = Field(strict=True, ge=0, le=_LAST_SECOND, description="seconds since 1970, UTC")
    hotel_advertisers: dict[Advertiser, list[Offer]] = Field(min_length=1, description="offers by advertiser")


class MinOffer(BaseModel):
    """The cheapest offer of a search."""

    model_config = ConfigDict(frozen=True)

    price: int = Field(description="eurocents")
    advertiser: str


class PricedSearch(BaseModel):
    """A search reduced to who advertised and who was cheapest."""

    model_config = ConfigDict(frozen=True)

    user_id: str
    hotel_id: str
    search_timestamp: float
    advertisers: list[str]
    min_offer: MinOffer


def cheapest_offer(search: HotelSearch) -> PricedSearch:
    """Return the stored form; of advertisers with the same price the first wins, one without offers never does.

    Raises:
        ValueError: no advertiser has an offer.
    """
    price, advertiser = -1, ""
    for name, offers in search.hotel_advertisers.items():
        for offer in offers:
            if price < 0 or offer["eurocents"] < price:
                price, advertiser = offer["eurocents"], name
    if price < 0:
        raise ValueError("No advertiser in hotel_advertisers has an offer, so there is no cheapest one; add an offer.")
    return PricedSearch(
        user_id=search.user_id.lower(),
        hotel_id=search.hotel_id,
        search_timestamp=search.search_timestamp,
        advertisers=list(search.hotel_advertisers),
        min_offer=MinOffer(price=price, advertiser=advertiser),
    )


def counted(answer: dict[str, Any]) -> dict[str, Any]:
    """Return how many keys there are, and how often each was seen."""
    return {"count": answer["count"], "data": answer["data"]}


def least_prices(answer: dict[str, Any]) -> Any:
    """Return {hotel_id: {advertiser: least price in eurocents}}."""
    return answer["data"]


searches = Pipeline(
    name="searches",
    description="Hotel searches with the offers of each advertiser",
    accepts=HotelSearch,
    yields=PricedSearch,
    transform=cheapest_offer,
    metrics=[
        Count("users", by="user_id"),
        Count("hotels", by="hotel_id"),
        Count("advertisers", by="advertisers[]"),
        Minimum("hotels_min_offers", of="min_offer.price", by=("hotel_id", "min_offer.advertiser")),
        Trend("per_minute", every="1m"),
    ],
    views=[
        View(path="/users", metric="users", shape=counted, summary="Searches per user"),
        View(path="/hotels", metric="hotels", shape=counted, summary="Searches per hotel"),
        View(path="/advertisers", metric="advertisers", shape=counted, summary="Searches per advertiser"),
        View(
            path="/hotel_min_offer_per_advertiser",
            metric="hotels_min_offers",
            shape=least_prices,
            summary="Least price per hotel and winning advertiser",
        ),
    ],
    example={
        "user_id": "001adddd-6a55-4cd0-a1a1-9ca20e20d488",
        "hotel_id": "6036",
        "search_timestamp": 1620224528,
        "hotel_advertisers": {
            "Amoma": [{"eurocents": 17558, "breakfast": False}],
            "Mercure": [{"eurocents": 31266, "breakfast": False}, {"eurocents": 12621, "breakfast": None}],
        },
    },
)
