"""A pipeline's JSON Schema as fields of a form. Pure.

What is an object with named properties becomes a group, a list of such objects repeated groups, and every other value
one input. A schema that no input can show (a free map, a union of objects, a schema within itself) is written as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.pages.nodes import Choice, Group, Input, Item, Kind, Node, Rows

Schema = Mapping[str, Any]

# A scale of up to this many whole numbers is chosen from, not typed.
_SCALE: Final = 5
_LONG_TEXT: Final = 1024
# A limit beyond this nobody meets by accident.
_TOLD_LENGTH: Final = 300
_TEXT_KINDS: Final[Mapping[str, Kind]] = {
    "date": "date",
    "date-time": "moment",
    "time": "time",
    "email": "email",
    "uri": "url",
}


def form_of(schema: Schema, example: Any = None) -> Group | Input:
    """Return the form of a JSON Schema (2020-12, as pydantic writes it).

    Args:
        example: a valid document, from which fields take their hints.
    """
    made = _Maker(schema.get("$defs", {})).node("", schema, example, required=True, within=())
    return made if isinstance(made, Group) else _as_json("", schema, example, required=True, nullable=False)


class _Maker:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def node(self, name: str, given: Schema, example: Any, *, required: bool, within: tuple[str, ...]) -> Node:
        schema, within, cyclic = self._resolved(given, within)
        if cyclic:
            return _as_json(name, schema, example, required=required, nullable=False)
        schema, nullable = self._not_null(schema)
        schema, within, cyclic = self._resolved(schema, within)
        about: dict[str, Any] = {"required": required, "nullable": nullable}
        if cyclic:
            return _as_json(name, schema, example, **about)
        if choices := _choices_of(schema):
            return _choice(name, schema, choices, **about)
        match schema.get("type"):
            case "object" if schema.get("properties") and not isinstance(schema.get("additionalProperties"), Mapping):
                return self._group(name, schema, example, within, **about)
            case "array" if "prefixItems" not in schema and isinstance(schema.get("items"), Mapping):
                return self._list(name, schema, example, within, **about)
            case "boolean":
                yes_no = (Choice("true", "Yes", True), Choice("false", "No", False))
                return _choice(name, schema, yes_no, **about)
            case "integer" if scale := _scale(schema):
                numbers = tuple(Choice(str(number), str(number), number) for number in scale)
                return _choice(name, schema, numbers, **about)
            case "string" | "integer" | "number":
                return _typed(name, schema, example, **about)
        if _is_decimal(schema):
            return _typed(name, schema, example, **about)
        if any(option.get("type") == "string" for option in _options(schema)) and all(
            option.get("type") in ("string", "integer", "number") for option in _options(schema)
        ):
            return _typed(name, {**schema, "type": "string"}, example, **about)
        return _as_json(name, schema, example, **about)

    def _group(self, name: str, schema: Schema, example: Any, within: tuple[str, ...], **about: Any) -> Group:
        known = example if isinstance(example, Mapping) else {}
        must = set(schema.get("required", ()))
        fields = tuple(
            self.node(key, one, known.get(key), required=key in must, within=within)
            for key, one in schema["properties"].items()
        )
        return Group(name, _label(name, schema), fields, hint=str(schema.get("description", "")), **about)

    def _list(self, name: str, schema: Schema, example: Any, within: tuple[str, ...], **about: Any) -> Node:
        first = example[0] if isinstance(example, Sequence) and example else None
        item = self.node("", schema["items"], first, required=True, within=within)
        least = int(schema.get("minItems", 0))
        hint = _sentence(_described(schema), _how_many(schema, "entries"))
        if isinstance(item, Group):
            most = schema.get("maxItems")
            return Rows(name, _label(name, schema), item, least, most, hint=hint, **about)
        if isinstance(item, Input) and item.kind == "choice" and not item.nullable:
            given = {_json(value) for value in schema.get("default") or ()}
            default = tuple(choice.text for choice in item.choices if _json(choice.value) in given)
            return Input(
                name, _label(name, schema), "choices", hint=hint, choices=item.choices, default=default, **about
            )
        if isinstance(item, Input) and item.kind in ("text", "integer", "number", "decimal") and not item.nullable:
            kind: Item = item.kind
            shown = _sentence(_described(schema), "One a line", _how_many(schema, "lines"), item.hint)
            lines = example if isinstance(example, Sequence) and not isinstance(example, str) else ()
            hinted = ", ".join(_text(one) for one in lines)
            default = tuple("\n".join(_text(one) for one in schema.get("default") or ()).splitlines())
            return Input(
                name,
                _label(name, schema),
                "lines",
                hint=shown,
                example=hinted,
                item=kind,
                default=default,
                **about,
            )
        return _as_json(name, schema, example, **about)

    def _resolved(self, schema: Schema, within: tuple[str, ...]) -> tuple[Schema, tuple[str, ...], bool]:
        """Return a schema with its references followed, those that were followed, and whether one leads back."""
        while True:
            if len(only := schema.get("allOf", ())) == 1:
                schema = {**only[0], **{key: value for key, value in schema.items() if key != "allOf"}}
            if "$ref" not in schema:
                return schema, within, False
            name = str(schema["$ref"]).rpartition("/")[2]
            if name in within or name not in self._definitions:
                return schema, within, True
            within = (*within, name)
            schema = {**self._definitions[name], **{key: value for key, value in schema.items() if key != "$ref"}}

    def _not_null(self, schema: Schema) -> tuple[Schema, bool]:
        """Return a schema without its null, and whether it had one."""
        options = schema.get("anyOf", ())
        left = [option for option in options if option.get("type") != "null"]
        if len(left) == len(options):
            return schema, False
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return ({**left[0], **rest} if len(left) == 1 else {**rest, "anyOf": left}), True


def _options(schema: Schema) -> Sequence[Schema]:
    found: Sequence[Schema] = schema.get("anyOf", ())
    return found


def _is_decimal(schema: Schema) -> bool:
    """Return whether a number may come as text, in which form it stays exact."""
    return sorted(str(option.get("type")) for option in _options(schema)) == ["number", "string"]


def _choices_of(schema: Schema) -> tuple[Choice, ...]:
    """Return the values of a closed set; none where the schema is open."""
    if "enum" in schema:
        found = [(value, _text(value).replace("_", " ")) for value in schema["enum"]]
    elif "const" in schema:
        found = [(schema["const"], _text(schema["const"]))]
    else:
        options = schema.get("oneOf") or schema.get("anyOf") or ()
        if not options or not all("const" in option for option in options):
            return ()
        found = [(option["const"], str(option.get("title") or _text(option["const"]))) for option in options]
    if any(isinstance(value, list | dict) or value is None for value, _ in found):
        return ()
    # `true` and "true" may both be choices, so a string that reads like another choice goes in quotes.
    others = {_text(value) for value, _ in found if not isinstance(value, str)}
    return tuple(
        Choice(_json(value) if isinstance(value, str) and value in others else _text(value), label, value)
        for value, label in found
    )


def _choice(name: str, schema: Schema, choices: tuple[Choice, ...], *, required: bool, nullable: bool) -> Input:
    default = tuple(
        one.text
        for one in choices
        if "default" in schema and _json(one.value) == _json(schema["default"])  # since True == 1
    )
    return Input(
        name,
        _label(name, schema),
        "choice",
        required=required,
        nullable=nullable,
        hint=_sentence(_described(schema)),
        choices=choices,
        default=default,
    )


def _typed(name: str, schema: Schema, example: Any, *, required: bool, nullable: bool) -> Input:
    kind = _kind_of(schema)
    numbers = _number_of(schema)
    if example is None and (examples := schema.get("examples")):
        example = examples[0]
    default = schema.get("default")
    low, high = _ends(numbers, whole=kind == "integer")
    return Input(
        name,
        _label(name, schema),
        kind,
        required=required,
        nullable=nullable,
        hint=_sentence(_described(schema), _rule(kind, schema, numbers)),
        example="" if example is None or kind in ("date", "moment", "time") else _text(example),
        minimum=low,
        maximum=high,
        default=() if default is None else (_text(default),),
    )


def _kind_of(schema: Schema) -> Kind:
    match schema.get("type"):
        case "integer":
            return "integer"
        case "number":
            return "number"
        case "string":
            if found := _TEXT_KINDS.get(str(schema.get("format"))):
                return found
            return "long_text" if schema.get("maxLength", 0) > _LONG_TEXT else "text"
    return "decimal"


def _as_json(name: str, schema: Schema, example: Any, *, required: bool, nullable: bool) -> Input:
    default = schema.get("default")
    return Input(
        name,
        _label(name, schema),
        "json",
        required=required,
        nullable=nullable,
        hint=_sentence(_described(schema), "Written as JSON"),
        example="" if example is None else _indented(example),
        default=() if default is None else (_indented(default),),
    )


def _scale(schema: Schema) -> range:
    """Return the few whole numbers that there are to choose from; none where they are more."""
    low, high = _ends(schema, whole=True)
    if not low or not high or int(high) - int(low) >= _SCALE or "multipleOf" in schema:
        return range(0)
    return range(int(low), int(high) + 1)


def _number_of(schema: Schema) -> Schema:
    """Return the part of a schema that bounds a number."""
    return next((option for option in _options(schema) if option.get("type") == "number"), schema)


def _ends(schema: Schema, *, whole: bool) -> tuple[str, str]:
    """Return the least and the greatest value that may be typed; empty where there is none to name."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if whole and "exclusiveMinimum" in schema:
        low = int(schema["exclusiveMinimum"]) + 1
    if whole and "exclusiveMaximum" in schema:
        high = int(schema["exclusiveMaximum"]) - 1
    return _number(low), _number(high)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(value)


