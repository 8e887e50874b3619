"""Generators: endless made-up documents, the same for the same seed. One module per pipeline, found by its name.

Such a module has

    START: float                        time of the first document, seconds since 1970, unless the caller names one
    documents(random, start)            yields valid documents for ever; may take `users`, how many there are
    spoil(document, random)             returns the document with one fault that the schema refuses

and where documents have a time or a user of their own

    stamp(document, moment)             returns the document as of that moment, seconds since 1970
    user_of(document)                   returns whose it is

A pipeline without one repeats its example, which the caller gives.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import msgspec

Document = dict[str, Any]


def documents(
    pipeline: str,
    seed: int,
    *,
    bad_share: float = 0.0,
    start: float | None = None,
    clock: Callable[[], float] | None = None,
    users: int | None = None,
    example: Mapping[str, Any] | None = None,
) -> Iterator[Document]:
    """Yield documents for ever; one may share parts with another, so nobody may change them.

    Args:
        bad_share: part of them that the schema refuses, 0.0 to 1.0; the others are the same whatever the part.
        start: time of the first, seconds since 1970; the others follow.
        clock: says what each is stamped with instead, where the pipeline's documents have a time of their own.
        users: how many users they are of, where the pipeline's documents have users.
        example: what a pipeline without a generator repeats.

    Raises:
        LookupError: there is neither generator nor example.
        ValueError: the pipeline's documents have no users.
    """
    random = Random(seed)
    module = _module(pipeline)
    good: Iterator[Document]
    if module is not None:
        more = {} if users is None else {"users": users}
        if more and "users" not in inspect.signature(module.documents).parameters:
            raise ValueError(f"Documents of {pipeline} have no users; leave --users out.")
        good, spoil = module.documents(random, module.START if start is None else start, **more), module.spoil
        if clock is not None and hasattr(module, "stamp"):
            good = _stamped(good, module.stamp, clock)
    elif example is not None:
        good, spoil = _repeat(dict(example)), _all_null
    else:
        raise LookupError(f"There is no generator for pipeline {pipeline!r}, and no example to repeat.")
    return _spoiled(good, spoil, bad_share, Random(f"{seed}/faults")) if bad_share else good


def stamper(pipeline: str) -> Callable[[Document, float], Document]:
    """Return what gives a document the time of a moment; it changes nothing where documents have no time."""
    found: Callable[[Document, float], Document] = getattr(_module(pipeline), "stamp", lambda document, _: document)
    return found


def spoiler(pipeline: str) -> Callable[[Document, Random], Document]:
    """Return what gives a document a fault."""
    found: Callable[[Document, Random], Document] = getattr(_module(pipeline), "spoil", _all_null)
    return found


def group_of(pipeline: str) -> Callable[[Document], str] | None:
    """Return what says whose a document is, or None where documents have no users."""
    found: Callable[[Document], str] | None = getattr(_module(pipeline), "user_of", None)
    return found


def _module(pipeline: str) -> Any:
    name = f"{__name__}.{pipeline}"
    if not pipeline.isidentifier() or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _stamped(
    good: Iterator[Document], stamp: Callable[[Document, float], Document], clock: Callable[[], float]
) -> Iterator[Document]:
    for document in good:
        yield stamp(document, clock())


def bodies(
    pipeline: str,
    seed: int,
    *,
    bad_share: float = 0.0,
    start: float | None = None,
    example: Mapping[str, Any] | None = None,
) -> Iterator[bytes]:
    """Yield the documents as JSON; see `documents`."""
    return map(
        msgspec.json.Encoder().encode, documents(pipeline, seed, bad_share=bad_share, start=start, example=example)
    )


def _repeat(document: Document) -> Iterator[Document]:
    while True:
        yield document


def _all_null(document: Document, random: Random) -> Document:
    """Return the fault for any schema with a field that may not be null."""
    return dict.fromkeys(document)


def _spoiled(good: Iterator[Document], spoil: Any, bad_share: float, random: Random) -> Iterator[Document]:
    for document in good:
        yield spoil(document, random) if random.random() < bad_share else document
