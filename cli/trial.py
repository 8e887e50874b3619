"""The bundled samples sent through a running Headrace, and what became of every row."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.api import Api, path
from headrace.errors import HeadraceError
from producer.origins.files import file_source
from producer.outlets.gateway import open_gateway
from producer.samples import sample
from producer.target import Headrace
from producer.upload import Progress, RefusedRow, UploadError, upload

_SETTLE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
_TOP: Final = 3


@dataclass(slots=True)
class Trial:
    """What became of one pipeline's sample.

    Attributes:
        refused: how many rows broke a rule at the door, by (rule, pointer).
        ledger: the pipeline's line, which may hold what was sent before; empty where it could not be asked.
        settled: whether every row that was accepted has come to rest and the books balance.
        metrics: each metric with its first values.
        error: why it ended early.
    """

    pipeline: str
    source: str
    rows: int = 0
    accepted: int = 0
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0
    ledger: Mapping[str, Any] = field(default_factory=dict)
    settled: bool = False
    metrics: Sequence[Mapping[str, Any]] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "rows": self.rows,
            "accepted": self.accepted,
            "refused": [
                {"code": code, "pointer": pointer, "count": count}
                for (code, pointer), count in self.refused.most_common()
            ],
            "seconds": round(self.seconds, 3),
            "ledger": self.ledger,
            "settled": self.settled,
            "metrics": self.metrics,
            "error": self.error or None,
        }


async def try_samples(headrace: Headrace) -> list[Trial]:
    """Send every pipeline's sample and wait until all of it has come to rest; a failure stands in its trial.

    Raises:
        HeadraceError: the gateway does not say which pipelines there are.
    """
    async with Api(headrace) as api:
        names = [one["name"] for one in (await api.get("/v1/pipelines"))["items"]]
        samples = {name: file for name in names if (file := sample(name)) is not None}
        return await asyncio.gather(*(_try(api, headrace, name, file) for name, file in samples.items()))


async def _try(api: Api, headrace: Headrace, pipeline: str, file: Path) -> Trial:
    trial = Trial(pipeline, file.name)
    began = time.monotonic()
    try:
        before = await _line(api, pipeline)
        await _send(headrace, trial, file)
        await _settle(api, trial, before.get("accepted", 0) + trial.accepted)
        trial.metrics = (await api.get(path("analytics", pipeline), {"limit": str(_TOP)}))["metrics"]
    except UploadError as error:
        trial.error = str(error)
    except HeadraceError as error:
        trial.error = error.detail
    trial.seconds = time.monotonic() - began
    return trial


async def _send(headrace: Headrace, trial: Trial, file: Path) -> None:
    """Send a file as `headrace produce` does: under keys of its content, so a second time stores nothing twice."""
    progress = Progress()

    def refuse(row: RefusedRow) -> None:
        first = row.errors[0]
        trial.refused[str(first["code"]), str(first["pointer"])] += 1

    source = file_source(trial.pipeline, file)
    async with open_gateway(headrace, trial.pipeline, source.key) as outlet:
        await upload(outlet, source.rows(None), refuse=refuse, progress=progress, advance=lambda _: None)
    trial.rows, trial.accepted = progress.rows, progress.accepted


async def _settle(api: Api, trial: Trial, accepted: int) -> None:
    """Wait until the books have all that was accepted, and none of it is on its way."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        line = trial.ledger = await _line(api, trial.pipeline)
        trial.settled = settled(line, accepted)
        if trial.settled:
            return
        if time.monotonic() > deadline:
            trial.error = f"The ledger did not balance within {_SETTLE_SECONDS:g} s; see `headrace status`."
            return
        await asyncio.sleep(_POLL_SECONDS)


def settled(line: Mapping[str, Any], accepted: int) -> bool:
    """Return whether a line of the ledger has at least so many documents, and each of them has come to rest."""
    return bool(line) and line["accepted"] >= accepted and line["in_flight"] == 0 and bool(line["balanced"])


async def _line(api: Api, pipeline: str) -> Mapping[str, Any]:
    line: Mapping[str, Any] = (await api.get("/v1/ledger"))["pipelines"].get(pipeline, {})
    return line
