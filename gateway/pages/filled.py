"""A form with what somebody typed: read from what a browser sent, made into a document, marked with its errors. Pure.

A field's name in HTML is the RFC 6901 pointer of its value in the document, `/lines/0/amount`, so the pointers of the
API's problems lead to the fields by themselves, and no field can be taken for one of the page's own (`csrf`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.pages.coerce import ABSENT, coerce
from gateway.pages.nodes import Group, Input, Node, Rows
from headrace.errors import FieldError
from headrace.schema import pointer_of

Given = Mapping[str, Sequence[str]]

MOST_ROWS: Final = 200
# What the one field is called of a document that is written as JSON.
WHOLE: Final = "document"
_INDEX: Final = re.compile(r"/([0-9]{1,9})(?:/|$)")


@dataclass
class Filled:
    """A part of a form with its texts.

    Attributes:
        texts: what stands in an input.
        must: whether a browser may insist on it; not within what may be left out as a whole.
        value: its JSON value, `ABSENT` where it has none.
        children: the fields of a group, the rows of `Rows`.
        errors: what is wrong with it, in words.
    """

    node: Node
    pointer: str
    must: bool
    texts: tuple[str, ...] = ()
    value: Any = ABSENT
    children: list[Filled] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    broken: FieldError | None = None

    @property
    def element_id(self) -> str:
        """Return the id of its HTML element; a pointer may hold what an id may not."""
        return "field" + re.sub(
            r"[^A-Za-z0-9]", lambda match: "_" if match[0] == "/" else f"-{ord(match[0]):x}-", self.pointer
        )

    @property
    def name(self) -> str:
        """Return its name in HTML."""
        return self.pointer or WHOLE

    @property
    def text(self) -> str:
        return self.texts[-1] if self.texts else ""

    def walk(self) -> Iterator[Filled]:
        yield self
        for child in self.children:
            yield from child.walk()


def fill(node: Node, given: Given, pointer: str = "", *, must: bool = True) -> Filled:
    """Return a form with what a browser sent; rows that are all empty are left out, as if they were not there."""
    must = must and node.required
    match node:
        case Input():
            texts = tuple(given.get(pointer or WHOLE, ()))
            value, broken = coerce(node, texts)
            if broken is not None:
                broken = FieldError(pointer, broken.code, broken.message)
            return Filled(node, pointer, must, texts, value, broken=broken)
        case Group():
            children = [fill(one, given, pointer + pointer_of((one.name,)), must=must) for one in node.fields]
            values = _members(children)
            # Of a group that may be absent nothing is given as long as nothing of it is.
            absent = not values and not node.required
            value = ABSENT if absent else (None if not values and node.nullable else values)
            return Filled(node, pointer, must, value=value, children=children)
        case Rows():
            found = [fill(node.row, given, f"{pointer}/{index}") for index in _indices(given, pointer)]
            kept = [row for row in found if not _empty(row)]
            rows = [
                _moved(row, f"{pointer}/{place}", must=must and place < node.least) for place, row in enumerate(kept)
            ]
            many = [row.value for row in rows]
            if not many and not node.required:
                return Filled(node, pointer, must, children=rows)
            return Filled(node, pointer, must, value=None if not many and node.nullable else many, children=rows)


def first(node: Node) -> Filled:
    """Return a form as it is shown at first: with the defaults, and the rows that there have to be."""
    return with_rows(fill(node, dict(_defaults(node, ""))))


def with_rows(form: Filled, more: str = "") -> Filled:
    """Return a form with empty rows up to the least number of each list, and one more in the list at `more`."""
    for part in list(form.walk()):
        if isinstance(part.node, Rows):
            wanted = max(part.node.least, int(part.node.required), len(part.children) + (part.pointer == more))
            wanted = min(wanted, MOST_ROWS if part.node.most is None else part.node.most)
            while len(part.children) < wanted:
                place, must = f"{part.pointer}/{len(part.children)}", part.must and len(part.children) < part.node.least
                row = fill(part.node.row, dict(_defaults(part.node.row, place)), place, must=must)
                part.children.append(with_rows(row))
    return form


def without_row(given: Given, pointer: str) -> Given:
    """Return what a browser sent without one row."""
    return {name: texts for name, texts in given.items() if not f"{name}/".startswith(f"{pointer}/")}


def mark(form: Filled, errors: Iterable[FieldError]) -> list[tuple[str, str]]:
    """Set each error beside its field, or the nearest around it; returns (element id, message) of all, in order.

    The id is empty where no field is at fault, or none is to be seen.
    """
    parts = {part.pointer: (part, trail) for part, trail in _trails(form)}
    told: list[tuple[str, str]] = []
    for error in errors:
        pointer = error.pointer
        while pointer and pointer not in parts:
            pointer = pointer.rpartition("/")[0]
        part, trail = parts[pointer]
        inside = error.pointer[len(pointer) :]
        message = _inside(part.node, inside, _plain(part.node, error))
        if part is form and isinstance(form.node, Group):
            told.append(("", message))
            continue
        part.errors.append(message)
        told.append((part.element_id, f"{trail}: {message}" if trail else message))
    return told


def _trails(part: Filled, before: str = "") -> Iterator[tuple[Filled, str]]:
    """Yield every part of a form and how a reader finds it: `Lines, row 2, price`."""
    yield part, before
    for place, child in enumerate(part.children, start=1):
        label = f"row {place}" if isinstance(part.node, Rows) else child.node.label
        yield from _trails(child, f"{before}, {label[:1].lower()}{label[1:]}" if before else label)


def broken(form: Filled) -> list[FieldError]:
    """Return what is wrong before the schema has its say: JSON that is none."""
    return [part.broken for part in form.walk() if part.broken is not None]


def _plain(node: Node, error: FieldError) -> str:
    """Return an error in words for somebody who sees a form; what the API says is for who writes programs."""
    match error.code:
        case "missing":
            return "Fill this in, please."
        case "string_pattern_mismatch" | "pattern" if isinstance(node, Input) and node.example and node.kind != "json":
            return f"This has not the expected form; for example {node.example}."
    return re.sub(r"^(?:Input|String|Value) should ", "This should ", error.message)


def _inside(node: Node, inside: str, message: str) -> str:
    """Return an error's message with where in its field it is."""
    if not inside:
        return message
    if isinstance(node, Input) and node.kind == "lines" and (match := _INDEX.match(inside)):
        return f"line {int(match[1]) + 1}: {message}"
    return f"{inside.lstrip('/')}: {message}"


