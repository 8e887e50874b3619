"""Whether a pipeline's new schema still takes and keeps what the one before did. Pure, over their JSON Schemas.

Two questions. Would a document that was valid be refused? Would a stored field change its type, or disappear? What
cannot be told apart from a refusal is reported as one. A field that is new and optional is no change where unknown
fields were ignored until now, though somebody may have sent one of that name: `headrace schema check` looks at that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from headrace.errors import FieldError
from headrace.pipeline import Pipeline
from headrace.schema import pointer_of

Schema = Mapping[str, Any]
Place = tuple[int | str, ...]

_JSON_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
# What says something about a value and forbids none.
_NOTES: Final = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"}
    | {"$defs", "$schema", "$id", "discriminator", "contentMediaType", "contentEncoding"}
)
_UNDERSTOOD: Final = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "$ref", "properties", "required", "additionalProperties", "items"}
    | {"prefixItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength"}
    | {"maxLength", "pattern", "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"}
)
# (keyword, whether the greater value is the narrower)
_LIMITS: Final = (
    ("minLength", True),
    ("minItems", True),
    ("minProperties", True),
    ("maxLength", False),
    ("maxItems", False),
    ("maxProperties", False),
)


class SchemaVersion(msgspec.Struct):
    """One version of a pipeline's schema.

    Attributes:
        version: from 1, without gaps; 0 where it has yet to be registered.
        registered_at: RFC 3339 UTC.
        mode: event or entity.
        key: fields that make a document's identity.
        accepts, yields: JSON Schemas of what clients send and of what is stored.
        fields: type in Postgres of each stored field, by path.
    """

    pipeline: str
    version: int
    registered_at: str
    mode: str
    key: list[str]
    accepts: dict[str, Any]
    yields: dict[str, Any]
    fields: dict[str, str]

    def says_the_same(self, other: SchemaVersion) -> bool:
        names = ("mode", "key", "accepts", "yields", "fields")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def described(pipeline: Pipeline) -> SchemaVersion:
    """Return the schema that a pipeline has now, not yet registered."""
    return SchemaVersion(
        pipeline=pipeline.name,
        version=0,
        registered_at="",
        mode="entity" if pipeline.entity else "event",
        key=list(pipeline.key),
        accepts=_json_schema(pipeline.accepts, "validation"),
        yields=_json_schema(pipeline.yields, "serialization"),
        fields={field.path: field.sql_type for field in pipeline.fields},
    )


# Pydantic makes it anew each time, of dozens of parts.
@lru_cache(maxsize=256)
def _json_schema(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    return model.model_json_schema(mode=mode)


def breaks(old: SchemaVersion, new: SchemaVersion) -> list[FieldError]:
    """Return what the new version breaks, in order; nothing where it is compatible.

    Pointers begin with `/accepts` or `/yields`, then name the field.
    """
    found = narrowed(old.accepts, new.accepts)
    if old.mode != new.mode:
        found.append(FieldError("", "mode_changed", f"It is of mode {new.mode} and was of mode {old.mode}."))
    if old.key != new.key:
        then, now = (", ".join(version.key) or "none" for version in (old, new))
        found.append(
            FieldError("", "key_changed", f"Its key is {now} and was {then}; documents sent again get other ids.")
        )
    return found + _restored(old, new)


def narrowed(old: Schema, new: Schema) -> list[FieldError]:
    """Return why a document that the old schema takes may be refused by the new one."""
    return list(_Comparison(old, new).schemas(old, new, ("accepts",)))


def _restored(old: SchemaVersion, new: SchemaVersion) -> list[FieldError]:
    """Return what becomes of stored fields that are not as they were."""
    found = []
    for path, sql_type in old.fields.items():
        pointer = pointer_of(("yields", *path.split(".")))
        if path not in new.fields:
            found.append(FieldError(pointer, "stored_field_gone", "It is stored no more; keep it, or leave it null."))
        elif new.fields[path] != sql_type:
            message = f"It would be stored as {new.fields[path]} and is stored as {sql_type}; give it another name."
            found.append(FieldError(pointer, "stored_type_changed", message))
    told = {error.pointer for error in found}
    kinds, new_kinds = (_kinds(version.yields, version.yields) for version in (old, new))
    for place, kind in kinds.items():
        # What lies within a list or a free-form object is one field to Postgres.
        pointer = pointer_of(("yields", *place))
        now = new_kinds.get(place)
        if now == kind or ".".join(place) in old.fields or any(f"{pointer}/".startswith(f"{one}/") for one in told):
            continue
        if now is None and not any(parent == place[: len(parent)] for parent in new_kinds):
            found.append(FieldError(pointer, "stored_field_gone", "It is stored no more; keep it, or leave it null."))
        else:
            message = f"It would be stored as {now or 'something else'} and is stored as {kind}; give it another name."
            found.append(FieldError(pointer, "stored_type_changed", message))
    return found


def _kinds(schema: Schema, root: Schema, place: tuple[str, ...] = (), depth: int = 0) -> dict[tuple[str, ...], str]:
    """Return the JSON type of each leaf by its place; elements of lists stand at `[]`, values of dicts at `*`."""
    found: dict[tuple[str, ...], set[str]] = {}
    for branch in _branches(schema, root):
        kind = _type_of(branch)
        inner: list[tuple[str, Any]] = []
        if kind == "object":
            inner = list(branch.get("properties", {}).items())
            if isinstance(branch.get("additionalProperties"), Mapping):
                inner.append(("*", branch["additionalProperties"]))
        elif kind == "array":
            inner = [("[]", each) for each in (*branch.get("prefixItems", ()), branch.get("items")) if each]
        # A schema that holds itself goes no deeper than a document may.
        if inner and depth < 16:
            for name, each in inner:
                for where, leaf in _kinds(each, root, (*place, name), depth + 1).items():
                    found.setdefault(where, set()).add(leaf)
        elif kind != "null":
            found.setdefault(place, set()).add(branch.get("format", kind) if kind == "string" else kind or "anything")
    return {where: " or ".join(sorted(leaves)) for where, leaves in found.items()}


def _branches(schema: Any, root: Schema) -> list[Schema]:
    """Return the alternatives of a schema: without $ref, anyOf and lists of types, each of one type or of any."""
    if schema is True or schema is None:
        return [{}]
    if schema is False:
        return []
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _branches({**target, **{name: value for name, value in schema.items() if name != "$ref"}}, root)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            rest = {name: value for name, value in schema.items() if name != word and name not in _NOTES}
            return [branch for each in schema[word] for branch in _branches({**rest, **_plain(each, root)}, root)]
    if isinstance(kinds := schema.get("type"), list):
        return [{**schema, "type": kind} for kind in kinds]
    return [schema]


def _plain(schema: Any, root: Schema) -> Schema:
    if isinstance(schema, Mapping):
        return schema
    return {} if schema else {"enum": []}


def _type_of(branch: Schema) -> str | None:
    """Return a branch's JSON type; None is any."""
    if "type" in branch:
        return str(branch["type"])
    values = _values(branch)
    if values:
        kinds = {_type_of_value(value) for value in values}
        return kinds.pop() if len(kinds) == 1 else None
    return "object" if "properties" in branch else None


