"""How dead letters are chosen on the command line: by ids, or by what they have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.problems import EXIT_USAGE, fail

if TYPE_CHECKING:
    from collections.abc import Mapping

Pipeline = Annotated[str | None, typer.Option(help="of this pipeline only")]
Stage = Annotated[str | None, typer.Option(help="refused by this stage only: refine, documents, facts")]
Code = Annotated[str | None, typer.Option(help="refused for this reason only")]
Pointer = Annotated[str | None, typer.Option(help="refused for this field only, such as /Quantity")]
After = Annotated[str | None, typer.Option(metavar="TIME", help="refused after: 90s, 10m, 2h, 1d ago, or ISO 8601")]
Before = Annotated[str | None, typer.Option(metavar="TIME", help="refused before")]


def chosen(ids: list[str] | None, filters: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a request that says which dead letters are meant."""
    if bool(ids) == bool(filters):
        fail("Name documents by their ids, or choose them by --pipeline, --code and the like.", exit_code=EXIT_USAGE)
    return {"ids": ids} if ids else {"filter": dict(filters)}


def filters_of(
    pipeline: str | None,
    stage: str | None,
    code: str | None,
    pointer: str | None,
    after: str | None,
    before: str | None,
) -> dict[str, str]:
    words = {"pipeline": pipeline, "stage": stage, "code": code, "pointer": pointer}
    times = {"after": _moment(after), "before": _moment(before)}
    return {name: value for name, value in {**words, **times}.items() if value is not None}


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    from datetime import UTC, datetime

    from cli.following import parse_since
    from headrace.document import rfc3339

    try:
        return rfc3339(parse_since(text, datetime.now(UTC)))
    except ValueError:
        fail(f"{text!r} is neither like 90s, 10m, 2h, 1d nor a time in ISO 8601.", exit_code=EXIT_USAGE)
