"""The settings as a user meets them: each one's variable, where its value came from, and what is wrong with it."""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values
from pydantic import AliasChoices, BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from headrace.settings import ENV_PREFIX, Settings

# Read by the commands that talk to a gateway, not by the services.
CLIENT_VARIABLES: Final = ("HEADRACE_URL", "HEADRACE_TOKEN")

_SECRET_PARAMETER: Final = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&#]*")
_CREDENTIALS: Final = re.compile(r"(?P<scheme>[a-z+]*)://(?P<credentials>[^/?#]*)@")
_LIMITS: Final = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its path in `Settings`, its variable, and other names that are taken too."""

    path: tuple[str, ...]
    name: str
    aliases: tuple[str, ...]
    field: FieldInfo

    @property
    def secret(self) -> bool:
        return SecretStr in (self.field.annotation, *typing.get_args(self.field.annotation))

    @property
    def limits(self) -> str:
        """Return its bounds in words, such as "at least 1, at most 5"; empty without any."""
        return ", ".join(
            f"{words} {limit:g}"
            for rule in self.field.metadata
            for attribute, words in _LIMITS.items()
            if (limit := getattr(rule, attribute, None)) is not None
        )

    def value_in(self, settings: Settings) -> Any:
        value: Any = settings
        for part in self.path:
            value = getattr(value, part)
        return value


@dataclass(frozen=True, slots=True)
class Variables:
    """Names and values as the environment and `.env` hold them, in upper case."""

    environment: Mapping[str, str]
    dotenv: Mapping[str, str]

    def named(self) -> Iterator[tuple[str, str, str]]:
        """Yield (name, value, where) of all, the ones that win first."""
        for name, value in self.environment.items():
            yield name, value, "environment"
        for name, value in self.dotenv.items():
            yield name, value, ".env"


def read_variables() -> Variables:
    env_file = Path(".env")
    found = dotenv_values(env_file) if env_file.is_file() else {}
    return Variables(
        {name.upper(): value for name, value in os.environ.items()},
        {name.upper(): value or "" for name, value in found.items()},
    )


def all_settings(fields: Mapping[str, FieldInfo] = Settings.model_fields, path: tuple[str, ...] = ()) -> list[Setting]:
    """Return every setting, in the order in which they are declared."""
    found: list[Setting] = []
    for key, field in fields.items():
        here = (*path, key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += all_settings(field.annotation.model_fields, here)
        else:
            name = variable_of(here)
            choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
            found.append(Setting(here, name, tuple(str(choice) for choice in choices if choice != name), field))
    return found


def variable_of(path: Sequence[str | int]) -> str:
    """Return the environment variable of a path in the settings."""
    return ENV_PREFIX + "__".join(str(part).upper() for part in path if isinstance(part, str))


def origin_of(setting: Setting, variables: Variables) -> str:
    """Return where a setting's value came from: `default`, or the variable's name and where it is set."""
    group = variable_of(setting.path[:1]) if len(setting.path) > 1 else None
    for where, held in ((None, variables.environment), (".env", variables.dotenv)):
        for name in (setting.name, *setting.aliases):
            if name in held:
                return f"{where or 'environment'}: {name}"
            # Only the environment's variables may name files.
            if where is None and held.get(f"{name}_FILE") and not name.endswith("SIGNING_KEY"):
                return f"file {held[f'{name}_FILE']}: {name}_FILE"
        if group is not None and group in held and f'"{setting.path[-1]}"' in held[group]:
            return f"{where or 'environment'}: {group}"
    return "default"


def unknown_variables(variables: Variables) -> dict[str, str]:
    """Return the HEADRACE_ variables that mean nothing to anybody, each with the name that was probably meant."""
    settings = all_settings()
    known = {name for setting in settings for name in (setting.name, *setting.aliases)}
    known |= {variable_of(setting.path[:1]) for setting in settings}
    known |= {f"{name}_FILE" for name in known}
    known |= set(CLIENT_VARIABLES)
    found = {name for name, _, _ in variables.named() if name.startswith(ENV_PREFIX)} - known
    return {name: _meant(name, known) for name in sorted(found)}


def _meant(name: str, known: Iterable[str]) -> str:
    """Return the known name that this one is probably meant to be; empty where there is none like it."""
    # What all have in common would make all of them alike.
    rests = {one.removeprefix(ENV_PREFIX): one for one in known}
    close = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), rests, 1, cutoff=0.75)
    return rests[close[0]] if close else ""


def shown(setting: Setting, value: Any) -> Any:
    """Return a value that may be shown: JSON's types, nothing secret."""
    match value:
        case SecretStr():
            text = value.get_secret_value()
            return mask_url(text) if "://" in text else "***"
        case Path():
            return str(value)
        case tuple():
            return list(value)
    return value


