"""MongoDB: the documents. The only module that knows motor; its successor is pymongo's own asynchronous client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import bson
import pymongo.errors
from bson import Decimal128, Int64
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, WriteConcern

from headrace import failpoints
from headrace.document import Envelope, parse_id, parse_time, rfc3339
from headrace.errors import DocumentError, UnavailableError
from headrace.pipeline import PROCESSED, Listing, Pipeline
from headrace.precedence import Precedence, precedence

META = "_meta"
# What tells an entity's versions apart by age: what they say of it themselves, when they came, their ids. A text,
# since times in BSON have milliseconds only.
_AGE = f"{META}.age"
_DUPLICATE_KEY = 11000
_IDS_AT_ONCE = 50
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as MongoDB has it.

    Attributes:
        document: the stored form in JSON types, but times are datetimes and decimals are exact text.
    """

    id: UUID
    received_at: datetime
    sender: str
    block: UUID
    sha256: str
    document: Mapping[str, Any]


class Documents:
    """Use `open_documents`."""

    def __init__(self, client: AsyncIOMotorClient[Any], database: str) -> None:
        self._client = client
        self._conversions: dict[str, list[Conversion]] = {}
        self._precedences: dict[str, Precedence] = {}
        self._database = client.get_database(database, write_concern=WriteConcern("majority", j=True))

    async def prepare(self, pipeline: Pipeline) -> None:
        """Make the collection's indexes."""
        async with _translated():
            await self._history(pipeline).create_index([(f"{META}.received_at", DESCENDING), ("_id", DESCENDING)])
            if pipeline.entity:
                newest = self._database[pipeline.name]
                await newest.create_index([(f"{META}.document", ASCENDING)])
                await newest.create_index([(f"{META}.received_at", DESCENDING), ("_id", DESCENDING)])
            for keys in _listed(pipeline):
                await self._database[pipeline.name].create_index(keys)

    async def insert(
        self, pipeline: Pipeline, rows: Sequence[tuple[Envelope, str, dict[str, Any]]]
    ) -> dict[str, tuple[str, str]]:
        """Insert each document unless its id is there.

        Args:
            rows: envelope, block id and the stored form in JSON types.

        Returns:
            {id: (sha256, block)} as stored, of the ids that were there before.

        Raises:
            DocumentError: one of the rows cannot be stored; nothing can be said of the others.
            UnavailableError: MongoDB is away; some may be stored all the same.
        """
        encoded = [self._encoded(pipeline, *row) for row in rows]
        known: list[UUID] = []
        async with _translated():
            try:
                await self._history(pipeline).insert_many(encoded, ordered=False)
            except pymongo.errors.BulkWriteError as error:
                known = _known_ids(error, encoded)
            there: dict[str, tuple[str, str]] = {}
            if known:
                about = _by_ids(self._history(pipeline), known, {f"{META}.sha256": 1, f"{META}.block": 1})
                there = {str(one["_id"]): (one[META]["sha256"], str(one[META]["block"])) async for one in about}
            if pipeline.entity:
                failpoints.hit("mongo.versions_inserted")
                await self._keep_newest(pipeline, [one for one in encoded if not _conflicts(one, there)])
            return there

    async def _keep_newest(self, pipeline: Pipeline, encoded: Sequence[Mapping[str, Any]]) -> None:
        """Let each entity's record be its newest version, whatever order and repetition they come in."""
        newest: dict[str, Mapping[str, Any]] = {}
        for one in encoded:
            key = entity_key(pipeline, one)
            if key not in newest or one[META]["age"] > newest[key][META]["age"]:
                newest[key] = one
        records = [{**one, "_id": key, META: {**one[META], "document": one["_id"]}} for key, one in newest.items()]
        if not records:
            return
        collection = self._database[pipeline.name]
        # Not by upserts, of which one costs as much as a dozen inserts.
        there: set[Any] = set()
        try:
            await collection.insert_many(records, ordered=False)
        except pymongo.errors.BulkWriteError as error:
            there = set(_known_ids(error, records))
        # Guarded, since what is there may be newer, and may become so at any moment. Nothing ever leaves.
        older = [record for record in records if record["_id"] in there]
        updates = [
            pymongo.ReplaceOne({"_id": record["_id"], _AGE: {"$lt": record[META]["age"]}}, record) for record in older
        ]
        if updates:
            try:
                await collection.bulk_write(updates, ordered=False)
            except pymongo.errors.BulkWriteError as error:
                _known_ids(error, older)

    async def get(self, pipeline: Pipeline, document_id: UUID) -> StoredDocument | None:
        async with _translated():
            found = await self._history(pipeline).find_one({"_id": document_id})
        return None if found is None else _stored(found)

    async def find(
        self,
        pipeline: Pipeline,
        filters: Mapping[str, Any],
        *,
        sort: str,
        descending: bool,
        after: tuple[Any, Any] | None = None,
        limit: int,
        present: Sequence[str] = (),
        skip: int = 0,
    ) -> list[StoredDocument]:
        """Return a page of documents; of an entity, its newest versions.

        Args:
            filters: declared field, or `received_at`, to the exact value; operators cannot be said.
            sort: a declared field, or `received_at`; documents without it are the least, ties are in order of id.
            after: sort value and `_id` of the last document of the page before.
            present: declared fields that must not be null.
            skip: documents to leave out before.
        """
        query: dict[str, Any] = {_place(name): {"$eq": _bson(value)} for name, value in filters.items()}
        for name in present:
            query.setdefault(_place(name), {"$ne": None})
        if after is not None:
            query["$or"] = _beyond(_place(sort), _bson(after[0]), after[1], descending=descending)
        order = DESCENDING if descending else ASCENDING
        async with _translated():
            cursor = self._database[pipeline.name].find(query).sort([(_place(sort), order), ("_id", order)])
            return [_stored(found) async for found in cursor.skip(skip).limit(limit)]

    async def chunks(self, pipeline: Pipeline, fields: Sequence[str]) -> AsyncIterator[list[Mapping[str, Any]]]:
        """Yield these fields of every document, some at a time, in no order; of an entity, of its newest versions.

        What is stored meanwhile may be in it or not.
        """
        # One cursor: the embedded server would look for the start of each page among all documents.
        cursor = self._database[pipeline.name].find({}, dict.fromkeys(fields, 1)).batch_size(_CHUNK)
        try:
            while True:
                async with _translated():
                    found = await cursor.to_list(_CHUNK)
                if not found:
                    return
                yield [_plain(one) for one in found]
        finally:
            await cursor.close()

    async def processed(self, pipeline: Pipeline) -> dict[str, Any] | None:
        """Return what the pipeline's last analysis found, as it was kept."""
        async with _translated():
            found = await self._database[PROCESSED].find_one({"_id": pipeline.name})
        if found is None:
            return None
        del found["_id"]
        return dict(_plain(found))

    async def keep_processed(self, pipeline: Pipeline, result: Mapping[str, Any], *, after: int) -> bool:
        """Let a result with its `revision` take the place of revision `after`, or be the first where that is 0.

        Returns:
            Whether it did; not when another came in between.
        """
        record = {"_id": pipeline.name, **result}
        async with _translated():
            try:
                if after:
                    replaced = await self._database[PROCESSED].replace_one(
                        {"_id": pipeline.name, "revision": after}, record
                    )
                    return bool(replaced.matched_count)
                await self._database[PROCESSED].insert_one(record)
                return True
            except pymongo.errors.DuplicateKeyError:
                return False

    async def count(self, pipeline: Pipeline) -> int:
        """Return how many documents are stored, each counted."""
        async with _translated():
            return int(await self._history(pipeline).count_documents({}))

    async def present(self, pipeline_name: str, ids: Sequence[UUID], *, entity: bool = False) -> set[UUID]:
        """Return which of these ids are stored."""
        async with _translated():
            collection = self._database[f"{pipeline_name}.versions" if entity else pipeline_name]
            return {one["_id"] async for one in _by_ids(collection, ids, {"_id": 1})}

    def shadow(self) -> Documents:
        """Return a store beside this one, that nobody reads; `replace_by` makes it this one."""
        other = Documents(self._client, self._database.name)
        # No pipeline's name has a dot.
        other._database = cast("AsyncIOMotorDatabase[Any]", _Prefixed(self._database, "shadow."))
        return other

    async def replace_by(self, shadow: Documents, pipeline: Pipeline) -> None:
        """Put a shadow's documents of a pipeline in the place of this one's; each collection at one moment."""
        async with _translated():
            for name in _collections(pipeline):
                await shadow._database[name].rename(name, dropTarget=True)

    async def drop(self, pipeline: Pipeline) -> None:
        """Forget all documents of a pipeline."""
        async with _translated():
            for name in _collections(pipeline):
                await self._database[name].drop()

    async def digests(self, pipeline: Pipeline) -> AsyncIterator[tuple[bytes, str]]:
        """Yield (id, sha256) of every document; of an entity, of every version."""
        async with _translated():
            async for one in self._history(pipeline).find({}, {f"{META}.sha256": 1}):
                yield one["_id"].bytes, one[META]["sha256"]

    async def marked(
        self, pipeline: Pipeline, since: datetime, until: datetime
    ) -> AsyncIterator[tuple[str, datetime, str, str, str]]:
        """Yield (id, received_at, sender, block, sha256) of every document, or version, accepted in this time."""
        fields = {f"{META}.{name}": 1 for name in ("received_at", "sender", "block", "sha256")}
        within = {f"{META}.received_at": {"$gte": since, "$lt": until}}
        async with _translated():
            async for one in self._history(pipeline).find(within, fields).batch_size(_CHUNK):
                about = one[META]
                yield str(one["_id"]), about["received_at"], about["sender"], str(about["block"]), about["sha256"]

    async def ping(self) -> None:
        async with _translated():
            await self._client.admin.command("ping")

    def _precedence(self, pipeline: Pipeline) -> Precedence:
        found = self._precedences.get(pipeline.name)
        if found is None:
            found = self._precedences[pipeline.name] = precedence(pipeline.newest_by, pipeline.fields)
        return found

    def _history(self, pipeline: Pipeline) -> AsyncIOMotorCollection[Any]:
        """Return the collection that holds every document; of an entity, every version."""
        return self._database[f"{pipeline.name}.versions" if pipeline.entity else pipeline.name]

    def _encoded(self, pipeline: Pipeline, envelope: Envelope, block: str, document: dict[str, Any]) -> dict[str, Any]:
        conversions = self._conversions.get(pipeline.name)
        if conversions is None:
            conversions = self._conversions[pipeline.name] = _conversions(pipeline)
        if "_id" in document or META in document:
            raise DocumentError(f"A document must not have fields _id and {META}.", code="store_refused")
        age: dict[str, str] = {}
        try:
            if pipeline.entity:
                # Before times become those of BSON, which have milliseconds only.
                age["age"] = f"{self._precedence(pipeline)(document)}{rfc3339(parse_time(envelope.time))} {envelope.id}"
            for convert, parts in conversions:
                _convert_at(document, parts, convert)
        except (ValueError, ArithmeticError) as error:
            raise _refused(error) from error
        return {
            "_id": parse_id(envelope.id),
            **document,
            META: {
                "received_at": parse_time(envelope.time),
                "sender": envelope.subject,
                "block": parse_id(block),
                "sha256": envelope.sha256,
                **age,
            },
        }


