"""Looking at processes from outside, by /proc."""

from __future__ import annotations

from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    """Return the children of a process and theirs."""
    parents: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, set()).add(int(path.parent.name))
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for parent in fresh for child in parents.get(parent, ())} - found
        found |= fresh
    return found
