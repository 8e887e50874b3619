"""A file as the readers want it: unpacked, and in UTF-8. What is so already is read where it is."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from producer.formats import SourceError

_GZIP: Final = b"\x1f\x8b"
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_READ_BYTES: Final = 1 << 18
_BROKEN: Final = "headrace-broken"

# A byte that is none in the file's encoding stays one that is none, so that its row is refused and not made up.
codecs.register_error(_BROKEN, lambda error: ("\udcff", error.end if isinstance(error, UnicodeError) else 0))  # type: ignore[attr-defined]


def check_encoding(name: str) -> None:
    """Refuse the name of no encoding of text.

    Raises:
        ValueError: it is none.
    """
    try:
        "".encode(name)
        b"".decode(name)
    except (LookupError, UnicodeError):
        raise ValueError(f"--encoding {name}: there is no such encoding; utf-8, cp1252 and utf-16 are some.") from None


@contextlib.contextmanager
def plain(path: Path, encoding: str | None) -> Iterator[tuple[Path, list[str]]]:
    """Give a path to the content, unpacked and in UTF-8, and a list that holds what is wrong with the whole.

    Raises:
        SourceError: it cannot be opened, or is in UTF-16 and nothing says so.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}.") from None
    packed = start.startswith(_GZIP)
    utf8 = encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    if start.startswith(_UTF16) and utf8:
        raise SourceError(f"{path}: it is in UTF-16; give --encoding utf-16.")
    if not packed and utf8:
        yield path, []
        return
    name = path.name.removesuffix(".gz") if packed else path.name
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        copy = Path(folder) / name
        with copy.open("wb") as target:
            wrong = _copy(path, target, packed, None if utf8 else encoding)
        yield copy, wrong


def _copy(path: Path, target: IO[bytes], packed: bool, encoding: str | None) -> list[str]:
    """Return what is wrong with the file as a whole; all before that is copied."""
    decoder = codecs.getincrementaldecoder(encoding)(_BROKEN) if encoding else None
    wrong = []
    with gzip.open(path) if packed else path.open("rb") as file:
        while True:
            try:
                # One read at a time: what was unpacked before the break is worth having.
                data = file.read1(_READ_BYTES)
            except EOFError:
                wrong = [f"{path}: the packed file is cut off; the rows before that were read."]
                data = b""
            except (gzip.BadGzipFile, zlib.error) as error:
                # Where it broke is not known, so none of it can be trusted.
                raise SourceError(f"{path}: the packed file is damaged ({error}); none of it was read.") from None
            if decoder:
                text = decoder.decode(data, final=not data)
                target.write(text.encode("utf-8", "surrogateescape"))
            else:
                target.write(data)
            if not data:
                return wrong
