"""Envelope and block: how documents travel. Pure; the bytes of a document are never changed on the way.

A block is one JetStream message of one pipeline: NDJSON, one envelope a line.
Raw lines hold what the client sent, clean lines what is stored, with the digest of what the client sent.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Final

import msgspec
import uuid_utils

BLOCK_HEADER: Final = "Headrace-Block"
COUNT_HEADER: Final = "Headrace-Count"
MSG_ID_HEADER: Final = "Nats-Msg-Id"
# Of raw blocks: what the journal is kept from (headrace/tally.py).
ACCEPTED_HEADER: Final = "Headrace-Accepted"

# Namespace of every id that is derived from a client's key or a natural key (RFC 9562, version 5).
_IDS: Final = uuid_utils.uuid5(uuid_utils.NAMESPACE_URL, "urn:headrace:document")

_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_INT32: Final = range(2**31)
_NO_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_LINE_FEED, _RETURN = b"\n\r"


class Envelope(msgspec.Struct):
    """One document and what is known about it.

    Attributes:
        id: UUID as text.
        time: when it was accepted, RFC 3339 UTC.
        subject: who sent it.
        data: the JSON object, as bytes.
        sha256: hex digest of the bytes that the client sent, or of what they say where the natural key made the id;
            empty in raw blocks.
        ordinal: how many times its id stood earlier in the same raw block.
        replays: how many times it was given back after a refusal.
        sink: the only sink that it is for, where a sink's own refusal is made good; empty for all.
        block: the raw block that it once came in, where a sink's own refusal is made good; empty for this one.
    """

    id: str
    time: str
    subject: str
    data: msgspec.Raw
    sha256: str = ""
    ordinal: int = 0
    replays: int = 0
    sink: str = ""
    block: str = ""


class DeadLetter(msgspec.Struct):
    """A document that a stage refused for good.

    Attributes:
        body: the original bytes, base64, since they need not be JSON or even text.
        ordinal: how many times its id stood earlier in the same block.
        sha256: of the bytes that the client sent, where the body is the stored form.
        replays: how many times the document had been given back before.
    """

    id: str
    pipeline: str
    stage: str
    code: str
    reason: str
    attempts: int
    time: str
    subject: str
    block: str
    ordinal: int
    dead_at: str
    body: bytes
    errors: list[dict[str, str]] = []
    sha256: str = ""
    replays: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """1..N envelopes of one pipeline; `id` is a UUIDv7 made with the raw block and kept by the clean one.

    Attributes:
        accepted: of a raw block, its checksum and which documents it holds; empty where nobody has said.
    """

    id: str
    pipeline: str
    body: bytes
    count: int
    accepted: str = ""

    def headers(self, message_id: str) -> dict[str, str]:
        said = {ACCEPTED_HEADER: self.accepted} if self.accepted else {}
        return {BLOCK_HEADER: self.id, COUNT_HEADER: str(self.count), **said, MSG_ID_HEADER: message_id}


_envelopes = msgspec.json.Decoder(Envelope)
_dead_letters = msgspec.json.Decoder(DeadLetter)
_encode = msgspec.json.Encoder()
_text = msgspec.json.Encoder().encode


def new_id() -> str:
    """Return a new UUIDv7 as text: unique, and in order of time."""
    return str(uuid_utils.uuid7())


def derived_id(*parts: str) -> str:
    """Return the UUIDv5 that always belongs to these parts; no two lists of parts share one."""
    return str(uuid_utils.uuid5(_IDS, _text(parts).decode()))


def now() -> str:
    """Return the current time as RFC 3339 UTC with microseconds."""
    microseconds = time_ns() // 1000
    second, rest = divmod(microseconds, 1_000_000)
    return f"{_second(second)}.{rest:06d}Z"


# Asked for with every document, and the same for all of a second.
@lru_cache(maxsize=2)
def _second(since_1970: int) -> str:
    return datetime.fromtimestamp(since_1970, UTC).isoformat()[:19]


def rfc3339(moment: datetime) -> str:
    # Several times as fast as strftime, and this runs for every document.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time.

    Raises:
        ValueError: the text is none.
    """
    return datetime.fromisoformat(text)


def parse_id(text: str) -> uuid.UUID:
    """Return a document's id.

    Raises:
        ValueError: the text is no UUID.
    """
    return uuid.UUID(text)