def _rule(kind: Kind, schema: Schema, numbers: Schema) -> str:
    """Return the rule that an input has to keep, in words."""
    if kind in ("integer", "number", "decimal"):
        what = "A whole number" if kind == "integer" else "A number"
        low, high = _ends(numbers, whole=kind == "integer")
        above = _number(numbers.get("exclusiveMinimum")) if kind != "integer" else ""
        below = _number(numbers.get("exclusiveMaximum")) if kind != "integer" else ""
        if low and high:
            # A bound of the machine's own helps nobody.
            return what if abs(int(float(high))) >= 2**31 - 1 and kind == "integer" else f"{what} from {low} to {high}"
        bounds = [f"at least {low}" * bool(low), f"at most {high}" * bool(high)]
        bounds += [f"more than {above}" * bool(above), f"less than {below}" * bool(below)]
        return f"{what}, {' and '.join(filter(None, bounds))}" if any(bounds) else what
    if kind == "moment":
        return "In UTC"
    if "maxLength" in schema and (kind == "long_text" or (kind == "text" and schema["maxLength"] <= _TOLD_LENGTH)):
        least = schema.get("minLength", 0)
        return (
            f"{least} to {schema['maxLength']} characters" if least > 1 else f"Up to {schema['maxLength']} characters"
        )
    return ""


