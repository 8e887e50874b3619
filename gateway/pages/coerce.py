"""What somebody typed into a form, as a JSON value. Pure.

What is not of its field's type is passed on as the text it is: the pipeline's schema refuses it, and says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.pages.nodes import Input
from headrace.errors import FieldError

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,5})?")
_LOCAL_MOMENT: Final = re.compile(r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?")


class Absent:
    """There is no value: the document has no such member."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


def coerce(field: Input, texts: Sequence[str]) -> tuple[Any, FieldError | None]:
    """Return the value of a field and what is wrong with it, as a rule at its own place.

    An empty text is no value: null where it may be null and must be there or has a default, else absent.

    Args:
        texts: what the form sent under the field's name, in order; usually one.
    """
    if field.kind == "choices":
        if chosen := [_chosen(field, text) for text in texts if text]:
            return chosen, None
        # An empty list is what no tick means, where the list has to be there.
        return ([] if field.required else _nothing(field)), None
    text = texts[-1] if texts else ""
    if not text.strip():
        # White space alone is nothing too: HTML forms send it by accident.
        return _nothing(field), None
    return _given(field, text.replace("\r\n", "\n"))


def _nothing(field: Input) -> Any:
    return None if field.nullable and (field.required or field.default) else ABSENT


def _given(field: Input, text: str) -> tuple[Any, FieldError | None]:
    match field.kind:
        case "choice":
            return _chosen(field, text), None
        case "integer" | "number" | "decimal":
            return _scalar(field.kind, text), None
        case "lines":
            return [_scalar(field.item, line) for line in text.split("\n") if line.strip()], None
        case "moment":
            plain = text.strip()
            return (f"{plain}Z" if _LOCAL_MOMENT.fullmatch(plain) else plain), None
        case "json":
            return _json(text)
        case "text" | "long_text":
            return text, None
        case _:
            return text.strip(), None


def _scalar(kind: str, text: str) -> Any:
    plain = text.strip()
    if kind == "decimal":
        # As text it stays exact.
        return plain
    if kind in ("integer", "number") and _WHOLE.fullmatch(plain):
        return int(plain)
    if kind == "number" and _NUMBER.fullmatch(plain) and math.isfinite(number := float(plain)):
        return number
    return plain if kind != "text" else text


def _chosen(field: Input, text: str) -> Any:
    return next((choice.value for choice in field.choices if choice.text == text), text)


def _json(text: str) -> tuple[Any, FieldError | None]:
    try:
        # Kept as it was written, so that no number loses a digit.
        return msgspec.json.decode(text, type=msgspec.Raw).copy(), None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ABSENT, FieldError("", "malformed_json", f"This is not JSON: {error}.")
