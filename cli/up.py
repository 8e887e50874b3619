"""`headrace up`: the embedded servers and every service in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from embedded.program import EmbeddedError, Program
from embedded.servers import SERVERS, prepare
from embedded.state import State, free_port, open_state, port_is_free, write_private
from embedded.supervisor import Supervisor, supervise
from headrace import telemetry
from headrace.errors import HeadraceError
from headrace.exposure import ExposedError, check
from headrace.registry import load_pipelines
from headrace.settings import AuthSettings, GatewaySettings, Settings
from headrace.tls import load_certificate
from headrace.topology import Topology

GATEWAY: Final = "gateway"
SERVICES: Final = ("auth", "workers", "analytics", GATEWAY)
# A service is not told of servers that it does not need; the others need them all.
_NEEDED: Final = {GATEWAY: ("nats_url",), "auth": ("nats_url", "postgres_url")}
SCOPES: Final = ("documents:write", "documents:read", "analytics:read", "dead:read", "dead:write", "admin")
ADMIN: Final = "admin"
_KEY_NAME: Final = "up"
# Beyond the time that running requests have, for what a service does besides.
_SPARE_SECONDS: Final = 5.0
_TOKEN_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 2.0

# Gets what `--json` tells. A number that it returns ends everything with this exit code.
OnReady = Callable[[Mapping[str, Any]], Awaitable[int | None]]

log = telemetry.logger(__name__)


async def up(
    data_dir: Path, port: int | None, json_output: bool, on_ready: OnReady | None = None, *, reload: bool = False
) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code.

    Args:
        port: the gateway's; None takes the settings' one, or a free one if that is taken.
        on_ready: called once all is ready, before that is said.
        reload: whether services take up changed pipeline files, whatever the settings say.
    """
    settings = Settings()
    if reload:
        settings = settings.model_copy(update={"reload": True})
    telemetry.configure_logs(settings.log, "up")
    main = asyncio.current_task()
    assert main is not None
    running: list[Supervisor] = []
    signals = 0

    def stop() -> None:
        # The first signal stops in order, wherever we are; the next one kills.
        nonlocal signals
        signals += 1
        if signals > 1:
            for supervisor in running:
                supervisor.kill()
        else:
            _say("Stopping; once more to kill.")
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup, a terminal that closes is to be ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        with open_state(data_dir) as state:
            # One that was killed could not remove it.
            _up_file(state).unlink(missing_ok=True)
            try:
                return await _run(state, settings, port, running, on_ready, json_output=json_output)
            finally:
                _up_file(state).unlink(missing_ok=True)
    except EmbeddedError as error:
        _say(f"Error: {error}")
        return 1
    except asyncio.CancelledError:
        if not signals:
            raise
        main.uncancel()
    return 0


async def _run(
    state: State,
    settings: Settings,
    port: int | None,
    running: list[Supervisor],
    on_ready: OnReady | None,
    *,
    json_output: bool,
) -> int:
    """Start servers, then services, say that all is ready, and wait to be cancelled, unless `on_ready` ends it."""
    began = time.monotonic()
    port = _gateway_port(state, settings, port)
    tls = _trusted(settings.gateway)
    url = f"{'https' if tls else 'http'}://{_address(settings.gateway.host)}:{port}"
    facts: dict[str, Any] = {}

    def changed() -> None:
        # A restarted child has another number.
        if facts:
            facts["processes"] = dict(supervisor.pids)
            try:
                write_private(_up_file(state), json.dumps(facts).encode())
            except OSError as error:
                # A full disk ends nobody.
                _say(f"Cannot write {_up_file(state)}: {error.strerror}. It is tried again.")
                asyncio.get_running_loop().call_later(_AGAIN_SECONDS, changed)

    given = {setting: getattr(settings, setting).get_secret_value() for setting in SERVERS}
    wanted = [setting for setting in SERVERS if setting not in settings.model_fields_set or not given[setting]]
    try:
        check(settings, own=wanted)
    except ExposedError as error:
        raise EmbeddedError(str(error)) from None
    async with supervise(state.folder("logs"), changed) as supervisor:
        running.append(supervisor)
        if wanted:
            _say(f"Starting {', '.join(SERVERS[setting] for setting in wanted)} in {state.directory}")
        servers = await prepare(state, settings.streams, wanted, settings.namespace)
        await supervisor.start(*(server.program for server in servers.values()))
        urls = given | {setting: server.url for setting, server in servers.items()}
        _say(f"Starting {', '.join(SERVICES)}")
        roles = servers["nats_url"].others if "nats_url" in servers else {}
        *behind, gateway = _services(state, settings, urls, roles, url, tls, port)
        await supervisor.start(*behind)
        # By itself, so that it is stopped before those that its last requests need.
        await supervisor.start(gateway)
        mqtt = {"mqtt_url": roles["mqtt"]} if roles else {}
        facts = {"ready": True, "url": url, "token": await _token(url, tls, state, settings), **urls, **mqtt}
        changed()
        seconds = time.monotonic() - began
        if on_ready is not None and (code := await on_ready(facts)) is not None:
            return code
        if json_output:
            print(json.dumps(facts), flush=True)
        else:
            _greet(settings, facts, seconds)
        # Until the first signal, or a child that cannot stay up.
        await asyncio.Event().wait()
    return 0


