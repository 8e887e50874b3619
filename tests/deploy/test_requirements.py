"""The pinned requirements: hashed, layered, complete for pyproject.toml, and bound to no registry or machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
FILES = ("runtime", "analysis", "embedded", "dev", "bench", "build")
# Each is installed over the other, on a machine or in an image.
LAYERS = [
    *(("runtime", "analysis"), ("runtime", "embedded"), ("analysis", "dev"), ("embedded", "dev")),
    *(("dev", "bench"), ("build", "dev")),
]


def pins(name: str) -> set[str]:
    """Return the pins of a file, each with its marker: `numpy==2.4.6 ; python_full_version < '3.12'`."""
    lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
    return {line.removesuffix("\\").strip() for line in lines if line and line[0] not in "# "}


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_a_hash_and_nothing_names_a_registry_or_a_machine(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()

    for block in re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        assert re.match(r"[a-z0-9.-]+==\S+", block), block
        assert "--hash=sha256:" in block, block
    assert not re.search(r"://|--index-url|--extra-index-url|--find-links|(?m:^-e )| /", text)


@pytest.mark.parametrize(("lower", "upper"), LAYERS)
def test_each_layer_can_be_installed_over_the_one_below(lower: str, upper: str) -> None:
    below, above = pins(lower), pins(upper)
    if lower == "build":
        names = {pin.split("==")[0] for pin in above}
        below = {pin for pin in below if pin.split("==")[0] in names}

    assert below <= above


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("build", PROJECT["build-system"]["requires"]),
        ("runtime", PROJECT["project"]["dependencies"]),
        ("embedded", EXTRAS["embedded"]),
        ("analysis", EXTRAS["analysis"]),
        ("dev", EXTRAS["dev"]),
        ("bench", EXTRAS["bench"]),
    ],
)
def test_every_dependency_of_the_project_is_pinned_to_a_version_it_allows(name: str, asked: list[str]) -> None:
    pinned = {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in map(Requirement, pins(name))
        if requirement.marker is None or requirement.marker.evaluate()
    }

    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not pinned: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} against {version}: run `make lock`"
        )


@pytest.mark.parametrize("name", ["runtime", "analysis"])
def test_an_image_holds_no_server_and_nothing_under_the_gpl(name: str) -> None:
    servers = {canonicalize_name(Requirement(asked).name) for asked in EXTRAS["embedded"]}

    assert "secantusdb" in servers
    assert not servers & {Requirement(pin).name for pin in pins(name)}
