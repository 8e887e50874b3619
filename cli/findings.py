"""What `doctor` found: a value, made by the examinations and shown at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing examined; `fix` says what to do about a warning or a failure."""

    name: str
    level: Level
    detail: str
    fix: str = ""
