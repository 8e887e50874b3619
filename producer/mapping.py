"""Columns to fields: renamed, dropped, dates rewritten. Pure; what cannot be mapped is refused by field, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from producer.formats import Row, SourceError

REST: Final = "*"
_TIME_DIRECTIVES: Final = frozenset("HIMSfpzZcX")


@dataclass(frozen=True, slots=True)
class Columns:
    """What becomes of each column.

    Attributes:
        fields: column to field; a dot in a field's name leads into an object.
        dropped: columns that are left out; `*` is every column that is not renamed.
        formats: field to the form of its dates, as strptime has them.
    """

    fields: Mapping[str, str]
    dropped: frozenset[str]
    formats: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.fields or self.dropped or self.formats)

    @property
    def name(self) -> str:
        """The same for the same mapping, in every process."""
        parts = [sorted(self.fields.items()), sorted(self.dropped), sorted(self.formats.items())]
        return msgspec.json.encode(parts).decode()

    @property
    def named(self) -> set[str]:
        """The columns that must be there."""
        return {*self.fields, *self.dropped} - {REST}

    def check(self, header: Sequence[str], where: str) -> None:
        """Refuse a name that no column has.

        Raises:
            SourceError: with the names that there are.
        """
        missing = sorted(self.named - set(header))
        if missing:
            raise SourceError(f"{where} has no column {_names(missing)}; it has {_names(header)}.")

    def apply(self, row: Row) -> Row:
        """Return the row with its fields in place of its columns."""
        if row.document is None:
            return row
        document: dict[str, Any] = {}
        errors: list[dict[str, Any]] = list(row.errors)
        for column, value in row.document.items():
            field = self.fields.get(column)
            if field is None:
                if column not in self.dropped and REST not in self.dropped:
                    _place(document, [column], value, errors)
            else:
                _place(document, field.split("."), value, errors)
        for field, form in self.formats.items():
            _rewrite(document, field.split("."), form, errors)
        return row._replace(document=document, errors=tuple(errors))


def columns_of(
    maps: Iterable[str] = (), dropped: Iterable[str] = (), formats: Iterable[str] = (), file: Path | None = None
) -> Columns:
    """Return the mapping that a command line asks for; what it says itself comes before what its file says.

    Raises:
        ValueError: it cannot be meant.
    """
    written = _read(file) if file else _File()
    fields = {**written.map, **dict(_pair(text, "--map", "COLUMN=FIELD", last=True) for text in maps)}
    forms = {
        **written.date_format,
        **dict(_pair(text, "--date-format", "FIELD=FORMAT", last=False) for text in formats),
    }
    left_out = frozenset([*written.drop, *dropped])
    for field, form in forms.items():
        _check_form(field, form)
    for field in fields.values():
        if not all(field.split(".")):
            raise ValueError(f"--map: {field!r} is no name of a field; write name, or object.name.")
    twice = sorted({field for field in fields.values() if list(fields.values()).count(field) > 1})
    if twice:
        raise ValueError(f"--map: two columns go to the field {_names(twice)}; one of them must go elsewhere.")
    both = sorted(left_out & set(fields))
    if both:
        raise ValueError(f"--map and --drop both name the column {_names(both)}.")
    return Columns(fields, left_out, forms)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A mapping in a file."""

    map: dict[str, str] = {}
    date_format: dict[str, str] = {}
    drop: list[str] = []


def _read(path: Path) -> _File:
    decode = msgspec.toml.decode if path.suffix.lower() == ".toml" else msgspec.json.decode
    try:
        return decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{path}: {error}. It holds "map", "date_format" and "drop", as JSON or TOML.') from None


def _pair(text: str, option: str, form: str, *, last: bool) -> tuple[str, str]:
    """Split at the last = or the first: a column may have one in its name, as may a format."""
    left, equals, right = text.rpartition("=") if last else text.partition("=")
    if not (equals and left.strip() and right.strip()):
        raise ValueError(f"{option} {text!r}: write {form}.")
    return left.strip(), right.strip()


def _check_form(field: str, form: str) -> None:
    moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    try:
        datetime.strptime(moment.strftime(form), form)  # noqa: DTZ007
        usable = "%" in form
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"--date-format {field}={form}: not a form of dates; %m/%d/%Y %H:%M is one.")


def _place(document: dict[str, Any], path: list[str], value: Any, errors: list[dict[str, Any]]) -> None:
    inner: Any = document
    for name in path[:-1]:
        inner = inner.setdefault(name, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or path[-1] in inner:
        errors.append(_error(path, "ambiguous_field", "Two columns go to this field; rename or drop one of them."))
    else:
        inner[path[-1]] = value


def _rewrite(document: dict[str, Any], path: list[str], form: str, errors: list[dict[str, Any]]) -> None:
    inner: Any = document
    for name in path[:-1]:
        inner = inner.get(name) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or inner.get(path[-1]) is None:
        # The schema says whether it may be missing.
        return
    text = inner[path[-1]]
    try:
        moment = datetime.strptime(text.strip(), form)  # noqa: DTZ007 - what has no zone gets none here
    except (AttributeError, ValueError):
        errors.append(_error(path, "date_format", f"It is not of the form {form}."))
        return
    inner[path[-1]] = moment.isoformat() if _has_time(form) else moment.date().isoformat()


def _has_time(form: str) -> bool:
    return any(part[:1] in _TIME_DIRECTIVES for part in form.replace("%%", "").split("%")[1:] if part)


def _error(path: list[str], code: str, message: str) -> dict[str, Any]:
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)
    return {"pointer": pointer, "code": code, "message": message}


def _names(names: Iterable[str]) -> str:
    found = [repr(name) for name in names]
    return ", ".join(found[:40]) + (f" and {len(found) - 40} more" if len(found) > 40 else "")
