"""`headrace config|version`: what is set, where it came from, and which Headrace this is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.options import Json
from cli.output import write_json
from cli.problems import say


def config(
    explain: Annotated[bool, typer.Option("--explain", help="say what each setting means, and its limits")] = False,
    as_json: Json = False,
) -> None:
    """Show every setting: its value, secrets masked, and where that came from."""
    from cli.settings import read_variables, unknown_variables
    from headrace.settings import Settings

    variables = read_variables()
    rows = settings_shown(Settings(), explain=explain)
    if as_json:
        write_json(rows)
    else:
        _write_rows(rows)
    for name, meant in unknown_variables(variables).items():
        say(f"headrace: {name} is set and is no setting" + (f"; did you mean {meant}?" if meant else "."))


def settings_shown(settings: Any, *, explain: bool) -> list[dict[str, Any]]:
    """Return {name, value, origin} of each setting, and with `explain` what it means."""
    from cli.settings import all_settings, origin_of, read_variables, shown

    variables = read_variables()
    rows = []
    for setting in all_settings():
        row = {
            "name": setting.name,
            "value": shown(setting, setting.value_in(settings)),
            "origin": origin_of(setting, variables),
        }
        if explain:
            row |= {
                "description": setting.field.description,
                "limits": setting.limits or None,
                "default": shown(setting, setting.field.default),
                "aliases": list(setting.aliases),
            }
        rows.append(row)
    return rows


def _write_rows(rows: list[dict[str, Any]]) -> None:
    """Write lines that could stand in an environment file, but for the masked secrets."""
    import json

    width = max(len(row["name"]) + len(_text(row["value"])) for row in rows[4:]) + 1
    for row in rows:
        if "description" in row:
            notes = [row["limits"], *(f"also {alias}" for alias in row["aliases"])]
            more = "; ".join(note for note in notes if note)
            typer.echo(f"# {row['description']}" + (f" ({more})" if more else ""))
        assignment = f"{row['name']}={_text(row['value'])}"
        typer.echo(assignment if row["origin"] == "default" else f"{assignment:<{width}}  # {row['origin']}")
        if "description" in row and row["origin"] != "default":
            typer.echo(f"#   default: {json.dumps(row['default'])}")


def _text(value: Any) -> str:
    import json

    match value:
        case None:
            return ""
        case bool() | list():
            return json.dumps(value)
    return str(value)


def version(as_json: Json = False) -> None:
    """Say which Headrace this is."""
    import platform

    from headrace import __version__

    about = {"version": __version__, "python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        write_json(about)
    else:
        typer.echo(f"headrace {__version__} (Python {about['python']}, {about['platform']})")
