"""What `dead replay` does to documents: short forms of JSON Patch, or a function of the user's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import DocumentError, FieldError, RequestError
from headrace.patch import difference, invalid_patch, loads, patch_of

Change = Callable[[Any], Any]


def operations(patch: str | None, renames: Sequence[str], removes: Sequence[str], sets: Sequence[str]) -> list[Any]:
    """Return the operations that the options mean: those of the patch first, then renames, removals, values.

    Raises:
        RequestError: an option says no operation, or the patch is no JSON.
        OSError: the patch's file cannot be read.
    """
    found: list[Any] = []
    if patch is not None:
        given = loads(_patch_text(patch))
        if not isinstance(given, list):
            raise invalid_patch([FieldError("/patch", "list_type", "A JSON Patch is an array of operations.")])
        found += given
    for text in renames:
        old, new = _halves("--rename", text, "/old=/new")
        found.append({"op": "move", "from": old, "path": new})
    found += [{"op": "remove", "path": path} for path in removes]
    for text in sets:
        path, value = _halves("--set", text, "/path=value")
        found.append({"op": "add", "path": path, "value": _value(value)})
    if found:
        patch_of(found)
    return found


def _patch_text(patch: str) -> bytes:
    if patch == "-":
        return sys.stdin.buffer.read()
    if patch.lstrip().startswith(("[", "{")):
        return patch.encode()
    return Path(patch).read_bytes()


def _halves(option: str, text: str, form: str) -> tuple[str, str]:
    first, equals, second = text.partition("=")
    if not equals or not first.startswith("/"):
        raise RequestError(f"{option} {text!r} is not of the form {form}; a path is a JSON Pointer.")
    return first, second


def _value(text: str) -> Any:
    """Return JSON where the text is some, else the text itself: `--set /country=France` needs no quotes."""
    try:
        return loads(text.encode())
    except RequestError:
        return text


def function(reference: str) -> Change:
    """Return the function that `file.py:name` names.

    Raises:
        RequestError: there is none.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path) if file.endswith(".py") and path.is_file() else None
    if spec is None or spec.loader is None or not name:
        raise RequestError(f"--function {reference!r} names no function; write it as file.py:name.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(f"{path} cannot be loaded: {type(error).__name__}: {error}.") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise RequestError(f"{path} has no function {name!r}.")
    change: Change = found
    return change


def change(body: str | None, how: Change) -> list[dict[str, Any]]:
    """Return the patch that a function makes of one document; empty where it changes nothing or returns None.

    Args:
        body: the document's text; None where its bytes are no text.

    Raises:
        RequestError: the document is no JSON, or the function failed on it.
    """
    if body is None:
        raise DocumentError("Its bytes are no text.", code="malformed_json")
    before = body.encode()
    document = loads(before)
    try:
        after = how(document)
    except Exception as error:
        raise DocumentError(
            f"The function failed with {type(error).__name__}: {error}", code="function_failed"
        ) from None
    if after is None:
        return []
    try:
        return difference(before, after)
    except (TypeError, ValueError) as error:
        raise DocumentError(f"The function returned no JSON document: {error}.", code="function_failed") from None
