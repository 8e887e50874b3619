"""How many documents, and which: a count and an order-free digest of them, per minute of their acceptance. Pure.

The digest is the sum of a hash of each document's mark, modulo 2**128. A sum, since what the ledger adds and takes off
can then be added and taken off here: accepted = stored + repeated + refused holds for digests as it does for counts.
And since a document that comes twice stands in it twice; of an exclusive or, two would leave no trace. Of a hash, since
the ids that a clock makes are neighbours, so that sums of the ids themselves would meet.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from headrace.document import json_text, parse_time
from headrace.identity import BARE_SENDER

_MODULUS: Final = 2**128
# Of a line as `raw_line` and `given_back_line` make it: {"id":"…","time":"2026-01-31T12:59:…Z","subject":…
_ID: Final = slice(7, 43)
_MINUTE: Final = slice(53, 69)
_SUBJECT_AT: Final = 92
_BARE: Final = json_text(BARE_SENDER)
# Documents that are given back may be of many minutes; headers are small.
_MOST_MINUTES: Final = 200


@dataclass(frozen=True, slots=True)
class Tally:
    """A multiset of documents."""

    count: int = 0
    digest: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.count + other.count, (self.digest + other.digest) % _MODULUS)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.count - other.count, (self.digest - other.digest) % _MODULUS)

    @classmethod
    def of(cls, marks: Iterable[str]) -> Tally:
        found = [_hash(mark.encode()) for mark in marks]
        return cls(len(found), sum(found) % _MODULUS)


def mark(document_id: str, sender: str, block: str) -> str:
    """Return what stands for a document in a tally: its id, but of one that came bare the block that it came in.

    A publisher on NATS or MQTT gives no id; which one its document gets is refine's to find out, later. The block's is
    there from the moment that it is stored, and every store keeps it.
    """
    return block if sender == BARE_SENDER else document_id


def accepted(block: str, lines: Sequence[bytes], body: bytes) -> str:
    """Return what the header of a raw block says of it: its checksum, and the tally of each minute in it.

    Empty where that would be too long.

    Args:
        body: the lines as one.
    """
    digests: dict[bytes, list[int]] = {}
    for line in lines:
        bare = line.startswith(_BARE, _SUBJECT_AT)
        hashed = int.from_bytes(sha256(block.encode() if bare else line[_ID]).digest()[:16])
        minute = line[_MINUTE]
        if minute in digests:
            digests[minute].append(hashed)
        else:
            digests[minute] = [hashed]
    if len(digests) > _MOST_MINUTES:
        return ""
    told = [f"{minute.decode()}={len(of_one)}/{sum(of_one) % _MODULUS:032x}" for minute, of_one in digests.items()]
    return " ".join([f"{zlib.crc32(body):08x}", *told])


def told(header: str) -> Mapping[str, Tally]:
    """Return the tallies by minute, such as 2026-01-31T12:59, that a header tells; none where it tells none."""
    found: dict[str, Tally] = defaultdict(Tally)
    try:
        for part in header.split()[1:]:
            minute, _, rest = part.partition("=")
            count, _, digest = rest.partition("/")
            parse_time(f"{minute}Z")
            if not (len(minute) == 16 and count.isdecimal() and len(digest) == 32):
                return {}
            found[minute] += Tally(int(count), int(digest, 16))
    except ValueError:
        return {}
    return found


def is_whole(header: str, body: bytes) -> bool:
    """Return whether a raw block has the checksum that its header tells; one without a checksum is believed."""
    checksum = header.partition(" ")[0]
    return not checksum or checksum == f"{zlib.crc32(body):08x}"


def _hash(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest()[:16])
