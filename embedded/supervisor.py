"""Keeps child processes running: starts them, waits until they serve, restarts the killed, stops all in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from embedded.disk import has_room
from embedded.program import EmbeddedError, Program, kill_group, signal_child, spawn
from headrace import telemetry
from headrace.tasks import end

log = telemetry.logger(__name__)

READY_SECONDS = 60.0
CRASH_WINDOW_SECONDS = 30.0
_FIRST_WAIT_SECONDS = 0.1
_PROBE_SECONDS, _PROBE_EVERY_SECONDS = 5.0, 0.03
_LOOK_EVERY_SECONDS = 2.0
_KILLED_SECONDS = 5.0
_TAIL_BYTES = 500


class CrashLoopError(EmbeddedError):
    """A child ends again and again; restarting it does not help."""


@dataclass(frozen=True)
class Patience:
    """How children that end are started again.

    Attributes:
        crashes: so many within `CRASH_WINDOW_SECONDS` end the supervisor.
        longest_wait_seconds: before a start; the first is quick, each doubles.
    """

    crashes: int = 5
    longest_wait_seconds: float = 2.0


class Supervisor:
    """Use `supervise`.

    Attributes:
        pids: the children that run now, by name; a live view.
    """

    def __init__(self, logs: Path, tasks: asyncio.TaskGroup, on_change: Callable[[], None], patience: Patience) -> None:
        self._logs = logs
        self._patience = patience
        self._tasks = tasks
        self._on_change = on_change
        self._starts = 0
        self._children: dict[str, _Child] = {}
        self._pids: dict[str, int] = {}
        self.pids: Mapping[str, int] = MappingProxyType(self._pids)

    async def start(self, *programs: Program) -> None:
        """Start the children in parallel; return when all serve.

        Raises:
            EmbeddedError: one does not get ready in time. One that cannot stay up ends the whole supervisor.
        """
        self._starts += 1
        children = []
        for program in programs:
            child = _Child(program, self._starts, self._logs / f"{program.name}.log", self._changed, self._patience)
            self._children[program.name] = child
            child.keeper = self._tasks.create_task(child.keep())
            children.append(child)
        await asyncio.gather(*(child.ready() for child in children))

    async def stop(self, *names: str) -> None:
        """Ask the children to end, in parallel; kill those that take too long."""
        children = [child for name in names if (child := self._children.pop(name, None))]
        await asyncio.gather(*(child.stop() for child in children))

    def kill(self) -> None:
        """Kill all children now and start none again."""
        for child in self._children.values():
            child.kill()

    async def stop_all(self) -> None:
        """Stop the children in the reverse order of their starts, those started together at once."""
        while self._children:
            last = max(child.start for child in self._children.values())
            await self.stop(*(name for name, child in self._children.items() if child.start == last))

    def _changed(self, name: str, pid: int | None) -> None:
        if pid is None:
            self._pids.pop(name, None)
        else:
            self._pids[name] = pid
        self._on_change()


@contextlib.asynccontextmanager
async def supervise(
    logs: Path, on_change: Callable[[], None] = lambda: None, patience: Patience | None = None
) -> AsyncIterator[Supervisor]:
    """Run a supervisor; at the end no child is left.

    Args:
        logs: folder for the children's output, one file each; it exists.
        on_change: called after a child started or ended.
        patience: with children that end again and again.

    Raises:
        CrashLoopError: in the body, which is cancelled.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(logs, tasks, on_change, patience or Patience())
            try:
                yield supervisor
            finally:
                await supervisor.stop_all()
    except BaseExceptionGroup as group:
        # What ended the body or the first keeper is what the caller wants to know; the others followed from it.
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class _Child:
    """One program and the process that runs it now.

    Attributes:
        start: which call of `Supervisor.start` it belongs to.
        keeper: the task that restarts it.
    """

    def __init__(
        self,
        program: Program,
        start: int,
        log_file: Path,
        changed: Callable[[str, int | None], None],
        patience: Patience,
    ) -> None:
        self.start = start
        self.keeper: asyncio.Task[None] | None = None
        self._program = program
        self._log_file = log_file
        self._changed = changed
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()
        self._ailed = False

    async def keep(self) -> None:
        """Run the process, again and again, until told to stop.

        Raises:
            CrashLoopError: it ended too often in too short a time.
        """
        name, crashes = self._program.name, self._patience.crashes
        ends: deque[float] = deque(maxlen=crashes)
        while not self._ending.is_set():
            try:
                process = self._process = await spawn(self._program, self._log_file)
            except OSError as error:
                raise EmbeddedError(f"Cannot start {name}: {error}.") from error
            self._changed(name, process.pid)
            if self._ending.is_set():
                self.kill()
            looking = asyncio.create_task(self._end_if_it_ails(process))
            try:
                code = await process.wait()
            finally:
                await end(looking)
            # Whatever it had started itself.
            kill_group(process)
            self._changed(name, None)
            if self._ending.is_set():
                return
            now = time.monotonic()
            no_room = not has_room(self._log_file.parent)
            if code == 0 or self._ailed or no_room:
                # It ended in order, to be started anew (headrace/reload.py), or it is the disk that lets nothing stay.
                ends.clear()
            self._ailed = False
            ends.append(now)
            if len(ends) == crashes and now - ends[0] < CRASH_WINDOW_SECONDS:
                raise CrashLoopError(
                    f"{name} ended {crashes} times in {CRASH_WINDOW_SECONDS:g} s, last with code {code}. "
                    f"Its output is in {self._log_file}{_last_line(self._log_file)}"
                )
            recent = sum(now - end < CRASH_WINDOW_SECONDS for end in ends)
            wait_seconds = min(self._patience.longest_wait_seconds, _FIRST_WAIT_SECONDS * 2 ** (recent - 1))
            if no_room:
                wait_seconds = self._patience.longest_wait_seconds
            log.warning("child_restarts", child=name, code=code, wait_seconds=wait_seconds, log=str(self._log_file))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._ending.wait()

    async def _end_if_it_ails(self, process: asyncio.subprocess.Process) -> None:
        """End the process where it will not be well again by itself."""
        reason = None
        while reason is None:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            # Who cannot be asked may be busy; what that means is for its clients to find out.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_PROBE_SECONDS):
                    reason = await self._program.ails()
        log.error("child_ails", child=self._program.name, reason=reason)
        self._ailed = True
        signal_child(process, self._program.stop_signal)
        await asyncio.sleep(self._program.stop_seconds)
        signal_child(process, self._program.kill_signal)

    async def ready(self) -> None:
        """Return when the probe passes.

        Raises:
            EmbeddedError: it did not in time.
        """
        deadline = time.monotonic() + READY_SECONDS
        while True:
            # A probe may meet any error of its driver while the server starts; only the last one matters.
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    return await self._program.probe()
            except Exception as error:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"{self._program.name} was not ready after {READY_SECONDS:g} s ({error!r}). "
                        f"Its output is in {self._log_file}."
                    ) from error
            await asyncio.sleep(_PROBE_EVERY_SECONDS)

    async def stop(self) -> None:
        """Ask the process to end, kill it if it does not; start it no more."""
        self._ending.set()
        process = self._process
        if process is not None and process.returncode is None:
            for number, seconds in (
                (self._program.stop_signal, self._program.stop_seconds),
                (self._program.kill_signal, _KILLED_SECONDS),
                (signal.SIGKILL, _KILLED_SECONDS),
            ):
                signal_child(process, number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await process.wait()
                    break
                log.warning("child_does_not_end", child=self._program.name, after_signal=number.name)
            kill_group(process)
        if self.keeper is not None:
            await asyncio.wait({self.keeper})

    def kill(self) -> None:
        self._ending.set()
        if self._process is not None and self._process.returncode is None:
            signal_child(self._process, self._program.kill_signal)


def _last_line(path: Path) -> str:
    """Return how a log ends, for the end of a sentence."""
    lines = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f", which ends: {last}" if last else "."