def _services(
    state: State,
    settings: Settings,
    urls: Mapping[str, str],
    roles: Mapping[str, str],
    url: str,
    tls: ssl.SSLContext | None,
    port: int,
) -> list[Program]:
    """Return the services, the gateway last, told by their environment where the servers are.

    Args:
        roles: NATS URL by service, where each has a user of its own.
    """
    environment = {
        # Whatever else the user has set is the services' to read.
        **os.environ,
        "HEADRACE_GATEWAY__PORT": str(port),
        "HEADRACE_RELOAD": str(settings.reload).lower(),
        "PYTHONUNBUFFERED": "1",
    }
    extra = {
        service: {f"HEADRACE_{setting.upper()}": urls[setting] for setting in _NEEDED.get(service, urls)}
        for service in SERVICES
    }
    for service in roles.keys() & extra:
        extra[service]["HEADRACE_NATS_URL"] = roles[service]
    if settings.auth.bootstrap_admin is None:
        extra["auth"] |= {
            "HEADRACE_AUTH__BOOTSTRAP_ADMIN": ADMIN,
            "HEADRACE_AUTH__BOOTSTRAP_PASSWORD": state.secret("admin"),
        }

    async def nothing() -> None:
        """Services other than the gateway have no door of their own; its readiness speaks for them."""

    async def gateway_ready() -> None:
        async with (
            aiohttp.ClientSession(connector=_connector(tls)) as session,
            session.get(f"{url}/readyz") as response,
        ):
            if response.status != 200:
                raise RuntimeError(f"/readyz: {(await response.text())[:500]}")

    return [
        Program(
            name=service,
            # -P: a folder called `auth` or `cli` where the user happens to be is not ours.
            argv=(sys.executable, "-P", "-m", "cli.main", service),
            environment={**environment, **extra[service]},
            probe=gateway_ready if service == GATEWAY else nothing,
            stop_seconds=settings.gateway.drain_seconds + _SPARE_SECONDS,
        )
        for service in SERVICES
    ]


def _gateway_port(state: State, settings: Settings, asked: int | None) -> int:
    """Return the port for the gateway: the one asked for, else the usual one, else last time's, else a free one.

    Raises:
        EmbeddedError: the one asked for is taken.
    """
    host = settings.gateway.host
    port = settings.gateway.port if asked is None else asked
    if port == 0:
        return free_port(host=host)
    if port_is_free(port, host):
        return port
    if asked is not None or "port" in settings.gateway.model_fields_set:
        raise EmbeddedError(f"Port {port} is taken. Choose another with --port; 0 takes a free one.")
    other = state.port("gateway")
    _say(f"Port {port} is taken; the gateway takes {other}.")
    return other


