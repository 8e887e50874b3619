"""The peer's HTTP process: token, schema, publish, 202.

uvicorn bench.peer.gateway:app
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, status
from pydantic import BaseModel

from bench.peer.messages import SUBJECT, broker, stream
from bench.peer.security import current_user
from pipelines.invoices import InvoiceLine

nats = broker()
# More than the default of five seconds: on a busy machine a slow fsync is no failure.
publisher = nats.publisher(SUBJECT, stream=stream(), timeout=30.0)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with nats:
        await nats.start()
        yield


app = FastAPI(lifespan=lifespan)


class Accepted(BaseModel):
    id: str
    status: str = "accepted"


@app.post("/v1/documents/invoices", status_code=status.HTTP_202_ACCEPTED)
async def accept(invoice: InvoiceLine, user: Annotated[str, Depends(current_user)]) -> Accepted:
    accepted = Accepted(id=str(uuid.uuid4()))
    await publisher.publish({"id": accepted.id, "invoice": invoice.model_dump(mode="json", by_alias=True)})
    return accepted
