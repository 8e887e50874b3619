"""Documents from a file or a pipe to the gateway in bulk, and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import select
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from cli.api import Answer, Api, path
from cli.problems import say
from headrace.errors import HeadraceError, RequestError, UnavailableError

# With --key-prefix a document's id follows from the first of its chunk: changing these gives other ids.
CHUNK_DOCUMENTS: Final = 500
CHUNK_BYTES: Final = 4 << 20

_READ_BYTES: Final = 1 << 16
_IDLE_SECONDS: Final = 0.2
_MOST_ATTEMPTS: Final = 10
_REQUEST_SECONDS: Final = 60.0


@dataclass(slots=True)
class Chunk:
    """Documents that go in one request; `numbers` are their lines or places in the input."""

    numbers: list[int] = field(default_factory=list)
    documents: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def full_for(self, document: bytes) -> bool:
        return bool(self.documents) and (
            len(self.documents) == CHUNK_DOCUMENTS or self.size_bytes + len(document) > CHUNK_BYTES
        )

    def add(self, number: int, document: bytes) -> None:
        self.numbers.append(number)
        self.documents.append(document)
        self.size_bytes += len(document)


def chunks(numbered: Iterable[tuple[int, bytes] | None], *, whole: bool) -> Iterator[Chunk]:
    """Yield documents in chunks.

    Args:
        numbered: (number, document), and None where the input pauses.
        whole: wait until a chunk is full, so that its bounds depend on the documents alone; else what there is goes
            at each pause.
    """
    chunk = Chunk()
    for found in numbered:
        if found is None:
            if chunk.documents and not whole:
                yield chunk
                chunk = Chunk()
            continue
        if chunk.full_for(found[1]):
            yield chunk
            chunk = Chunk()
        chunk.add(*found)
    if chunk.documents:
        yield chunk


class Documents:
    """The documents of an open file. JSON lines are taken as they come; one document or an array is read whole.

    Attributes:
        place: what a document's number counts, `line` or `item`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.place = "line"

    def numbered(self) -> Iterator[tuple[int, bytes] | None]:
        """Yield (number, document), and None where the input pauses.

        Raises:
            RequestError: an array breaks JSON's rules.
        """
        lines = self._lines()
        first = True
        for number, line in enumerate_lines(lines):
            if line is None:
                yield None
                continue
            if first and number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line or line.isspace():
                continue
            # Anything else is a line of its own, and an endless stream must not wait for its end.
            if first and line.lstrip()[:1] in (b"[", b"{") and not _is_object(line):
                rest = b"\n".join([line, *(more for more in lines if more is not None)])
                yield from self._whole(number, rest)
                return
            first = False
            yield number, line

    def _whole(self, number: int, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the documents of a text whose first line is none: an array, or one document over many lines."""
        if text.lstrip()[:1] == b"[":
            try:
                items = msgspec.json.decode(text, type=list[msgspec.Raw])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise RequestError(f"The array is not JSON: {error}.") from None
            self.place = "item"
            yield from ((place, bytes(item)) for place, item in enumerate(items, start=1))
        elif _is_object(text):
            self.place = "item"
            yield 1, text
        else:
            # Lines after all, with the first one broken; the gateway says what is wrong with it.
            for place, line in enumerate(text.split(b"\n"), start=number):
                if line and not line.isspace():
                    yield place, line

    def _lines(self) -> Iterator[bytes | None]:
        """Yield the lines, and None where the input pauses."""
        rest: list[bytes] = []
        while True:
            if not select.select([self._descriptor], [], [], _IDLE_SECONDS)[0]:
                yield None
                continue
            data = os.read(self._descriptor, _READ_BYTES)
            if not data:
                break
            *lines, last = data.split(b"\n")
            if lines:
                yield b"".join([*rest, lines[0]])
                yield from lines[1:]
                rest = []
            rest.append(last)
        if any(rest):
            yield b"".join(rest)


def enumerate_lines(lines: Iterator[bytes | None]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number, line); pauses do not count."""
    number = 0
    for line in lines:
        number += line is not None
        yield number, line


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


@contextlib.contextmanager
def open_documents(name: str) -> Iterator[Documents]:
    """Open a file, or stdin for `-`.

    Raises:
        OSError: it cannot be read.
    """
    if name == "-":
        if sys.stdin is None:
            raise RequestError("Stdin is closed, so there is nothing to read.")
        yield Documents(sys.stdin.fileno())
        return
    with open(name, "rb", buffering=0) as file:
        yield Documents(file.fileno())


class Sender:
    """Sends chunks, each until it is answered for good.

    Attributes:
        results: how many documents were accepted, stored, dead, refused.
    """

    def __init__(self, api: Api, pipeline: str, source: Documents, key_prefix: str | None, wait_seconds: float) -> None:
        self._api = api
        self._pipeline = pipeline
        self._path = path("documents", pipeline)
        self._source = source
        self._key_prefix = key_prefix
        self._wait_seconds = wait_seconds
        self.results: Counter[str] = Counter()

    async def prepare(self) -> None:
        """Choose keys of our own where none are given: then a request whose answer is lost can be sent again.

        Raises:
            HeadraceError: there is no such pipeline, or the gateway does not want us.
        """
        about = await self._api.get(path("pipelines", self._pipeline))
        # A key of ours would hide the key that the documents have in them.
        if self._key_prefix is None and not about.get("key"):
            self._key_prefix = f"send-{secrets.token_hex(8)}"

    async def send(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return one line for each document of the chunk.

        Raises:
            HeadraceError: the gateway takes none of them, for a reason that lies not in them, or stays away.
        """
        key = f"{self._key_prefix}-{chunk.numbers[0]}" if self._key_prefix else None
        answer = await self._post(self._bulk(chunk), self._bulk_type, key)
        if answer.status == 413:
            lines = await self._one_by_one(chunk, key)
        else:
            lines = self._lines(chunk, answer)
        for line in lines:
            self.results[line["status"] if isinstance(line["status"], str) else "refused"] += 1
        return lines

    @property
    def _bulk_type(self) -> str:
        return "application/x-ndjson" if self._source.place == "line" else "application/json"

    def _bulk(self, chunk: Chunk) -> bytes:
        # Items of an array may be written over several lines.
        return b"\n".join(chunk.documents) if self._source.place == "line" else b"[%b]" % b",".join(chunk.documents)

    async def _one_by_one(self, chunk: Chunk, key: str | None) -> list[dict[str, Any]]:
        """Send alone what is too large together, under the keys that the documents have in the bulk."""
        lines = []
        for index, (number, document) in enumerate(zip(chunk.numbers, chunk.documents, strict=True)):
            answer = await self._post(document, "application/json", f"{key}/{index}" if key else None)
            item = answer.body if answer.status < 300 else _refusal(answer)
            lines.append(self._line(number, item))
        return lines

    def _lines(self, chunk: Chunk, answer: Answer) -> list[dict[str, Any]]:
        body = answer.body if isinstance(answer.body, dict) else {}
        items = body.get("items", [])
        if len(items) == len(chunk.numbers):
            return [self._line(number, item) for number, item in zip(chunk.numbers, items, strict=True)]
        if answer.status >= 400:
            raise answer.error
        raise HeadraceError(f"{self._api.url} answered {answer.status} without an item for each document.")

    def _line(self, number: int, item: dict[str, Any]) -> dict[str, Any]:
        place = {self._source.place: number}
        if "id" in item:
            return {**place, "id": item["id"], "status": item.get("status", "accepted")}
        return {**place, "status": item["status"], "code": item.get("code", ""), "errors": item.get("errors", [])}

    async def _post(self, body: bytes, media_type: str, key: str | None) -> Answer:
        """Return the final answer; 408, 429, 5xx and lost connections are tried again.

        Raises:
            UnavailableError: it stays so.
        """
        headers = {"Content-Type": media_type}
        if key:
            headers["Idempotency-Key"] = key
        if self._wait_seconds:
            headers["Prefer"] = f"wait={self._wait_seconds:g}"
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            wait_seconds = random.random() * min(10.0, 0.25 * 2**attempt)
            failure: HeadraceError
            try:
                answer = await self._api.ask(
                    "POST",
                    self._path,
                    body=body,
                    headers=headers,
                    timeout_seconds=_REQUEST_SECONDS + self._wait_seconds,
                )
                if answer.status not in (408, 429) and answer.status < 500:
                    return answer
                failure = answer.error
                wait_seconds += answer.retry_after_seconds or 0
            except UnavailableError as error:
                failure = error
            if attempt == _MOST_ATTEMPTS:
                raise failure
            if attempt == 1:
                say(f"headrace: {failure.detail} Trying again.")
            await asyncio.sleep(wait_seconds)
        raise AssertionError("the last attempt returns or raises")


def _refusal(answer: Answer) -> dict[str, Any]:
    """Return a refused document's item.

    Raises:
        HeadraceError: the refusal is not about the document.
    """
    if answer.status not in (400, 409, 413, 422):
        raise answer.error
    error = answer.error
    errors = [msgspec.structs.asdict(one) for one in error.errors]
    return {
        "status": answer.status,
        "code": error.code,
        "errors": errors or [{"pointer": "", "code": error.code, "message": error.detail}],
    }
