"""What a data directory remembers between starts: ports, passwords, its id. One process holds it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from embedded.program import EmbeddedError

LOOPBACK = "127.0.0.1"
# Below every system's ephemeral range: there a client that knocks while its server
# is down can be given the server's own port, and would connect to itself.
_PORTS = range(20_000, 32_000)
# By port: what keeps other processes of ours off it while its server has not begun to listen.
_claims: dict[int, socket.socket] = {}


class _Remembered(msgspec.Struct):
    id: str
    ports: dict[str, int] = {}
    secrets: dict[str, str] = {}


class State:
    """Use `open_state`."""

    def __init__(self, directory: Path, remembered: _Remembered) -> None:
        self.directory = directory
        self._remembered = remembered
        self._claimed: dict[str, int] = {}

    @property
    def id(self) -> str:
        """A random name, made with the directory: who deletes the directory gets another."""
        return self._remembered.id

    def port(self, name: str) -> int:
        """Return the loopback port used last time under this name if it is free, else a free one."""
        if name in self._claimed:
            return self._claimed[name]
        ports = self._remembered.ports
        if name not in ports or not port_is_free(ports[name]) or not _claim(ports[name]):
            taken = {port for other, port in ports.items() if other != name}
            ports[name] = free_port(taken)
            self._save()
        self._claimed[name] = ports[name]
        return ports[name]

    def close(self) -> None:
        """Let others have the ports, once our servers have ended."""
        for port in self._claimed.values():
            _claims.pop(port).close()

    def secret(self, name: str) -> str:
        """Return the secret kept under this name, made at the first call."""
        if name not in self._remembered.secrets:
            self.keep(name, secrets.token_hex(16))
        return self._remembered.secrets[name]

    def kept(self, name: str) -> str | None:
        """Return what was kept under this name."""
        return self._remembered.secrets.get(name)

    def keep(self, name: str, secret: str) -> None:
        self._remembered.secrets[name] = secret
        self._save()

    def folder(self, name: str) -> Path:
        """Return a folder of ours, made if it is missing."""
        path = self.directory / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def _save(self) -> None:
        write_private(self.directory / "state.json", msgspec.json.encode(self._remembered))


@contextlib.contextmanager
def open_state(directory: Path) -> Iterator[State]:
    """Make or open a data directory and hold it until the end.

    Raises:
        EmbeddedError: another process holds it, or it is not ours to write.
    """
    directory = Path(os.path.abspath(directory))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Others may pass through, for a Postgres that runs as another user, but neither list nor read.
        directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedError(
            f"Cannot use the data directory {directory}: {error.strerror}. Choose another with --data-dir."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise EmbeddedError(
                f"Another headrace (process {holder or 'unknown'}) runs on {directory}. "
                "Stop it first, or choose another with --data-dir."
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        state = State(directory, _read(directory / "state.json"))
        try:
            yield state
        finally:
            state.close()
    finally:
        os.close(lock)


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int] | frozenset[int] = frozenset(), host: str = LOOPBACK) -> int:
    """Return a port that nobody listens on, outside the ephemeral range, and that is given to nobody else meanwhile.

    Raises:
        EmbeddedError: none was found.
    """
    for port in random.sample(_PORTS, 200):
        if port not in taken and port_is_free(port, host) and _claim(port):
            return port
    raise EmbeddedError(f"No free port between {_PORTS.start} and {_PORTS.stop}.")


def _claim(port: int) -> bool:
    """Keep a port from others who look for a free one; return False where it is kept from us.

    Seconds pass until its server listens, and of several first starts at once two would choose the same, now and then.
    """
    if port in _claims:
        return False
    claim = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            # In the abstract namespace, so that it goes with us, however we end.
            claim.bind(f"\0headrace-port-{port}")
        except OSError:
            claim.close()
            return False
    _claims[port] = claim
    return True


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only we may read; a crash leaves the old one or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _read(path: Path) -> _Remembered:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Remembered)
    except FileNotFoundError:
        return _Remembered(id=secrets.token_hex(8))
    except (OSError, msgspec.DecodeError) as error:
        raise EmbeddedError(f"Cannot read {path}: {error}. It holds the passwords of the data beside it.") from error
