"""Whether there is room on a disk: with none, some servers stop for good, and to start them again helps nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# What a server needs to start and to write a file or two.
_ROOM_BYTES: Final = 16 << 20


def has_room(folder: Path) -> bool:
    """Return whether a server whose data is there can write."""
    return free_bytes(folder) >= _ROOM_BYTES


def free_bytes(folder: Path) -> int:
    """Return what is free for everybody, on the disk that a folder is on."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
