"""Rows to the gateway, over HTTP.

Where the pipeline has a natural key, rows go as NDJSON and the documents' own key makes their ids. Else they go as
CloudEvents, whose source is the rows' source and whose id is the row.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from yarl import URL

from producer.client import AiohttpClient, Target
from producer.outcome import Answer, Refusal, SendError, outcome_of
from producer.outlets import attempts
from producer.target import Headrace
from producer.upload import Chunk, Outlet, Progress, RefusedRow, UploadError

_TIMEOUT_SECONDS: Final = 60.0
_TYPES: Final = {
    # (natural key, bulk)
    (True, True): "application/x-ndjson",
    (True, False): "application/json",
    (False, True): "application/cloudevents-batch+json",
    (False, False): "application/cloudevents+json",
}


@contextlib.asynccontextmanager
async def open_gateway(headrace: Headrace, pipeline: str, source: str) -> AsyncIterator[Outlet]:
    """Give the outlet of a pipeline's gateway.

    Args:
        source: names the rows' source in the ids of documents.

    Raises:
        UploadError: the gateway is away, refuses the token or has no such pipeline.
    """
    name = quote(pipeline, safe="")
    async with AiohttpClient(Target(headrace.url, "", headrace.token), _TIMEOUT_SECONDS) as client:
        gateway = _Gateway(client, headrace.url, name, source)
        await gateway.prepare()
        yield gateway


class _Gateway:
    def __init__(self, client: AiohttpClient, url: str, pipeline: str, source: str) -> None:
        self._client = client
        self._documents = URL(f"{url}/v1/documents/{pipeline}", encoded=True)
        self._about = URL(f"{url}/v1/pipelines/{pipeline}", encoded=True)
        self._event = b'{"specversion":"1.0","type":"headrace.row","source":%b,"id":%%b,"data":%%b}' % (
            msgspec.json.encode(f"/produce/{source}").replace(b"%", b"%%")
        )
        self._natural = False

    async def prepare(self) -> None:
        answer = await self._ask("GET", self._about, b"", {}, Progress())
        if answer.status != 200:
            raise UploadError(f"The gateway refuses: {_detail(answer)}")
        try:
            self._natural = bool(msgspec.json.decode(answer.body, type=_About).key)
        except msgspec.MsgspecError:
            raise UploadError(f"What answers at {self._about.origin()} is not a Headrace.") from None

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        bodies = chunk.bodies
        if not self._natural:
            bodies = [
                self._event % (msgspec.json.encode(key), body)
                for key, body in zip(chunk.keys, chunk.bodies, strict=True)
            ]
        if len(bodies) > 1:
            whole = b"\n".join(bodies) if self._natural else b"[%b]" % b",".join(bodies)
            answer = await self._post(whole, progress, bulk=True)
            if answer.status != 413:
                return _refused(answer, chunk.numbers, bulk=True)
        # One of them is too large, or all together are. Alone, each has the id that it has among others.
        refused = []
        for number, body in zip(chunk.numbers, bodies, strict=True):
            refused += _refused(await self._post(body, progress, bulk=False), [number], bulk=False)
        return refused

    async def _post(self, body: bytes, progress: Progress, *, bulk: bool) -> Answer:
        return await self._ask("POST", self._documents, body, {"Content-Type": _TYPES[self._natural, bulk]}, progress)

    async def _ask(self, method: str, url: URL, body: bytes, headers: Mapping[str, str], progress: Progress) -> Answer:
        """Return the final answer; 408, 429, 5xx and lost connections are tried again.

        Raises:
            UploadError: it stays so.
        """
        for attempt in range(1, attempts.MOST_ATTEMPTS + 1):
            asked_seconds = None
            try:
                answer = await self._client.ask(method, url, body=body, headers=headers)
            except SendError as error:
                why = error.reason
            else:
                if answer.status not in (408, 429) and answer.status < 500:
                    return answer
                why, asked_seconds = _detail(answer), answer.retry_after_seconds
            if attempt < attempts.MOST_ATTEMPTS:
                progress.retries += 1
                await asyncio.sleep(attempts.wait_seconds(attempt, asked_seconds))
        raise UploadError(f"The gateway did not accept documents in {attempts.MOST_ATTEMPTS} attempts: {why}")


def _refused(answer: Answer, numbers: list[int], *, bulk: bool) -> list[RefusedRow]:
    outcome = outcome_of(answer, len(numbers), bulk=bulk)
    if outcome.failed:
        raise UploadError(f"The gateway's answer ({answer.status}) is not one of Headrace.")
    # Of the refusals, these three are about the documents; 400, 401, 403, 404 are about the request.
    if answer.status >= 400 and answer.status not in (409, 413, 422):
        raise UploadError(f"The gateway refuses every document: {_detail(answer)}")
    return [RefusedRow(numbers[found.index], found.errors or [_rule(found, answer)]) for found in outcome.refused]


def _rule(refusal: Refusal, answer: Answer) -> dict[str, Any]:
    message = _detail(answer) if answer.status >= 400 else f"Refused with status {refusal.status}."
    return {"pointer": "", "code": refusal.reason, "message": message}


class _About(msgspec.Struct):
    """What matters here of what the gateway says about a pipeline."""

    name: str
    key: list[str] = []


class _Problem(msgspec.Struct):
    detail: str = ""


def _detail(answer: Answer) -> str:
    try:
        return msgspec.json.decode(answer.body, type=_Problem).detail or f"status {answer.status}"
    except msgspec.DecodeError:
        return f"status {answer.status}"