def _values(branch: Schema) -> list[Any] | None:
    """Return the values that a branch names one by one, or None where it names none."""
    if "const" in branch:
        return [branch["const"]]
    values = branch.get("enum")
    return None if values is None else list(values)


def _type_of_value(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


class _Comparison:
    """One comparison; remembers which pairs of schemas are being compared, since a schema may hold itself."""

    def __init__(self, old_root: Schema, new_root: Schema) -> None:
        self._old_root = old_root
        self._new_root = new_root
        self._open: set[tuple[str, str]] = set()

    def schemas(self, old: Any, new: Any, place: Place) -> Iterator[FieldError]:
        pair = (repr(old), repr(new))
        if pair in self._open or (old == new and self._old_root == self._new_root):
            return
        self._open.add(pair)
        candidates = _branches(new, self._new_root)
        for branch in _branches(old, self._old_root):
            yield from self._branch(branch, candidates, place)
        self._open.discard(pair)

    def _branch(self, old: Schema, candidates: Sequence[Schema], place: Place) -> Iterator[FieldError]:
        """Yield why what one alternative of the old schema takes is taken by none of the new."""
        if (values := _values(old)) is not None:
            gone = [value for value in values if not any(_admits(each, value) for each in candidates)]
            if gone:
                shown = ", ".join(msgspec.json.encode(value).decode() for value in gone[:5])
                yield _error(
                    place, "values_gone", f"It took {shown} and takes {'it' if len(gone) == 1 else 'them'} no more"
                )
            return
        kind = _type_of(old)
        fitting = [each for each in candidates if _covers(_type_of(each), kind)]
        if not fitting:
            taken = sorted({_type_of(each) or "anything" for each in candidates}) or ["nothing"]
            yield _error(place, "type_narrowed", f"It took {kind or 'anything'} and takes {' or '.join(taken)}")
            return
        reasons: list[FieldError] = []
        for each in fitting:
            found = list(self._same_type(old, each, place))
            if not found:
                return
            reasons = reasons or found
        yield from reasons

    def _same_type(self, old: Schema, new: Schema, place: Place) -> Iterator[FieldError]:
        if _values(new) is not None:
            yield _error(place, "values_gone", "It took any value of its type and takes a few only")
            return
        for word in sorted(set(new) - _UNDERSTOOD - _NOTES):
            if old.get(word) != new[word]:
                yield _error(place, "not_comparable", f"Its rule {word!r} is new or another, and may refuse")
        yield from _limits(old, new, place)
        yield from self._arrays(old, new, place)
        yield from self._objects(old, new, place)

    def _arrays(self, old: Schema, new: Schema, place: Place) -> Iterator[FieldError]:
        if "items" not in new and "prefixItems" not in new:
            return
        firsts = list(new.get("prefixItems", ()))
        old_firsts = list(old.get("prefixItems", ()))
        for index in range(max(len(firsts), len(old_firsts))):
            was = old_firsts[index] if index < len(old_firsts) else old.get("items", True)
            now = firsts[index] if index < len(firsts) else new.get("items", True)
            yield from self.schemas(was, now, (*place, index))
        if "items" in new and not (old.get("maxItems") is not None and old["maxItems"] <= len(old_firsts)):
            yield from self.schemas(old.get("items", True), new["items"], (*place, "*"))

    def _objects(self, old: Schema, new: Schema, place: Place) -> Iterator[FieldError]:
        had, has = old.get("properties", {}), new.get("properties", {})
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield _error((*place, name), "now_required", "It was optional and is required")
        others, new_others = old.get("additionalProperties"), new.get("additionalProperties")
        for name, was in had.items():
            if name in has:
                yield from self.schemas(was, has[name], (*place, name))
            elif new_others is False:
                yield _error((*place, name), "field_gone", "It was taken and is refused")
            elif isinstance(new_others, Mapping):
                yield from self.schemas(was, new_others, (*place, name))
        if others is False:
            return
        if new_others is False:
            yield _error(place, "extra_refused", "Unknown fields were taken and are refused")
        elif isinstance(new_others, Mapping):
            yield from self.schemas(True if others is None else others, new_others, (*place, "*"))
        # Where unknown fields were ignored (None), a new optional one is what everybody adds some day.
        if others is not None:
            for name in has:
                if name not in had:
                    yield from self.schemas(others, has[name], (*place, name))


def _covers(new: str | None, old: str | None) -> bool:
    return new is None or new == old or (new == "number" and old == "integer")


def _limits(old: Schema, new: Schema, place: Place) -> Iterator[FieldError]:
    for word, greater_is_narrower in _LIMITS:
        if word in new:
            was, now = old.get(word), new[word]
            free = 0 if greater_is_narrower else None
            if (was is None and now != free) or (was is not None and (now > was if greater_is_narrower else now < was)):
                yield _error(place, "range_narrowed", f"Its {word} is {now} and was {'none' if was is None else was}")
    if _tighter(_lower(new), _lower(old)):
        yield _error(place, "range_narrowed", f"It must be {_shown(new, '>')} and had to be {_shown(old, '>')}")
    if _tighter(_upper(new), _upper(old)):
        yield _error(place, "range_narrowed", f"It must be {_shown(new, '<')} and had to be {_shown(old, '<')}")
    step, was = new.get("multipleOf"), old.get("multipleOf")
    if step is not None and (was is None or was % step != 0):
        yield _error(place, "range_narrowed", f"It must be a multiple of {step}")
    for word in ("pattern", "format"):
        if word in new and new[word] != old.get(word):
            yield _error(place, f"{word}_changed", f"Its {word} is new or another, and may refuse")
    if new.get("uniqueItems") and not old.get("uniqueItems"):
        yield _error(place, "range_narrowed", "Its elements must differ")


# A bound as (value, 1 where the value itself is out), turned so that the greater is the tighter.


def _lower(schema: Schema) -> tuple[float, int] | None:
    bounds = [(schema[word], out) for word, out in (("minimum", 0), ("exclusiveMinimum", 1)) if word in schema]
    return max(bounds, default=None)


def _upper(schema: Schema) -> tuple[float, int] | None:
    bounds = [(-schema[word], out) for word, out in (("maximum", 0), ("exclusiveMaximum", 1)) if word in schema]
    return max(bounds, default=None)


def _tighter(new: tuple[float, int] | None, old: tuple[float, int] | None) -> bool:
    return new is not None and (old is None or new > old)


def _shown(schema: Schema, sign: str) -> str:
    bound = _lower(schema) if sign == ">" else _upper(schema)
    if bound is None:
        return "anything"
    value, out = bound
    return f"{sign}{'' if out else '='} {value if sign == '>' else -value}"


def _admits(branch: Schema, value: Any) -> bool:
    """Return whether a branch takes a value that an old schema named."""
    values = _values(branch)
    if values is not None:
        # 1 and true are equal in Python, and not in JSON.
        return any(type(one) is type(value) and one == value for one in values)
    if not _covers(_type_of(branch), _type_of_value(value)):
        return False
    match value:
        case str():
            fits = branch.get("minLength", 0) <= len(value) <= branch.get("maxLength", len(value))
            return fits and ("pattern" not in branch or re.search(branch["pattern"], value) is not None)
        case int() | float() if not isinstance(value, bool):
            exactly = {"minimum": value, "maximum": value}
            return not _tighter(_lower(branch), _lower(exactly)) and not _tighter(_upper(branch), _upper(exactly))
    return True


def _error(place: Place, code: str, message: str) -> FieldError:
    return FieldError(pointer_of(place), code, message + ".")
