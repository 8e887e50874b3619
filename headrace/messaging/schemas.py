"""The schema registry: every version of every pipeline's schema, in a NATS key-value bucket.

A version is one key, `PIPELINE.N`, written once. They are numbered without gaps, so reading goes on until one is
missing; a watch of the bucket could say too early that it has all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import nats.errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import BadRequestError, BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue

from headrace import telemetry
from headrace.compatibility import SchemaVersion, breaks, described
from headrace.document import now
from headrace.errors import FieldError, HeadraceError, UnavailableError
from headrace.messaging.connection import Bus
from headrace.pipeline import Pipeline
from headrace.settings import Settings

log = telemetry.logger(__name__)

# Services that start together may each find the other's version where theirs was to be.
_ATTEMPTS: Final = 20
_SHOWN_BREAKS: Final = 5

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SchemaVersion).decode


class SchemaChangeError(HeadraceError):
    """A pipeline's schema breaks the version before it; the message names what."""

    default_code = "schema_incompatible"


async def register(bus: Bus, settings: Settings, pipelines: Iterable[Pipeline]) -> None:
    """Register the schemas that a service starts with; one that is there already stays as it is.

    Raises:
        SchemaChangeError: one breaks its version before, and `schemas.allow_incompatible` is not set.
        UnavailableError: JetStream is away.
    """
    try:
        bucket = await _made(bus, settings)
        for pipeline in pipelines:
            await _register(bucket, pipeline, allow=settings.schemas.allow_incompatible)
    except (nats.errors.Error, JetStreamError, TimeoutError) as error:
        raise _away(error) from None


async def check(bus: Bus, settings: Settings, pipelines: Iterable[Pipeline]) -> None:
    """Find out whether `register` would take the schemas; nothing is registered.

    Raises:
        SchemaChangeError: as `register`.
        UnavailableError: JetStream is away.
    """
    if settings.schemas.allow_incompatible:
        return
    for pipeline in pipelines:
        known = await versions(bus, settings, pipeline.name)
        if known and (broken := breaks(known[-1], described(pipeline))):
            raise _refused(known[-1], broken)


async def versions(bus: Bus, settings: Settings, pipeline: str) -> list[SchemaVersion]:
    """Return the versions of a pipeline's schema, oldest first; none where it was never registered.

    Raises:
        UnavailableError: JetStream is away.
    """
    try:
        bucket = await _stream(bus, settings).key_value(_name(settings))
        return await _versions(bucket, pipeline)
    except BucketNotFoundError:
        return []
    except (nats.errors.Error, JetStreamError, TimeoutError) as error:
        raise _away(error) from None


async def _register(bucket: KeyValue, pipeline: Pipeline, *, allow: bool) -> None:
    new = described(pipeline)
    for _ in range(_ATTEMPTS):
        known = await _versions(bucket, pipeline.name)
        if known and known[-1].says_the_same(new):
            return
        broken = breaks(known[-1], new) if known else []
        if broken and not allow:
            raise _refused(known[-1], broken)
        new.version, new.registered_at = len(known) + 1, now()
        try:
            await bucket.create(f"{pipeline.name}.{new.version}", _encode(new))
        except KeyWrongLastSequenceError:
            # Another service was first; what it registered may be the same.
            continue
        log.info("schema_registered", pipeline=pipeline.name, version=new.version, breaks=len(broken))
        return
    raise UnavailableError(f"The schema of {pipeline.name!r} could not be registered.", code="jetstream_unavailable")


async def _versions(bucket: KeyValue, pipeline: str) -> list[SchemaVersion]:
    found: list[SchemaVersion] = []
    while True:
        try:
            entry = await bucket.get(f"{pipeline}.{len(found) + 1}")
        except KeyNotFoundError:
            return found
        found.append(_decode(entry.value or b""))


def _refused(old: SchemaVersion, broken: list[FieldError]) -> SchemaChangeError:
    shown = " ".join(f"{error.pointer or 'The pipeline'}: {error.message}" for error in broken[:_SHOWN_BREAKS])
    more = f" And {len(broken) - _SHOWN_BREAKS} more." if len(broken) > _SHOWN_BREAKS else ""
    return SchemaChangeError(
        f"The schema of {old.pipeline!r} breaks version {old.version}, which is registered. {shown}{more} "
        f"`headrace schema check {old.pipeline}` says which documents that concerns; "
        "HEADRACE_SCHEMAS__ALLOW_INCOMPATIBLE=true registers it all the same.",
        errors=broken,
    )


async def _made(bus: Bus, settings: Settings) -> KeyValue:
    stream = _stream(bus, settings)
    try:
        return await stream.create_key_value(
            KeyValueConfig(bucket=_name(settings), history=1, replicas=settings.nats.replicas)
        )
    except BadRequestError:
        # It is there with other replicas.
        return await stream.key_value(_name(settings))


def _stream(bus: Bus, settings: Settings) -> JetStreamContext:
    return bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)


def _name(settings: Settings) -> str:
    return f"{settings.namespace}schemas"


def _away(error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"The schema registry cannot be reached ({type(error).__name__}).",
        code="jetstream_unavailable",
        retry_after_seconds=2,
    )
