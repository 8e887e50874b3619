"""Write .env.example from the settings: `python -m deploy.env_example > .env.example`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from headrace.settings import ENV_PREFIX, Settings

HEADER = """\
# Every setting of Headrace with its default. Copy this file to .env and take the # off the lines that you change.
# <NAME>_FILE=path reads a value from a file; use it for secrets. `make env-example` writes this file.
"""


class Setting(NamedTuple):
    """One setting as the environment sees it."""

    name: str
    aliases: tuple[str, ...]
    field: FieldInfo


def settings_of(fields: Mapping[str, FieldInfo], prefix: str = ENV_PREFIX) -> Iterator[Setting]:
    """Yield every setting below `fields`, in the order in which they are declared."""
    for key, field in fields.items():
        name = prefix + key.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation.model_fields, name + "__")
        else:
            choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
            yield Setting(name, tuple(str(choice) for choice in choices if choice != name), field)


def written(value: Any) -> str:
    """Return a default as an environment variable would hold it; nothing for None."""
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case bool() | tuple() | list() | dict():
            return json.dumps(value)
        case Path() | str() | int() | float():
            return str(value)
    raise TypeError(f"a default of type {type(value).__name__} has no form in the environment")


def bounds(field: FieldInfo) -> str:
    """Return a field's limits in words, such as "at least 1, at most 5"; empty without any."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{text} {limit}"
        for rule in field.metadata
        for name, text in words.items()
        if (limit := getattr(rule, name, None)) is not None
    ]
    return ", ".join(limits)


def env_example() -> str:
    """Return the text of .env.example."""
    lines = [HEADER]
    for setting in settings_of(Settings.model_fields):
        notes = [note for note in (bounds(setting.field), *(f"also {alias}" for alias in setting.aliases)) if note]
        suffix = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"# {setting.field.description}{suffix}")
        lines.append(f"#{setting.name}={written(setting.field.default)}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(env_example(), end="")