class _Prefixed:
    """A database whose collections have names that begin otherwise."""

    def __init__(self, database: AsyncIOMotorDatabase[Any], prefix: str) -> None:
        self._database = database
        self._prefix = prefix

    def __getitem__(self, name: str) -> AsyncIOMotorCollection[Any]:
        return self._database[self._prefix + name]


def _collections(pipeline: Pipeline) -> list[str]:
    """Return the names of a pipeline's collections, the one with every version first."""
    return [f"{pipeline.name}.versions", pipeline.name] if pipeline.entity else [pipeline.name]


@contextlib.asynccontextmanager
async def open_documents(url: str, timeout_seconds: float) -> AsyncIterator[Documents]:
    client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(
        url,
        uuidRepresentation="standard",
        tz_aware=True,
        tzinfo=UTC,
        # The block is delivered again anyway; and single servers without an oplog refuse retryable writes.
        retryWrites=False,
        timeoutMS=int(timeout_seconds * 1000),
        serverSelectionTimeoutMS=int(min(timeout_seconds, 5) * 1000),
        maxPoolSize=16,
    )
    try:
        database = client.get_default_database("headrace").name
        yield Documents(client, database)
    finally:
        client.close()


async def _by_ids(
    collection: AsyncIOMotorCollection[Any], ids: Sequence[UUID], fields: Mapping[str, int]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the documents with these ids, a few ids at a time: the embedded server's time for a list is its square."""
    for start in range(0, len(ids), _IDS_AT_ONCE):
        async for found in collection.find({"_id": {"$in": list(ids[start : start + _IDS_AT_ONCE])}}, fields):
            yield found


def entity_key(pipeline: Pipeline, document: Mapping[str, Any]) -> str:
    """Return an entity's key as text; the parts of a longer key are joined by a tab."""
    parts = []
    for path in pipeline.key:
        value: Any = document
        for name in path.split("."):
            value = value[name]
        parts.append(str(value))
    return "\t".join(parts)


def _listed(pipeline: Pipeline) -> list[list[tuple[str, int]]]:
    """Return the indexes by which a pipeline's own listings find and order what they show."""
    indexes = []
    for view in pipeline.views:
        if isinstance(view, Listing):
            by, descending = view.order
            order = DESCENDING if descending else ASCENDING
            filters = [(path, ASCENDING) for path in view.where if path != by]
            if filters or by != "received_at":
                indexes.append([*filters, (_place(by), order), ("_id", order)])
    return indexes


def _place(field: str) -> str:
    return f"{META}.received_at" if field == "received_at" else field


def _bson(value: Any) -> Any:
    return Decimal128(value) if isinstance(value, Decimal) else value


def _beyond(field: str, value: Any, document_id: Any, *, descending: bool) -> list[dict[str, Any]]:
    """Return what lies behind a place in the order; `$lt` and `$gt` never match null, which is least."""
    word = "$lt" if descending else "$gt"
    ties = {field: value, "_id": {word: document_id}}
    if value is None:
        return [ties] if descending else [ties, {field: {"$ne": None}}]
    further = [{field: {word: value}}]
    return [*further, {field: None}, ties] if descending else [*further, ties]


def _conflicts(document: Mapping[str, Any], there: Mapping[str, tuple[str, str]]) -> bool:
    one = there.get(str(document["_id"]))
    return one is not None and one[0] != document[META]["sha256"]


def _known_ids(error: pymongo.errors.BulkWriteError, encoded: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the ids that were there before.

    Raises:
        UnavailableError: the write is not durable yet, or a document failed for a reason that may pass.
    """
    details: Mapping[str, Any] = error.details or {}
    if details.get("writeConcernErrors"):
        raise UnavailableError("MongoDB wrote without the durability asked for.", code="mongo_unavailable") from error
    failures = details.get("writeErrors", ())
    others = [failure for failure in failures if failure["code"] != _DUPLICATE_KEY]
    if others:
        code = others[0]["code"]
        # 2 BadValue, 22 InvalidBSON, 121 DocumentValidationFailure, 10334 BSONObjectTooLarge, 17280 KeyTooLong.
        if code in (2, 22, 121, 10334, 17280):
            raise DocumentError(f"MongoDB cannot store the document (code {code}).", code="store_refused") from error
        raise UnavailableError(f"MongoDB refused the write (code {code}).", code="mongo_unavailable") from error
    return [encoded[failure["index"]]["_id"] for failure in failures if failure["index"] < len(encoded)]


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (bson.errors.BSONError, OverflowError, pymongo.errors.DocumentTooLarge) as error:
        raise _refused(error) from error
    except pymongo.errors.PyMongoError as error:
        raise UnavailableError(
            f"MongoDB is away ({type(error).__name__}).", code="mongo_unavailable", retry_after_seconds=2
        ) from error


def _refused(error: Exception) -> DocumentError:
    # Never its text, which quotes values.
    return DocumentError(f"MongoDB cannot store the document ({type(error).__name__}).", code="store_refused")


Conversion = tuple[Callable[[str], Any], tuple[str, ...]]


def _decimal128(text: str) -> Decimal128:
    """Return the exact BSON decimal. By hand for plain numbers of up to 63 bits: bson's own takes ten times as long."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if len(digits) > 18 or not digits.removeprefix("-").isdecimal():
        return Decimal128(text)
    negative = digits[0] == "-"
    # IEEE 754-2008 decimal128, binary integer coding: sign, exponent biased by 6176, coefficient.
    high = (negative << 63) | ((6176 - len(fraction)) << 49)
    return Decimal128.from_bid(abs(int(digits)).to_bytes(8, "little") + high.to_bytes(8, "little"))


_CONVERTERS: Mapping[str, Callable[[str], Any]] = {"timestamptz": parse_time, "numeric": _decimal128}


def _conversions(pipeline: Pipeline) -> list[Conversion]:
    """Return how the JSON forms of times and decimals become BSON types."""
    return [(_CONVERTERS[field.sql_type], field.parts) for field in pipeline.fields if field.sql_type in _CONVERTERS]


def _convert_at(document: dict[str, Any], parts: tuple[str, ...], convert: Callable[[str], Any]) -> None:
    place: Any = document
    for part in parts[:-1]:
        place = place.get(part) if isinstance(place, dict) else None
    if isinstance(place, dict) and isinstance(value := place.get(parts[-1]), str):
        place[parts[-1]] = convert(value)


def _stored(found: dict[str, Any]) -> StoredDocument:
    meta = found.pop(META)
    document_id = meta.get("document") or found["_id"]
    del found["_id"]
    return StoredDocument(
        document_id, meta["received_at"], meta["sender"], meta["block"], meta["sha256"], _plain(found)
    )


def _plain(value: Any) -> Any:
    """Return BSON types as JSON types: exact decimals and UUIDs as text, 64-bit integers as int; datetimes stay."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Decimal128() | UUID():
            return str(value)
        case Int64():  # A subclass of int, which JSON encoders refuse.
            return int(value)
    return value