def _trusted(gateway: GatewaySettings) -> ssl.SSLContext | None:
    """Return how to speak to our own gateway where it speaks TLS: with whoever has its certificate, by whatever name.

    Raises:
        EmbeddedError: the certificate is of no use.
    """
    if gateway.tls_certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=gateway.tls_certificate)
        # The key, too, so that it is not the gateway's log alone that says what is wrong with it.
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), gateway.tls_certificate, gateway.tls_key)
    except (OSError, HeadraceError) as error:
        raise EmbeddedError(f"HEADRACE_GATEWAY__TLS_CERTIFICATE={gateway.tls_certificate}: {error}") from None
    # It is at an address of this machine, which the certificate need not name.
    context.check_hostname = False
    # One that an authority has signed is trusted by itself here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _connector(tls: ssl.SSLContext | None) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=True if tls is None else tls)


def _address(host: str) -> str:
    """Return how to reach a server bound to this address from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


async def _token(url: str, tls: ssl.SSLContext | None, state: State, settings: Settings) -> str | None:
    """Return an API key with every scope, last time's if it is still good; None if we may not make one.

    A key rather than an access token: it works for as long as the one who copied it needs it.

    Raises:
        EmbeddedError: the auth service does not give one in time.
    """
    deadline = time.monotonic() + _TOKEN_SECONDS
    limit = aiohttp.ClientTimeout(total=_TOKEN_SECONDS)
    async with aiohttp.ClientSession(url, connector=_connector(tls), timeout=limit) as session:
        while True:
            try:
                return await _key(session, state, settings.auth)
            except (aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"No token ({error}); see {state.directory}/logs/auth.log.") from error
            await asyncio.sleep(0.2)


async def _key(session: aiohttp.ClientSession, state: State, auth: AuthSettings) -> str | None:
    if key := state.kept("api_key"):
        async with session.get("/v1/auth/me", headers=_bearer(key)) as response:
            if response.status == 200:
                return key
    username = auth.bootstrap_admin or ADMIN
    password = auth.bootstrap_password.get_secret_value() if auth.bootstrap_password else state.secret("admin")
    async with session.post("/v1/auth/token", json={"username": username, "password": password}) as response:
        if response.status == 401:
            log.warning("no_token", user=username, reason="this Postgres knows the user by another password")
            return None
        response.raise_for_status()
        access = _bearer((await response.json())["access_token"])
    async with session.get("/v1/auth/keys", headers=access, raise_for_status=True) as response:
        old = [one["id"] for one in await response.json() if one["name"] == _KEY_NAME]
    for key_id in old:
        await session.delete(f"/v1/auth/keys/{key_id}", headers=access, raise_for_status=True)
    wanted = {"name": _KEY_NAME, "scopes": SCOPES}
    async with session.post("/v1/auth/keys", json=wanted, headers=access, raise_for_status=True) as response:
        key = str((await response.json())["key"])
    state.keep("api_key", key)
    return key


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _greet(settings: Settings, facts: Mapping[str, Any], seconds: float) -> None:
    """Say where everything is, with lines that work when pasted."""
    url, token, mqtt = facts["url"], facts["token"], facts.get("mqtt_url")
    pipelines = load_pipelines(settings.pipelines)
    name = "invoices" if "invoices" in pipelines else min(pipelines)
    example = json.dumps(dict(pipelines[name].example), default=str, separators=(",", ":"), ensure_ascii=False)
    authorization = shlex.quote(f"Authorization: Bearer {token or 'TOKEN'}")
    curl = f"curl -sS -H {authorization}"
    topic = Topology(settings.namespace).ingest_topic("{pipeline}")
    told_mqtt = f"  mqtt   {mqtt}  topic {topic}\n" if mqtt else ""
    print(
        f"Headrace is ready after {seconds:.1f} s; Ctrl-C stops it.\n\n"
        f"  url    {url}\n"
        f"  docs   {url}/docs\n"
        f"  token  {token or '(ask your administrator)'}\n"
        f"{told_mqtt}\n"
        "Send a document, list them, see them counted:\n\n"
        f"{curl} -H 'Content-Type: application/json' -d {shlex.quote(example)} {url}/v1/documents/{name}\n"
        f"{curl} {shlex.quote(f'{url}/v1/documents/{name}?limit=10')}\n"
        f"{curl} {url}/v1/analytics/{name}\n",
        flush=True,
    )


def _up_file(state: State) -> Path:
    """Where other commands find what runs here."""
    return state.directory / "up.json"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
