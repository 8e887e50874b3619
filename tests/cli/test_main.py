"""The command as a whole: its help, its speed, its manners at the end of a pipe."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from cli.main import app
from headrace import __version__
from tests.cli.stand_in import Ended, headrace

COMMANDS = {
    *("up", "demo", "gateway", "auth", "workers", "analytics", "load", "produce", "send", "get", "tail"),
    *("status", "dead", "rebuild", "user", "token", "key", "doctor", "config", "version"),
}


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*path, name))


def test_every_command_of_the_contract_is_there_and_helps() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = list(commands(group))

    assert {words[0] for words in found} >= COMMANDS
    for words in found:
        result = CliRunner().invoke(app, [*words, "--help"])
        assert (words, result.exit_code) == (words, 0)
        assert "Usage:" in result.stdout


async def test_every_command_helps_as_a_process(tmp_path: Path) -> None:
    few = asyncio.Semaphore(4)

    async def help_of(name: str) -> Ended:
        async with few:
            return await headrace(tmp_path, name, "--help")

    results = await asyncio.gather(*(help_of(name) for name in sorted(COMMANDS)))

    assert {(result.code, result.err) for result in results} == {(0, "")}
    assert not any("\x1b" in result.out for result in results)


def test_asking_for_help_imports_no_service() -> None:
    heavy = {"pydantic", "aiohttp", "fastapi", "nats", "asyncpg", "sqlalchemy", "motor", "redis", "msgspec", "rich"}
    code = f"import sys, cli.main; print(sorted(set({sorted(heavy)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


async def test_a_command_that_is_not_there_is_exit_2(tmp_path: Path) -> None:
    result = await headrace(tmp_path, "statsu")

    assert (result.code, result.out) == (2, "")
    assert "status" in result.err


async def test_a_stage_that_is_not_there_is_exit_2_and_names_those_that_are(tmp_path: Path) -> None:
    result = await headrace(tmp_path, "workers", "refine", "sort")

    assert (result.code, result.out) == (2, "")
    assert result.err == "headrace: there is no stage 'sort'; there are: refine, journal, documents, facts, dead\n"


async def test_the_version_is_told(tmp_path: Path) -> None:
    assert (await headrace(tmp_path, "version")).out.startswith(f"headrace {__version__} ")
    assert (await headrace(tmp_path, "version", "--json")).lines[0]["version"] == __version__


async def test_a_command_without_its_servers_says_so_once(tmp_path: Path) -> None:
    result = await headrace(tmp_path, "user", "ls", environment={"HEADRACE_NATS_URL": "nats://127.0.0.1:1"})

    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert "HEADRACE_NATS_URL" in result.err


def test_a_reader_that_leaves_early_sees_no_complaint() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.close()
    _, complaint = writer.communicate(timeout=60)

    assert complaint == b""


def test_the_command_is_also_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "cli", "version"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("headrace ")
