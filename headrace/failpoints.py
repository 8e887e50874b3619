"""Points between two effects at which a process can be told to die, for tests of faults.

A file that `failpoints` in the settings names says where, one line each: `process:point=kill@3` kills the process at
the third time it comes there, then the line is gone, so that its successor lives. Without the setting a point costs
one comparison. `POINTS` lists all; a test holds it against the code, and another kills a process at each.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Final

from headrace import telemetry

log = telemetry.logger(__name__)

# Where the effects stand that each one lies between.
POINTS: Final = {
    "commit.sealed": "a block is made; nothing has been published",
    "publisher.sent": "a message has been given to the connection; no PubAck yet",
    "publisher.confirmed": "its PubAck has come; nobody has been told",
    "commit.published": "a block is on disk; nobody has been answered",
    "runner.taken": "blocks are in the worker's hands; nothing has been done",
    "runner.probing": "what is tried has been noted; it has not been tried",
    "settle.judged": "a block has been judged, and stored by a sink; nothing has been published",
    "settle.forwarded": "a clean block is on disk; its raw block is not acknowledged",
    "settle.buried": "dead letters are on disk; their block is not acknowledged",
    "settle.published": "all that a block became is on disk; it is not acknowledged",
    "settle.acknowledged": "the ack has been given to the connection",
    "documents.inserted": "documents are in MongoDB; their block is not acknowledged",
    "mongo.versions_inserted": "an entity's versions are in MongoDB; its newest is not",
    "facts.recorded": "facts and rollups are committed; repeats are not noted, Redis knows nothing",
    "facts.projected": "Redis has the new counts; the block is not acknowledged",
    "journal.noted": "accepted blocks are in the journal; they are not acknowledged",
    "dead.noted": "dead letters are in their index; their block is not acknowledged",
    "repair.counted": "what both stores lacked is in Postgres and counted; MongoDB lacks it still",
    "rebuild.made": "a shadow holds everything; it is not in its place",
    "rebuild.swapped": "a shadow is in its place; what came meanwhile is not in it",
    "projection.repaired": "Redis has all rollups again; that is not noted",
}

_LINE = re.compile(r"(?P<process>[a-z]+):(?P<point>[a-z._]+)=kill@(?P<times>[1-9][0-9]*)")


class _Armed:
    """The points of one process."""

    def __init__(self, process: str, path: Path) -> None:
        self._process = process
        self._path = path
        self._version: tuple[int, int] | None = None
        self._times: dict[str, int] = {}
        self._hits: Counter[str] = Counter()

    def hit(self, point: str) -> None:
        self._read()
        if (times := self._times.get(point)) is None:
            return
        self._hits[point] += 1
        if self._hits[point] < times:
            return
        self._strike_out(point)
        log.warning("failpoint", point=point, hits=self._hits[point])
        os.kill(os.getpid(), signal.SIGKILL)

    def _read(self) -> None:
        """Take up the file if it is another than before."""
        try:
            about = self._path.stat()
            if (about.st_mtime_ns, about.st_ino) == self._version:
                return
            lines = self._path.read_text().split()
        except FileNotFoundError:
            lines, about = [], None
        self._version = None if about is None else (about.st_mtime_ns, about.st_ino)
        found = [match for line in lines if (match := _LINE.fullmatch(line)) and match["process"] == self._process]
        times = {match["point"]: int(match["times"]) for match in found}
        for point in times.keys() - self._times.keys():
            self._hits[point] = 0
        self._times = times

    def _strike_out(self, point: str) -> None:
        """Remove a point from the file before it acts, for the sake of the process that comes after this one."""
        prefix = f"{self._process}:{point}="
        kept = [line for line in self._path.read_text().split() if not line.startswith(prefix)]
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.write_text("".join(f"{line}\n" for line in kept))
        fresh.replace(self._path)


_armed: _Armed | None = None


def arm(process: str, path: Path | None) -> None:
    """Let the points of this process follow a file; None leaves them without effect."""
    global _armed
    _armed = None if path is None else _Armed(process, path)
    if path is not None:
        log.warning("failpoints_armed", file=str(path))


def hit(point: str, stage: str = "") -> None:
    """Die here if told to; nothing otherwise. Where many stages pass, the file says `point.stage`."""
    if _armed is not None:
        _armed.hit(f"{point}.{stage}" if stage else point)
