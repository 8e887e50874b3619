"""Bytes to a valid document, or to the list of rules they break; the door and refine share it.

Two layers. The first holds for every JSON object whatever its pipeline, since some store behind
would choke: depth, 64-bit integers, NUL, lone surrogates, NaN. The second is the pipeline's schema.
A key that is repeated in an object counts with its last value.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headrace.errors import DocumentError, FieldError, RequestError
from headrace.pipeline import Pipeline

MAX_DEPTH: Final = 64
INT64: Final = range(-(2**63), 2**63)

# Looked at only to find the few documents that need a closer look. With every digit made 0, a whole number that may
# pass 64 bits is a run of 19 zeros, and an exponent that may pass a double has three.
_FLAT: Final = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER: Final = b"0" * 19
_EXPONENT = re.compile(rb"[0-9][eE][+-]?[0-9]{3,}\s*[,\]}]")
# One that is not closed ends with the data; were it no match, the next quote would be tried, and the next.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_MAX_ERRORS: Final = 20


def validate(pipeline: Pipeline, data: bytes, *, max_depth: int = MAX_DEPTH) -> BaseModel:
    """Return the document as its pipeline's `accepts` model.

    Raises:
        RequestError: not JSON (400 `malformed_json`).
        DocumentError: it breaks rules; every broken rule is named, up to 20.
    """
    check_json(data, max_depth=max_depth)
    try:
        return pipeline.accepts.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise schema_error(pipeline, error) from None


def check_json(data: bytes, *, max_depth: int = MAX_DEPTH) -> None:
    """Refuse what no pipeline may pass on.

    The fast path only scans bytes; a document is walked when a scan finds something that may matter.

    Raises:
        RequestError: not JSON.
        DocumentError: too deep, an integer beyond 64 bits, NUL or a number beyond a double.
    """
    if data.count(b"{") + data.count(b"[") > max_depth and _is_deeper(data, max_depth):
        raise DocumentError(
            f"The document is nested deeper than {max_depth} levels.",
            code="too_deep",
            errors=[FieldError("", "too_deep", f"Flatten it to at most {max_depth} levels.")],
        )
    if holds(data, b"\\u") or _may_hold_bad_number(data):
        _walk(parse(data), "")


def _may_hold_bad_number(data: bytes) -> bool:
    flat = data.translate(_FLAT)
    if holds(flat, _LONG_NUMBER) or holds(data, b"NaN") or holds(data, b"Infinity"):
        return True
    if not holds(flat, b"0e"):
        return False
    exponent = holds(flat, b"0e000") or holds(flat, b"0e+000") or holds(flat, b"0e-000")
    return exponent and _EXPONENT.search(data) is not None


def holds(data: bytes, part: bytes) -> bool:
    """Return `part in data`, in half the time: that tries the part as a number first, and drops an exception."""
    return data.find(part) >= 0


def parse(data: bytes) -> Any:
    """Return JSON as Python values.

    Raises:
        RequestError: not JSON, with the place where it breaks.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(str(error)) from None


def malformed(why: str) -> RequestError:
    return RequestError(
        f"The body is not JSON: {why}.",
        code="malformed_json",
        errors=[FieldError("", "malformed_json", "Send one JSON object in UTF-8.")],
    )


def schema_error(pipeline: Pipeline, error: ValidationError) -> RequestError:
    """Return what pydantic found as our error; never with the values, which are the client's own."""
    found = error.errors(include_url=False, include_context=True, include_input=False)
    if found[0]["type"] == "json_invalid":
        return malformed(str(found[0].get("ctx", {}).get("error", "it cannot be parsed")))
    errors = [FieldError(pointer_of(item["loc"]), item["type"], _advice(item)) for item in found[:_MAX_ERRORS]]
    fields = ", ".join(dict.fromkeys(e.pointer or "the document itself" for e in errors))
    return DocumentError(f"The document breaks the schema of {pipeline.name}: {fields}.", errors=errors)


def pointer_of(location: tuple[int | str, ...]) -> str:
    """Return an RFC 6901 pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _advice(item: ErrorDetails) -> str:
    """Return rule and fix; pydantic's message says the rule."""
    if item["type"] == "missing":
        return "This field is required; add it."
    if item["type"] == "extra_forbidden":
        return "The schema has no such field; remove it or correct its name."
    return item["msg"] + "."


def _is_deeper(data: bytes, max_depth: int) -> bool:
    """Return whether brackets nest deeper than that, without recursion, so that hostile input costs no stack."""
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > max_depth:
                return True
        else:
            depth -= 1
    return False


def _walk(value: Any, pointer: str) -> None:
    match value:
        case str():
            if "\x00" in value:
                raise _refused(
                    pointer, "nul_character", "Text must not hold U+0000; Postgres cannot store it. Remove it."
                )
        case bool():
            pass
        case int():
            if value not in INT64:
                raise _refused(pointer, "integer_range", "Whole numbers must fit 64 bits; send this one as a string.")
        case dict():
            for key, item in value.items():
                if "\x00" in key:
                    raise _refused(pointer, "nul_character", "A key must not hold U+0000. Rename it.")
                _walk(item, f"{pointer}{pointer_of((key,))}")
        case list():
            for index, item in enumerate(value):
                _walk(item, f"{pointer}/{index}")


def _refused(pointer: str, code: str, message: str) -> DocumentError:
    return DocumentError(
        f"The document holds a value that cannot be stored, at {pointer or 'its top'}.",
        errors=[FieldError(pointer, code, message)],
    )