def check_envelope(envelope: Envelope) -> None:
    """Refuse what no gateway and no refine has made: a store would choke on it, and on all that comes with it.

    Raises:
        ValueError: it is of no use.
    """
    _check(envelope.id, envelope.time, envelope.ordinal)
    if envelope.sha256 and not _HEX.fullmatch(envelope.sha256):
        raise ValueError("sha256 is no digest")
    if "\x00" in envelope.subject:
        raise ValueError("the subject holds U+0000")
    if envelope.replays not in _INT32 or (envelope.block and not _ID.fullmatch(envelope.block)):
        raise ValueError("it was not given back by us")


def check_dead_letter(letter: DeadLetter) -> None:
    """Refuse what no settler has made, as `check_envelope` does.

    Raises:
        ValueError: it is of no use.
    """
    for document_id, time in ((letter.id, letter.time), (letter.block, letter.dead_at)):
        _check(document_id, time, letter.ordinal)
    if letter.attempts not in _INT32 or letter.replays not in _INT32:
        raise ValueError("attempts or replays is no count")
    if letter.sha256 and not _HEX.fullmatch(letter.sha256):
        raise ValueError("sha256 is no digest")
    texts = [letter.pipeline, letter.stage, letter.code, letter.reason, letter.subject]
    for error in letter.errors:
        texts += error.values()
        if "pointer" not in error:
            raise ValueError("an error says not where")
    if any("\x00" in text for text in texts):
        raise ValueError("a text holds U+0000")


def _check(document_id: str, time: str, ordinal: int) -> None:
    if not _ID.fullmatch(document_id):
        raise ValueError("the id is no UUID as we write them")
    moment = parse_time(time)
    if moment.tzinfo is None or not 1 < moment.year < 9999:
        raise ValueError("the time is no moment in UTC")
    if ordinal not in _INT32:
        raise ValueError("the ordinal is no count")


def id_bytes(document_id: str) -> bytes:
    """Return the 16 bytes of a UUID in text."""
    return bytes.fromhex(document_id.replace("-", ""))


def digest(data: bytes) -> str:
    """Return the SHA-256 of a document's bytes, hex: what tells a repeat from a conflict."""
    return hashlib.sha256(data).hexdigest()


def one_line(data: bytes) -> bytes:
    """Return JSON text without line breaks; inside strings JSON has them escaped, so only white space changes."""
    return data.translate(_NO_BREAKS) if _LINE_FEED in data or _RETURN in data else data


def raw_line(document_id: str, time: str, subject_json: bytes, data: bytes) -> bytes:
    """Return one envelope as a line of a raw block.

    By hand, since `data` is JSON already and this runs for every document. `subject_json` is the
    sender as a JSON string, quotes included; `data` is on one line.
    """
    return b'{"id":"%b","time":"%b","subject":%b,"data":%b}\n' % (
        document_id.encode(),
        time.encode(),
        subject_json,
        data,
    )


def clean_line(envelope: Envelope, sha256: str, data: bytes) -> bytes:
    """Return one envelope as a line of a clean block."""
    return b'{"id":"%b","time":"%b","subject":%b,"sha256":"%b","ordinal":%d%b,"data":%b}\n' % (
        envelope.id.encode(),
        envelope.time.encode(),
        _text(envelope.subject),
        sha256.encode(),
        envelope.ordinal,
        b',"replays":%d' % envelope.replays if envelope.replays else b"",
        data,
    )


def given_back_line(envelope: Envelope) -> bytes:
    """Return the envelope of a document that is given back as a line of a raw or clean block.

    Its id comes first, as in every line; `data` is on one line.
    """
    return _text(envelope) + b"\n"


def json_text(value: object) -> bytes:
    return _text(value)


def envelopes(body: bytes) -> list[Envelope]:
    """Return the envelopes of a block.

    Raises:
        msgspec.DecodeError: the body is not NDJSON of envelopes.
    """
    return _envelopes.decode_lines(body)


def dead_letter_lines(letters: Sequence[DeadLetter]) -> list[bytes]:
    return [_encode.encode(letter) + b"\n" for letter in letters]


def dead_letters(body: bytes) -> list[DeadLetter]:
    """Return the dead letters of a block of DEAD.

    Raises:
        msgspec.DecodeError: the body is not NDJSON of dead letters.
    """
    return _dead_letters.decode_lines(body)


def parts(lines: Sequence[bytes], max_count: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Yield the lines in runs of at most `max_count` lines and `max_bytes` bytes; a longer line is a run of its own."""
    start = size = 0
    for index, line in enumerate(lines):
        if index > start and (index - start >= max_count or size + len(line) > max_bytes):
            yield list(lines[start:index])
            start, size = index, 0
        size += len(line)
    if start < len(lines):
        yield list(lines[start:])
