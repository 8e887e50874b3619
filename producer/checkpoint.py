"""How far a run came, in a small file, so that the next one sends only what is left. Totals are of all runs together.

A checkpoint is worth nothing but time: without it, what is sent again stores nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from producer.formats import Row, SourceError
from producer.source import Place
from producer.upload import Progress

FOLDER: Final = Path(".headrace/produce")


class Totals(msgspec.Struct):
    """What became of the rows up to a place."""

    rows: int = 0
    accepted: int = 0
    refused: int = 0


class _State(msgspec.Struct):
    source: str
    number: int
    key: str
    totals: Totals


@dataclass(slots=True)
class Checkpoint:
    """Where a source's last run ended, and where this one is.

    Attributes:
        before: totals of earlier runs, up to the place.
        place: the last row that is settled, with none before it left out; None at the start.
    """

    path: Path
    source: str
    place: Place | None = None
    before: Totals = field(default_factory=Totals)
    _seen: int = 0
    _whole: bool = True

    def advance(self, last: Row, progress: Progress) -> None:
        """Note that all rows of this run up to `last` are settled."""
        # Behind a gap nothing is noted, so that the next run reads it.
        number = self.place.number if self.place else 0
        self._whole = self._whole and number + progress.rows - self._seen == last.number
        self._seen = progress.rows
        if self._whole:
            self.place = Place(last.number, last.key or str(last.number))
            self._write(progress)

    def end(self, progress: Progress, *, keep: bool) -> None:
        """Note that the source was read to its end; only where it may grow is its place of any more use."""
        if keep:
            self._write(progress)
        else:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _write(self, progress: Progress) -> None:
        if self.place is None:
            return
        before = self.before
        totals = Totals(
            before.rows + progress.rows, before.accepted + progress.accepted, before.refused + progress.refused
        )
        state = _State(self.source, self.place.number, self.place.key, totals)
        draft = self.path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(state))
        os.replace(draft, self.path)


def open_checkpoint(source: str, *parts: str, folder: Path = FOLDER) -> Checkpoint:
    """Return the checkpoint of a source's runs.

    Args:
        parts: all that makes runs the same: pipeline, target, what becomes of columns.

    Raises:
        SourceError: the file cannot be used.
    """
    name = hashlib.sha256("\n".join((source, *parts)).encode()).hexdigest()[:16]
    path = folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except FileNotFoundError:
        return Checkpoint(path, source)
    except (OSError, msgspec.MsgspecError) as error:
        raise SourceError(f"{path}: the checkpoint cannot be read ({error}); remove it to begin anew.") from None
    return Checkpoint(path, source, Place(state.number, state.key), state.totals)
