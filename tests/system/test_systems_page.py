"""docs/systems.md keeps its word: every row is there, its command works as it stands, and its test exists."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.system import ROOT, System

PAGE = ROOT / "docs" / "systems.md"
SECONDS = 90
STORES = ("nats", "mongo", "postgres", "redis")
# What other pages of the project speak of: dashboards, the lake and its layers, clusters (see the end of the page).
ELSEWHERE = {
    *("LIC-22", "SEA-16", "SEA-22", "INV-13", "INV-14", "X-4"),
    *(f"DEL-{number:02}" for number in (*range(9, 19), 20, *range(24, 28))),
}
WANTED = [
    f"{system}-{number:02}"
    for system, last in (("LIC", 25), ("SEA", 26), ("INV", 20), ("STU", 13), ("DEL", 29))
    for number in range(1, last + 1)
] + [f"X-{number}" for number in range(1, 6)]

_ROW = re.compile(r"^\| *((?:[A-Z]{3}-[0-9]{2})|X-[0-9]) *\| (.*) \| (.*) \|$")
_COMMAND = re.compile(r"`([^`]+)`")
_PATH = re.compile(r"(?:tests|bench|docs|deploy)/[\w./-]*\w")


@dataclass(frozen=True)
class Line:
    """One row of the page."""

    row: str
    how: str
    shown_by: str

    @property
    def command(self) -> str:
        """Return the first command of the row, as it is pasted."""
        found = _COMMAND.search(self.how)
        assert found, f"{self.row} shows no command"
        # In a table a pipe has to be escaped; whoever reads the page sees it without.
        return found[1].replace("\\|", "|")


def lines() -> Iterator[Line]:
    for text in PAGE.read_text().splitlines():
        if found := _ROW.match(text):
            yield Line(*found.groups())


LINES = list(lines())


@pytest.fixture(scope="module")
async def system(own_system: System) -> System:
    return own_system


def test_every_row_of_the_five_systems_has_one_line() -> None:
    found = [line.row for line in LINES]

    assert sorted(found) == sorted(set(WANTED) - ELSEWHERE)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.row)
def test_what_shows_a_row_exists(line: Line) -> None:
    named = _PATH.findall(line.shown_by)

    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's requests are made with curl, which is not here")
@pytest.mark.long
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.row)
async def test_a_rows_command_works_when_pasted(line: Line, system: System, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "URL": system.url,
        "TOKEN": system.facts["token"],
        "MQTT_URL": system.facts["mqtt_url"],
        **{f"HEADRACE_{store.upper()}_URL": system.facts[f"{store}_url"] for store in STORES},
        "HEADRACE_URL": system.url,
        "HEADRACE_TOKEN": system.facts["token"],
        "TMPDIR": str(tmp_path),
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-uo", "pipefail", "-c", line.command),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    async with asyncio.timeout(SECONDS):
        output, said = await process.communicate()

    assert process.returncode == 0, f"{line.command}\n{output.decode()[-2000:]}\n{said.decode()[-2000:]}"
    assert "Traceback" not in said.decode()
