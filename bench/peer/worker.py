"""The peer's worker: a message at a time and a hundred at once, as FastStream's examples of pull subscribers have it.

    python -m bench.peer.worker [--batch]

With `--batch` it handles many messages at once: what its author may find when the other way is too slow.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.nats import PullSub
from faststream.nats.subscriber.usecases import stream_pull_subscriber

from bench.peer.messages import DURABLE, SUBJECT, Message, broker, stream
from bench.peer.stores import Stores, open_stores
from pipelines.invoices import transform

BATCHES = "--batch" in sys.argv
# A batch waits for its last message; the default of five seconds suits no live system.
PULL = PullSub(batch_size=500, timeout=0.1, batch=True) if BATCHES else PullSub(batch_size=100)

# nats-py may end a fetch with the plain TimeoutError, of which its own is a subclass. FastStream 0.7.8 catches only
# the latter: its task dies with the batch, which comes again after 30 s. Mended here, or the peer would stand still.
stream_pull_subscriber.TimeoutError = TimeoutError  # type: ignore[attr-defined,assignment]

nats = broker()


@asynccontextmanager
async def lifespan(context: ContextRepo) -> AsyncIterator[None]:
    async with open_stores() as stores:
        context.set_global("stores", stores)
        yield


app = FastStream(nats, lifespan=lifespan, logger=None)
subscriber = nats.subscriber(
    SUBJECT, stream=stream(), durable=DURABLE, pull_sub=PULL, ack_policy=AckPolicy.NACK_ON_ERROR
)


async def store(message: Message, stores: Stores = Context()) -> None:  # noqa: B008 - FastStream's way
    await stores.store(message.id, transform(message.invoice))


async def store_batch(messages: list[Message], stores: Stores = Context()) -> None:  # noqa: B008
    await stores.store_many([(message.id, transform(message.invoice)) for message in messages])


subscriber(store_batch if BATCHES else store)

if __name__ == "__main__":
    uvloop.install()
    asyncio.run(app.run())
