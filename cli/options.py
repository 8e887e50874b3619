"""Options that many commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="gateway; else HEADRACE_URL, else the `up` of this folder")]
Token = Annotated[str | None, typer.Option(help="token or API key; else HEADRACE_TOKEN, else the `up`'s")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout")]
PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="name of the pipeline")]
DataDir = Annotated[Path, typer.Option(metavar="DIR", help="where the embedded servers keep their data")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="the gateway's; 0 takes a free one")]
