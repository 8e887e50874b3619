"""Replays and discards over the API: dry runs in portions, progress until they are done, functions in batches."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from cli.api import Answer, Api, path
from cli.patching import Change, change
from headrace.errors import RequestError
from headrace.patch import dumps

_LOOK_SECONDS = 0.5
_DRY_RUN_SECONDS = 30.0
# Of one request with a patch for each document; the gateway takes 512 KiB.
_BATCH_DOCUMENTS = 500
_BATCH_BYTES = 300 << 10
_SAMPLES = 10


@dataclass
class Trial:
    """What dry runs have found so far."""

    would_pass: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def would_fail(self) -> int:
        return self.reasons.total()

    def add(self, found: Mapping[str, Any]) -> None:
        self.would_pass += found["would_pass"]
        for reason in found["reasons"]:
            self.reasons[reason["code"], reason["pointer"]] += reason["count"]
        self.samples = (self.samples + found["samples"])[:_SAMPLES]

    def fail(self, letter: Mapping[str, Any], error: RequestError) -> None:
        if not self.reasons[error.code, ""]:
            about = {"id": letter["id"], "pipeline": letter["pipeline"], "stage": letter["stage"]}
            self.samples.append({**about, "code": error.code, "detail": error.detail, "errors": []})
        self.reasons[error.code, ""] += 1

    def told(self) -> dict[str, Any]:
        return {
            "would_pass": self.would_pass,
            "would_fail": self.would_fail,
            "reasons": [{"code": code, "pointer": at, "count": n} for (code, at), n in self.reasons.most_common()],
            "samples": self.samples,
        }


async def try_out(api: Api, request: Mapping[str, Any]) -> Trial:
    """Dry-run a replay to its end, however many letters it chooses."""
    trial = Trial()
    after: int | None = 0
    while after is not None:
        found = (await _decide(api, "POST", "replay", {**request, "dry_run": True, "after": after})).body
        trial.add(found)
        after = found["next"]
        _progress(f"{trial.would_pass + trial.would_fail:,} of {found['matched']:,} tried out")
    _progress("")
    return trial


async def replay(api: Api, request: Mapping[str, Any]) -> dict[str, Any]:
    """Replay, and return how it ended."""
    return await _done(api, (await _decide(api, "POST", "replay", request)).body, "replayed")


async def discard(api: Api, request: Mapping[str, Any]) -> dict[str, Any]:
    """Discard, and return how it ended."""
    return await _done(api, (await _decide(api, "DELETE", "", request)).body, "discarded")


async def changed(api: Api, letters: AsyncIterator[dict[str, Any]], how: Change, trial: Trial) -> AsyncIterator[Any]:
    """Yield the patches that a function makes, by id, as many as fit one request; what it cannot do is in `trial`."""
    patches: dict[str, Any] = {}
    size = 0
    async for letter in letters:
        try:
            found = change(letter["body"], how)
            if not found:
                raise RequestError("The function leaves it as it is.", code="unchanged")
        except RequestError as error:
            trial.fail(letter, error)
            continue
        length = len(dumps(found)) + 48
        if patches and (len(patches) >= _BATCH_DOCUMENTS or size + length > _BATCH_BYTES):
            yield patches
            patches, size = {}, 0
        patches[letter["id"]] = found
        size += length
    if patches:
        yield patches


async def letters(api: Api, ids: Sequence[str], filters: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    """Yield dead letters with their bodies: those of these documents, or all that are so."""
    for document_id in ids:
        yield await api.get(path("dead-letters", document_id))
    if ids:
        return
    params = {**filters, "body": "true", "limit": "500"}
    while True:
        page = await api.get("/v1/dead-letters", params)
        for letter in page["items"]:
            yield letter
        if not page["next"]:
            return
        params["cursor"] = page["next"]


async def chosen(api: Api, ids: Sequence[str], filters: Mapping[str, str]) -> int:
    """Return how many dead letters are chosen; of ids, how many documents have one."""
    if not ids:
        return sum(group["count"] for group in await api.get("/v1/dead-letters/groups", filters))
    states = [(await api.get(path("dead-letters", one)))["state"] for one in ids]
    return states.count("dead")


def totals(ends: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several replays as one."""
    total: dict[str, Any] = {"replayed": 0, "left_out": 0, "matched": 0, "samples": [], "actions": []}
    for end in ends:
        for name in ("replayed", "left_out", "matched"):
            total[name] += end[name]
        total["samples"] = (total["samples"] + end["samples"])[:_SAMPLES]
        total["actions"].append(end["id"])
    return total


async def _decide(api: Api, method: str, what: str, request: Mapping[str, Any]) -> Answer:
    where = path("dead-letters", what) if what else path("dead-letters")
    while True:
        answer = await api.ask(
            *(method, where),
            body=dumps(request),
            headers={"Content-Type": "application/json"},
            timeout_seconds=_DRY_RUN_SECONDS,
        )
        if answer.status == 429:  # as many run as may
            await asyncio.sleep(answer.retry_after_seconds or 1)
            continue
        if answer.status >= 400:
            raise answer.error
        return answer


async def _done(api: Api, end: dict[str, Any], count: str) -> dict[str, Any]:
    while end["state"] != "done":
        waits = f"; it waits: {end['problem']}" if end["problem"] else ""
        _progress(f"{end[count]:,} of {end['matched']:,} {count}{waits}")
        await asyncio.sleep(_LOOK_SECONDS)
        end = await api.get(path("dead-letters", "replays", end["id"]))
    _progress("")
    return end


def _progress(text: str) -> None:
    """Write over the line before; an empty text leaves nothing of it."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{text}", err=True, nl=False)
