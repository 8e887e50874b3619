"""What the peer's two processes agree on: stream, subject, message, and where its servers are."""

from __future__ import annotations

import os
from typing import Final

from faststream.nats import JStream, NatsBroker
from pydantic import BaseModel

from pipelines.invoices import InvoiceLine

STREAM: Final = "PEER"
SUBJECT: Final = "peer.invoices"
DURABLE: Final = "store"


class Message(BaseModel):
    id: str
    invoice: InvoiceLine


def broker() -> NatsBroker:
    return NatsBroker(os.environ["PEER_NATS_URL"], logger=None)


def stream() -> JStream:
    return JStream(STREAM, max_bytes=512 << 20)
