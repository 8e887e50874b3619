"""`headrace doctor`: what could keep Headrace from running well here, each with its fix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json
from cli.problems import EXIT_FAILED

if TYPE_CHECKING:
    from pathlib import Path

    from cli.findings import Finding

_MARKS = {"ok": "✓", "note": "·", "warning": "!", "failed": "✗"}
_STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "failed": "bold red"}


def doctor(
    data_dir: Annotated[str, typer.Option(metavar="DIR", help="where `up` keeps its data")] = ".headrace",
    as_json: Json = False,
) -> None:
    """Examine this machine and the servers in the settings; what fails names its fix.

    Exit codes: 0 nothing fails, 1 something does.
    """
    import asyncio
    from pathlib import Path

    findings = asyncio.run(_examine(Path(data_dir)))
    _show(findings, as_json=as_json)
    if any(one.level == "failed" for one in findings):
        raise typer.Exit(EXIT_FAILED)


async def _examine(data_dir: Path) -> list[Finding]:
    from cli import machine, reach
    from cli.settings import read_variables, unknown_variables
    from headrace.settings import Settings

    settings = Settings()
    variables = read_variables()
    return [
        machine.python(),
        machine.passlib(),
        machine.disk(data_dir, settings.streams),
        machine.open_files(),
        *machine.wheels(),
        *machine.root(),
        machine.pipelines(settings.pipelines),
        *machine.strange_variables(unknown_variables(variables)),
        *machine.exposed(settings),
        *await reach.servers(settings, data_dir),
    ]


def _show(findings: list[Finding], *, as_json: bool) -> None:
    from dataclasses import asdict

    from cli.output import console, write_json

    if as_json:
        write_json([asdict(one) for one in findings])
        return
    from rich.text import Text

    out = console()
    width = max(len(one.name) for one in findings)
    for one in findings:
        line = Text.assemble((_MARKS[one.level], _STYLES[one.level]), f" {one.name:<{width}}  {one.detail}")
        out.print(line, soft_wrap=True)
        if one.fix:
            out.print(Text(f"  {'':<{width}}  Fix: {one.fix}", style=_STYLES[one.level]), soft_wrap=True)