def _how_many(schema: Schema, what: str) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least and most:
        return f"{least} to {most} {what}"
    if least:
        return f"At least {least} {what}"
    return f"At most {most} {what}" if most else ""


def _described(schema: Schema) -> str:
    text = str(schema.get("description", "")).strip()
    choices = {str(value).casefold() for value in schema.get("enum", ())}
    said = re.findall(r"\w+", text.casefold())
    if choices and set(said) <= {*choices, "or"}:
        return ""  # It says no more than the choices beside it.
    # A code keeps its case: `health` is a choice, Health is none.
    return text if said and said[0] in choices else text[:1].upper() + text[1:]


def _sentence(*parts: str) -> str:
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts if part)


def _label(name: str, schema: Schema) -> str:
    """Return the author's title, or words made of the name: `InvoiceNo` and `invoice_no` are `Invoice no`."""
    title = str(schema.get("title", ""))
    automatic = {name.replace("_", " ").title(), name.title(), ""}
    if name and title not in automatic and not _is_model(schema):
        return title
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ").split()
    told = [word if word.isupper() else word.lower() for word in words]
    return " ".join(told)[:1].upper() + " ".join(told)[1:]


def _is_model(schema: Schema) -> bool:
    """Return whether a title is the name of a class, which only its author knows."""
    return "properties" in schema and " " not in str(schema.get("title", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _indented(value: Any) -> str:
    return msgspec.json.format(_json(value), indent=2)