def mask_url(text: str) -> str:
    """Return URLs, comma separated, without passwords and tokens."""
    masked = _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub(_mask_credentials, text))
    # A password with a stray character in it is not where one looks for it.
    return "***" if "@" in _CREDENTIALS.sub("", masked) else masked


def _mask_credentials(match: re.Match[str]) -> str:
    name, colon, _ = match["credentials"].partition(":")
    # Alone before the @, NATS takes a token and the others a user.
    masked = f"{name}:***" if colon else name if match["scheme"] not in ("nats", "tls", "ws", "wss") else "***"
    return f"{match['scheme']}://{masked}@"


def explain(error: Exception) -> list[str] | None:
    """Return short lines on what is wrong with the settings; None where the error is about something else."""
    match error:
        case ValidationError() if error.title == Settings.__name__:
            return [_broken_rule(details) for details in error.errors(include_url=False)]
        case SettingsError():
            return _not_json(str(error))
        case OSError() if error.filename:
            return _missing_file(error)
    return None


def _broken_rule(details: Any) -> str:
    path = details["loc"]
    setting = next((one for one in all_settings() if one.path == tuple(path[: len(one.path)])), None)
    # An error of a field with aliases is found under the alias.
    name = setting.name if setting else variable_of(path) if not str(path[0]).isupper() else str(path[0])
    if details["type"] == "extra_forbidden":
        meant = _meant(name, [one.name for one in all_settings()])
        return f"{name}{_where(name)}: there is no such setting. Fix: " + (
            f"did you mean {meant}?" if meant else "remove it; `headrace config` lists all settings."
        )
    if setting is None:
        return f"{name}{_where(name)}: {details['msg']}. Fix: set its parts, such as {_a_part_of(path)}."
    given = "" if setting.secret else f"={str(details['input'])[:60]}"
    meaning = "; ".join(part for part in (setting.field.description, setting.limits) if part)
    default = written(setting.field.default)
    remove = f"remove it for the default {default}" if default else "remove it; there is none by default"
    return f"{name}{given}{_where(name)}: {details['msg']}. It is: {meaning}. Fix: change it, or {remove}."


def _where(name: str) -> str:
    return next((f" (in {where})" for one, _, where in read_variables().named() if one == name and where == ".env"), "")


def _a_part_of(path: Sequence[str | int]) -> str:
    return next((one.name for one in all_settings() if one.path[:1] == tuple(path[:1])), variable_of(path))


def written(value: Any) -> str:
    """Return a default as an environment variable would hold it; nothing for None."""
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ",".join(f'"{part}"' for part in value) + "]"
    return str(value)


def _not_json(message: str) -> list[str]:
    """Groups and lists are JSON; say which variable is not."""
    match = re.search(r'field "(\w+)"', message)
    group = variable_of((match[1],)) if match else ENV_PREFIX
    lists = {one.name for one in all_settings() if _is_list(one.field.annotation)}
    found = [
        f"{name}{f' (in {where})' if where == '.env' else ''}: this is not JSON. "
        + ('Fix: write a list as ["first","second"].' if name in lists else f"Fix: set its parts, such as {group}__….")
        for name, value, where in read_variables().named()
        if (name == group or (name in lists and name.startswith(group))) and not _is_json(value)
    ]
    return found or [f"{group}…: {message}. Fix: write groups and lists as JSON."]


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list) or isinstance(annotation, types.GenericAlias)


def _is_json(text: str) -> bool:
    import json

    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _missing_file(error: OSError) -> list[str] | None:
    for name, value, _ in read_variables().named():
        if name.endswith("_FILE") and value == str(error.filename):
            return [f"{name}={value}: {error.strerror}. Fix: name a file that this process may read."]
    return None