def _members(children: Iterable[Filled]) -> dict[str, Any]:
    return {child.node.name: child.value for child in children if child.value is not ABSENT}


def _indices(given: Given, pointer: str) -> list[int]:
    """Return the rows of a list that were sent, however they are numbered, and no more than there may be."""
    start = len(pointer)
    found = {
        int(match[1]) for name in given if name.startswith(f"{pointer}/") and (match := _INDEX.match(name[start:]))
    }
    return sorted(found)[:MOST_ROWS]


def _empty(row: Filled) -> bool:
    """Return whether nobody has touched a row: it has what it had at first, and something is yet to be filled in."""
    inputs = [(part.node, part.text.strip()) for part in row.walk() if isinstance(part.node, Input)]
    untouched = all(not text or text == "\n".join(node.default).strip() for node, text in inputs)
    return untouched and any(not text for _, text in inputs)


def _moved(row: Filled, pointer: str, *, must: bool) -> Filled:
    """Return a row in another place of its list."""
    before = row.pointer
    for part in row.walk():
        part.must = part.must and must
        part.pointer = pointer + part.pointer[len(before) :]
        if part.broken is not None:
            part.broken = FieldError(part.pointer, part.broken.code, part.broken.message)
    return row


def _defaults(node: Node, pointer: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    match node:
        case Input():
            if node.default:
                yield pointer or WHOLE, node.default if node.kind == "choices" else ("\n".join(node.default),)
        case Group():
            for one in node.fields:
                yield from _defaults(one, pointer + pointer_of((one.name,)))
        case Rows():
            pass
