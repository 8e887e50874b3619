"""Which of two versions of an entity is the newer by what they say themselves: as text that sorts, for every store.

A version's precedence is one text, made of the fields that `Pipeline.newest_by` names. Byte order of the texts is the
order of the versions, so Postgres and MongoDB compare nothing but text, and never disagree. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from headrace.document import parse_time

if TYPE_CHECKING:
    from headrace.fields import Field

# What a path ends in where only being there counts.
THERE: Final = "?"
# Sorts before every character that a text may hold: U+0000 is refused at the door.
_END: Final = "\x01"


def _text(value: str) -> str:
    return value.replace(_END, _END + "\x02") + _END + _END


def _time(value: str) -> str:
    time = parse_time(value)
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time.astimezone(UTC).isoformat(timespec="microseconds")[:26]


def _double(value: float) -> str:
    # IEEE 754: with the sign turned, and all of a negative one, the bits sort as the numbers do. -0.0 is 0.0.
    (bits,) = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))
    return f"{bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63):016x}"


def _nothing(_: Any) -> str:
    return ""


_ENCODERS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": _text,
    "bigint": lambda value: f"{value + 2**63:020d}",
    "double precision": _double,
    "boolean": lambda value: "1" if value else "0",
    # Their standard forms sort, and are all of one length.
    "date": str,
    "timestamptz": _time,
}

Precedence = Callable[[Mapping[str, Any]], str]


def check(paths: Sequence[str], types: Mapping[str, str]) -> None:
    """Refuse paths by which versions cannot be put in order.

    Args:
        types: SQL type by path, of the stored form.

    Raises:
        ValueError: a path is no field, or one without an order.
    """
    for path in paths:
        name = path.removesuffix(THERE)
        if name not in types:
            raise ValueError(f"newest_by: {name!r} is no field; there are {', '.join(sorted(types))}")
        if path == name and types[name] not in _ENCODERS:
            raise ValueError(f"newest_by: {name!r} is of type {types[name]}; it takes {', '.join(_ENCODERS)}")


def precedence(paths: Sequence[str], fields: Sequence[Field]) -> Precedence:
    """Return a function from a stored form in JSON types to its precedence; without paths all are equal.

    Null is the lowest; of a path that ends in `?` only whether it is null counts.
    """
    by_path = {field.path: field for field in fields}
    parts = [_part(by_path[path.removesuffix(THERE)], only_there=path.endswith(THERE)) for path in paths]
    return lambda document: "".join([part(document) for part in parts])


def _part(field: Field, *, only_there: bool) -> Precedence:
    encode = _nothing if only_there else _ENCODERS[field.sql_type]

    def part(document: Mapping[str, Any]) -> str:
        value: Any = document
        for name in field.parts:
            value = value.get(name) if isinstance(value, Mapping) else None
        # Letters, since where there was no precedence an age in MongoDB began with the year.
        return "n" if value is None else "v" + encode(value)

    return part
