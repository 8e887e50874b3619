"""SecantusDB, which speaks MongoDB's protocol on WiredTiger. GPL-2.0: a process apart, never imported."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from urllib.parse import quote

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from embedded.program import EmbeddedError, Program, Server, kill_group, spawn
from embedded.state import LOOPBACK, State, free_port
from embedded.wheels import program_of

USER = "headrace"
_START_SECONDS = 30
_CACHE = "512M"


async def prepare(state: State) -> Server:
    """Make the store with its user, once; return the server to run.

    Its journal is written at each commit, so a killed process loses nothing; it is synced for
    writes that ask for `j: true`, which the URL does, so a power cut loses nothing either.
    """
    folder, password = state.folder("mongo"), state.secret("mongo")
    # Named, so that no secantusd.toml found elsewhere on the machine has a say.
    configuration = folder / "secantusd.toml"
    configuration.write_text("# Everything is said on the command line.\n")
    store = folder / "store"
    if not store.exists():
        await _make_store(folder, configuration, store, password, log=state.folder("logs") / "mongo.log")

    port = state.port("mongo")
    url = _url(port, f"{USER}:{quote(password)}@", "&authSource=admin")
    program = Program(
        name="mongo",
        argv=(*_argv(configuration, store, port), "--auth"),
        directory=folder,
        probe=lambda: _ping(url),
        # It takes two seconds, or for ever if the signal comes at the wrong moment; the journal has all anyway.
        stop_seconds=4,
    )
    return Server(program, url)


def _argv(configuration: Path, store: Path, port: int) -> tuple[str, ...]:
    command = str(program_of("secantusdb", "secantusd-py"))
    return (
        command,
        *("--config", str(configuration), "--storage-path", str(store)),
        *("--host", LOOPBACK, "--port", str(port), "--cache-size", _CACHE, "--log-level", "WARNING"),
    )


def _url(port: int, user: str, options: str) -> str:
    return f"mongodb://{user}{LOOPBACK}:{port}/headrace?directConnection=true&w=majority&journal=true{options}"


async def _make_store(folder: Path, configuration: Path, store: Path, password: str, *, log: Path) -> None:
    """Make a store that knows our user. Users can only be made while the server asks for none, so it starts twice."""
    fresh = folder / "store.new"
    shutil.rmtree(fresh, ignore_errors=True)
    port = free_port()
    process = await spawn(Program(name="mongo", argv=_argv(configuration, fresh, port), directory=folder), log)
    try:
        async with asyncio.timeout(_START_SECONDS):
            url = _url(port, "", "")
            while process.returncode is None:
                try:
                    await _ping(url)
                    break
                except (PyMongoError, OSError):
                    await asyncio.sleep(0.02)
            async with _client(url) as client:
                await client.admin.command("createUser", USER, pwd=password, roles=[{"role": "root", "db": "admin"}])
                # A checkpoint, so that it can be killed: its orderly stop takes two seconds, at times for ever.
                await client.admin.command("fsync")
    except (PyMongoError, TimeoutError) as error:
        raise EmbeddedError(f"The embedded MongoDB server cannot make its store ({error}); see {log}.") from error
    finally:
        kill_group(process)
        await process.wait()
    # Only a finished store takes the name that the next start looks for.
    fresh.rename(store)


def _client(url: str) -> AsyncMongoClient[dict[str, object]]:
    return AsyncMongoClient(url, serverSelectionTimeoutMS=2000, connectTimeoutMS=2000, timeoutMS=4000)


async def _ping(url: str) -> None:
    async with _client(url) as client:
        await client.admin.command("ping")
