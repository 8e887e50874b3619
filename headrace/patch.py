"""JSON Patch (RFC 6902) on a document's bytes: checked as a whole before it is used, exact with numbers. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import jsonpatch
import msgspec
from jsonpointer import JsonPointerException

from headrace.errors import DocumentError, FieldError
from headrace.schema import MAX_DEPTH, parse

MAX_OPERATIONS: Final = 100
OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")
# Copies of copies grow without end; no document may be larger than this anyway.
_MAX_BYTES: Final = 1 << 20

# A number keeps every digit that it came with.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

Operation = Mapping[str, Any]


@dataclass(frozen=True)
class Patch:
    """Use `patch_of`."""

    operations: tuple[dict[str, Any], ...]

    @property
    def text(self) -> str:
        return _encode(list(self.operations)).decode()

    def apply(self, data: bytes) -> bytes:
        """Return the document with the patch applied, on one line.

        Raises:
            RequestError: the bytes are no JSON.
            DocumentError: an operation does not fit this document (422 `patch_failed`), and which one.
        """
        parse(data)
        document = _decode(data)
        for index, operation in enumerate(self.operations):
            try:
                # The library puts a value into the document as it is, and later operations would change it there.
                document = jsonpatch.JsonPatch([copy.deepcopy(operation)]).apply(document, in_place=True)
                if operation["op"] == "copy" and len(_encode(document)) > _MAX_BYTES:
                    raise _misfit(index, operation, "makes the document too large")
            except jsonpatch.JsonPatchTestFailed:
                raise _misfit(index, operation, "finds another value, or none") from None
            except jsonpatch.JsonPatchConflict:
                raise _misfit(index, operation, "finds nothing there, or would put a value into itself") from None
            except (jsonpatch.JsonPatchException, JsonPointerException, TypeError):
                raise _misfit(index, operation, "finds no such place in the document") from None
            except RecursionError:
                raise _misfit(index, operation, f"nests the document deeper than {MAX_DEPTH} levels") from None
        try:
            return _encode(document)
        except (RecursionError, TypeError, ValueError, msgspec.MsgspecError):
            raise DocumentError("The patched document is no JSON that can be stored.", code="patch_failed") from None


def patch_of(value: Any, *, place: str = "/patch") -> Patch:
    """Return a JSON Patch from its operations.

    Args:
        value: as JSON has it, decoded; see `loads`.
        place: where it stands in the request, for the errors.

    Raises:
        DocumentError: it is none (422 `invalid_patch`); every wrong operation is named by its index.
    """
    if not isinstance(value, list):
        raise invalid_patch([FieldError(place, "list_type", "A JSON Patch is an array of operations (RFC 6902).")])
    if not 1 <= len(value) <= MAX_OPERATIONS:
        raise invalid_patch([FieldError(place, "length", f"Give 1 to {MAX_OPERATIONS} operations.")])
    errors = [
        FieldError(f"{place}/{index}{where}", code, message)
        for index, operation in enumerate(value)
        for where, code, message in _faults(operation)
    ]
    if errors:
        raise invalid_patch(errors)
    return Patch(tuple(value))


def loads(text: bytes) -> Any:
    """Return JSON with every digit of its numbers.

    Raises:
        RequestError: it is no JSON.
    """
    parse(text)
    return _decode(text)


def dumps(value: Any) -> bytes:
    """Return JSON; the inverse of `loads`."""
    return _encode(value)


def difference(before: bytes, after: Any) -> list[dict[str, Any]]:
    """Return the operations that make the one document of the other."""
    return list(jsonpatch.make_patch(_decode(before), after).patch)


def invalid_patch(errors: list[FieldError]) -> DocumentError:
    places = ", ".join(dict.fromkeys(error.pointer for error in errors))
    return DocumentError(f"The patch is no JSON Patch: {places}.", code="invalid_patch", errors=errors)


def _faults(operation: Any) -> list[tuple[str, str, str]]:
    """Return what is wrong with an operation: (where in it, code, advice)."""
    if not isinstance(operation, dict):
        return [("", "dict_type", 'An operation is an object such as {"op": "remove", "path": "/field"}.')]
    name = operation.get("op")
    if name not in OPERATIONS:
        return [("/op", "unknown_operation", f"`op` is one of {', '.join(OPERATIONS)}.")]
    faults = [fault for member in ("path", "from") if (fault := _pointer_fault(operation, name, member))]
    if name in ("add", "replace", "test") and "value" not in operation:
        faults.append(("/value", "missing", f"`{name}` needs a `value`."))
    if not faults and name == "remove" and operation["path"] == "":
        faults.append(("/path", "invalid_pointer", "The whole document cannot be removed; discard it instead."))
    return faults


def _pointer_fault(operation: Operation, name: str, member: str) -> tuple[str, str, str] | None:
    if member == "from" and name not in ("move", "copy"):
        return None
    if member not in operation:
        return f"/{member}", "missing", f"`{name}` needs a `{member}`."
    pointer = operation[member]
    if not isinstance(pointer, str) or (pointer and pointer[0] != "/") or _bad_escape(pointer):
        return f"/{member}", "invalid_pointer", "Write it as a JSON Pointer (RFC 6901): /field/0/name."
    return None


def _bad_escape(pointer: str) -> bool:
    return "~" in pointer.replace("~0", "").replace("~1", "")


def _misfit(index: int, operation: Operation, why: str) -> DocumentError:
    pointer = operation["from"] if operation["op"] in ("move", "copy") else operation["path"]
    return DocumentError(
        f"Operation {index} of the patch, {operation['op']} {pointer}, {why}.",
        code="patch_failed",
        errors=[FieldError(pointer, "patch_failed", f"Operation {index} ({operation['op']}) {why}.")],
    )
