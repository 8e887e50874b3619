"""One child process: what to run, as whom, and how it ends together with the process that started it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LOG_KEPT_BYTES = 16 << 20
_PR_SET_PDEATHSIG = 1
# Loaded here, not between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

# What a server gets of our environment: nothing that could change how it stores.
BARE_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LANG": "C.UTF-8"}


class EmbeddedError(Exception):
    """An embedded server or service cannot run; the text tells the user what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that a child runs as."""

    uid: int
    gid: int


async def _nothing() -> None:
    return None


async def _well() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What there is to know to run a child.

    Attributes:
        probe: returns once the child serves its protocol; raises until then.
        ails: why it has to be started anew though it runs; None while it has not.
        before_start: mends what a killed child left behind.
        stop_signal: asks for an orderly end.
        kill_signal: ends it at once, and its own children with it; sent by the kernel when we die.
        stop_seconds: how long an orderly end may take.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: BARE_ENVIRONMENT)
    probe: Callable[[], Awaitable[None]] = _nothing
    ails: Callable[[], Awaitable[str | None]] = _well
    before_start: Callable[[], Awaitable[None]] = _nothing
    account: Account | None = None
    directory: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL
    stop_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server's program, and the URL that it answers at while it runs.

    Attributes:
        others: URLs for those who may do less, or speak another protocol, by name.
    """

    program: Program
    url: str
    others: Mapping[str, str] = field(default_factory=dict)


async def spawn(program: Program, log: Path) -> asyncio.subprocess.Process:
    """Start the child in a session of its own; its output goes to `log`.

    Must be called from the main thread: the kernel ties the child's life to the thread that started it.
    """
    await program.before_start()
    _rotate(log)
    with log.open("ab") as output:
        account = program.account
        return await asyncio.create_subprocess_exec(
            *program.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(program.environment),
            cwd=program.directory,
            # Ctrl-C reaches the whole foreground group; children are to be stopped in order instead.
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_tie_to_parent(program.kill_signal),
        )


def signal_child(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal, unless the child has ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill the child and what it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tie_to_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return what the child runs between fork and exec so that it does not outlive us, not even our SIGKILL.

    Only Linux can do this; elsewhere children of a killed supervisor live on until they are stopped by hand.
    """
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before the line above took hold.
            os._exit(1)

    return tie


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_KEPT_BYTES:
            log.replace(log.with_suffix(".log.1"))
