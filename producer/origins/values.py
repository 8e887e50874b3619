"""Values of a database as JSON has them, exactly, or not at all. Pure."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

import msgspec


class NoJsonError(Exception):
    """A value has no form in JSON; the message says why and what to do."""


def json_value(value: Any) -> Any:
    """Return a value for JSON: exact decimals as text, moments in ISO 8601.

    Raises:
        NoJsonError: it would have to be made up.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise NoJsonError("JSON has no such number.")
            return value
        case Decimal():
            if not value.is_finite():
                raise NoJsonError("JSON has no such number.")
            return format(value, "f")
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return msgspec.to_builtins(value)
        case Enum():
            return json_value(value.value)
        case UUID() | IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return str(value)
        case list() | tuple():
            return [json_value(one) for one in value]
        case dict():
            return {str(name): json_value(one) for name, one in value.items()}
        case bytes() | bytearray() | memoryview():
            raise NoJsonError("It is binary, which JSON has no form for; --drop the column.")
    raise NoJsonError(f"A {type(value).__name__} has no form in JSON; --drop the column.")
