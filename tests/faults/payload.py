"""Documents made from a seed: what was sent can be made again, so a journal needs no bodies. Pure."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PIPELINE: Final = "ticks"
GROUPS: Final = ("fjord", "fell", "firth", "fen", "förde")
_REFUSED_IN = 50


@dataclass(frozen=True, slots=True)
class Payload:
    """One document.

    Attributes:
        refused: whether its transform refuses it: it ends as a dead letter.
        sha256: digest of the bytes that are sent.
        content: digest of what is stored (`content_of`).
    """

    name: str
    group: str
    size: int
    refused: bool
    body: bytes
    sha256: str
    content: str


def payload(seed: int, name: str) -> Payload:
    """Return the document of this name: always the same for the same seed."""
    draw = random.Random(f"{seed}/{name}")
    document = {
        "name": name,
        "group": draw.choice(GROUPS),
        "size": draw.randrange(-(10**6), 10**6),
        # Escapes and characters of several bytes, to see that bytes travel as they are.
        "filler": draw.choice(("", 'ø\t"\\ ', "\u2028🚰")) * draw.randrange(12),
        "refused": draw.randrange(_REFUSED_IN) == 0,
    }
    body = json.dumps(document, ensure_ascii=draw.random() < 0.5).encode()
    return Payload(
        name=name,
        group=str(document["group"]),
        size=int(str(document["size"])),
        refused=bool(document["refused"]),
        body=body,
        sha256=hashlib.sha256(body).hexdigest(),
        content=content_of(document),
    )


def content_of(document: Mapping[str, Any]) -> str:
    """Return a digest of a document's fields, whatever their order."""
    text = json.dumps(dict(document), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
