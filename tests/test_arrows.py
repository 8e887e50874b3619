"""The arrows: which package may import which, and the libraries that one module alone may know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SERVICES = {"auth", "gateway", "workers", "analytics", "producer"}
MAY_IMPORT: dict[str, set[str]] = {
    "headrace": set(),
    "pipelines": {"headrace"},
    **{service: {"pipelines", "headrace"} for service in SERVICES},
    "embedded": {"pipelines", "headrace"},
    "cli": {*SERVICES, "embedded", "pipelines", "headrace"},
    # Not installed: they look at everything and nothing looks at them.
    "bench": {*SERVICES, "cli", "embedded", "pipelines", "headrace"},
    "deploy": {"headrace"},
}
PACKAGES = {*MAY_IMPORT, "tests"}

# Asked for by name and near the end of their lives: each can be replaced in one place when the day comes.
CONFINED: dict[str, set[str]] = {
    "motor": {"headrace/storage/mongo.py", "bench/peer/worker.py"},
    "jose": {"auth/tokens.py", "headrace/tokens.py", "bench/peer/security.py"},
    "passlib": {"auth/passwords.py"},
    # Large, slow to import and not always installed: only `headrace analyse` imports these modules.
    **{name: {"pipelines/analyses/students.py"} for name in ("pandas", "scipy", "sklearn", "statsmodels")},
    # Who fetches URLs may be made to fetch somebody else's: only what a person or a setting names, never a request.
    "aiohttp": {
        *("producer/api.py", "producer/client.py", "producer/origins/portal.py", "cli/api.py", "cli/up.py"),
        "bench/stack.py",
        # Its server's side alone.
        "headrace/process.py",
    },
    "requests": set(),
    "httpx": set(),
    # GPL-2.0: a process apart, never part of ours.
    "secantus": set(),
}


def imports_of(source: str) -> set[str]:
    """Return the dotted names that a module imports from elsewhere, wherever in it the import stands."""
    return set(_imports(ast.parse(source)))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module


def modules(package: str) -> list[Path]:
    """Return every Python file of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def roots(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports_of(path.read_text())}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    forbidden = PACKAGES - MAY_IMPORT[package] - {package}
    offences = {
        f"{path.relative_to(ROOT)} imports {name}" for path in modules(package) for name in roots(path) & forbidden
    }

    assert offences == set()


@pytest.mark.parametrize("library", sorted(CONFINED))
def test_a_confined_library_is_imported_in_its_place_only(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in modules(package)
        if library in roots(path)
    }

    assert users <= CONFINED[library]


@pytest.mark.parametrize("package", ["headrace", "pipelines", "gateway", "auth", "analytics", "workers"])
def test_no_service_can_fetch_a_url(package: str) -> None:
    fetching = {"urllib.request", "http.client", "ftplib", "requests", "httpx", "urllib3"}
    users = {path.name for path in modules(package) if imports_of(path.read_text()) & fetching}

    assert users == set()
    served = {name for path in modules(package) for name in imports_of(path.read_text()) if name.startswith("aiohttp")}
    # `from aiohttp import web` and nothing else of it.
    assert served <= {"aiohttp"}
    assert all("ClientSession" not in path.read_text() for path in modules(package))


def test_every_package_has_its_arrows() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    assert found <= PACKAGES


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import os.path as p, gateway.app
from . import sibling
from auth.tokens import verify
def lazily():
    if True:
        from workers import refine
"""
    assert imports_of(source) == {"os.path", "gateway.app", "auth.tokens", "workers"}
