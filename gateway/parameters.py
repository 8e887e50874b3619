"""What a request asks in its query string and path. Pure but for the request itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError

from headrace.errors import DocumentError, FieldError
from headrace.schema import pointer_of


def given(request: Request) -> dict[str, str]:
    """Return the parameters of the query string.

    Raises:
        DocumentError: one stands there twice, so one of its values would be lost.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            short = name[:80]
            error = FieldError(f"/{short}", "repeated", "Send it once.")
            raise DocumentError(f"The parameter {short!r} is there twice.", code="invalid_request", errors=[error])
        found[name] = value
    return found


def asked(request: Request, model: type[BaseModel]) -> BaseModel:
    """Return a route's parameters; those of the path come first.

    Raises:
        DocumentError: they break the model's rules (422 `invalid_request`).
    """
    found = {**given(request), **request.path_params}
    for name, value in found.items():
        if "\x00" in value:
            # As in documents: no store could look for it.
            broken = FieldError(pointer_of((name[:80],)), "nul_character", "Text must not hold U+0000; remove it.")
            raise DocumentError("A parameter holds U+0000.", code="invalid_request", errors=[broken])
    try:
        return model.model_validate(found)
    except ValidationError as error:
        rules = error.errors(include_url=False, include_context=False, include_input=False)
        errors = [FieldError(pointer_of(item["loc"]), item["type"], f"{item['msg']}.") for item in rules]
        places = ", ".join("/".join(map(str, item["loc"])) for item in rules)
        raise DocumentError(
            f"The request breaks the rules of this route: {places}.", code="invalid_request", errors=errors
        ) from None


def described(model: type[BaseModel], in_path: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a model's parameters in OpenAPI's words."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return [_parameter(name, about, in_path, required) for name, about in schema.get("properties", {}).items()]


def _parameter(name: str, about: Mapping[str, Any], in_path: tuple[str, ...], required: set[str]) -> dict[str, Any]:
    rules = {key: value for key, value in about.items() if key not in ("title", "description")}
    return {
        "name": name,
        "in": "path" if name in in_path else "query",
        "required": name in required,
        "description": about.get("description", f"{name.replace('_', ' ')}."),
        "schema": rules,
    }
