"""The parts of a form: inputs, groups of them, and rows of groups. Values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "text",
    "long_text",
    "email",
    "url",
    "integer",
    "number",
    "decimal",
    "date",
    "moment",
    "time",
    "choice",
    "choices",
    "lines",
    "json",
]
# What a line of `lines` may be.
Item = Literal["text", "integer", "number", "decimal"]


@dataclass(frozen=True)
class Choice:
    """One of a closed set: what a form sends for it, what a reader sees, and the JSON value."""

    text: str
    label: str
    value: Any


@dataclass(frozen=True)
class Input:
    """One value.

    Attributes:
        name: within its group; empty for a whole document that no group can show.
        nullable: whether it is null where nothing is given; else it is left out.
        minimum, maximum: as HTML writes them.
        item: what each line of `lines` is.
        default: texts that it shows at first.
        example: shown as a hint.
    """

    name: str
    label: str
    kind: Kind
    required: bool = False
    nullable: bool = False
    hint: str = ""
    example: str = ""
    choices: tuple[Choice, ...] = ()
    minimum: str = ""
    maximum: str = ""
    item: Item = "text"
    default: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """An object with named properties."""

    name: str
    label: str
    fields: tuple[Node, ...]
    required: bool = True
    nullable: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Rows:
    """A list of objects, each of them a group.

    Attributes:
        least: rows that are shown at first, and that there have to be.
        most: rows that there may be; None without a limit.
    """

    name: str
    label: str
    row: Group
    least: int = 0
    most: int | None = None
    required: bool = False
    nullable: bool = False
    hint: str = ""


Node = Input | Group | Rows
