"""What settings leave open to others: in production mode each is a reason not to start. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from headrace.errors import HeadraceError
from headrace.settings import Settings

# Of examples, images and tutorials; each is among the first that somebody tries.
_DEFAULT_SECRETS: Final = frozenset(
    {
        *("admin", "changeme", "changeit", "default", "demo", "example", "guest", "headrace", "letmein", "minioadmin"),
        *("mongo", "mongodb", "nats", "pass", "passw0rd", "password", "postgres", "postgresql", "redis", "root"),
        *("s3cr3t", "secret", "test", "user", "valkey"),
    }
)
_LEAST_SECRET: Final = 8
_LEAST_PASSWORD: Final = 12
_SERVERS: Final = {
    "nats_url": ("HEADRACE_NATS_URL", "NATS"),
    "postgres_url": ("HEADRACE_POSTGRES_URL", "Postgres"),
    "mongo_url": ("HEADRACE_MONGO_URL", "MongoDB"),
    "redis_url": ("HEADRACE_REDIS_URL", "Redis"),
}
_TLS_SCHEMES: Final = frozenset({"tls", "wss", "rediss", "mongodb+srv"})
_TLS_OPTIONS: Final = {
    "sslmode": frozenset({"require", "verify-ca", "verify-full"}),
    "tls": frozenset({"true"}),
    "ssl": frozenset({"true"}),
}


@dataclass(frozen=True, slots=True)
class Exposure:
    """One thing left open: the setting's variable, what is wrong, and what to do. Never a secret."""

    setting: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}. Fix: {self.fix}"


class ExposedError(HeadraceError):
    """Production mode, and something is left open."""

    default_code = "not_for_production"


def check(settings: Settings, *, own: Collection[str] = ()) -> None:
    """Refuse to go on in production mode with anything left open.

    Args:
        own: settings of servers that are not asked where they say, since `up` runs its own.

    Raises:
        ExposedError: names each of them with its fix.
    """
    if settings.production and (found := list(exposures(settings, own=own))):
        lines = "".join(f"\n  {one}" for one in found)
        raise ExposedError(f"HEADRACE_PRODUCTION is set, and this is not for production:{lines}")


def exposures(settings: Settings, *, own: Collection[str] = ()) -> Iterator[Exposure]:
    """Yield everything that settings leave open."""
    if settings.failpoints is not None:
        yield Exposure("HEADRACE_FAILPOINTS", "a file says where processes are to die", "take the setting away")
    yield from _of_the_gateway(settings)
    yield from _of_auth(settings)
    for setting in _SERVERS:
        # A service is told only of the servers that it uses; all use NATS.
        if setting not in own and (setting == "nats_url" or setting in settings.model_fields_set):
            yield from _of_a_server(settings, setting)


def plain_http(settings: Settings) -> bool:
    """Return whether others than this machine can reach the gateway without TLS."""
    return settings.gateway.tls_certificate is None and not is_loopback(settings.gateway.host)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _of_the_gateway(settings: Settings) -> Iterator[Exposure]:
    gateway = settings.gateway
    if plain_http(settings) and not settings.private_network:
        yield Exposure(
            "HEADRACE_GATEWAY__HOST",
            f"{gateway.host} can be reached from elsewhere, and passwords and tokens go there unencrypted",
            "set HEADRACE_GATEWAY__TLS_CERTIFICATE and HEADRACE_GATEWAY__TLS_KEY, or, where a proxy ends TLS before "
            "it, HEADRACE_PRIVATE_NETWORK=true",
        )
    if "*" in gateway.cors_origins:
        yield Exposure("HEADRACE_GATEWAY__CORS_ORIGINS", "any web site may call", "name the origins of your own pages")


def _of_auth(settings: Settings) -> Iterator[Exposure]:
    auth = settings.auth
    if auth.register_open and "register_open" not in auth.model_fields_set:
        yield Exposure(
            "HEADRACE_AUTH__REGISTER_OPEN",
            "anybody may register, and send and read documents, though nobody said so",
            "set it to false, or to true if that is meant",
        )
    if auth.bootstrap_password is not None:
        password = auth.bootstrap_password.get_secret_value()
        if password.lower() in _DEFAULT_SECRETS or len(password) < _LEAST_PASSWORD:
            yield Exposure(
                "HEADRACE_AUTH__BOOTSTRAP_PASSWORD",
                f"it is a well-known password or shorter than {_LEAST_PASSWORD} characters",
                "make a random one, such as by `openssl rand -base64 24`",
            )


def _of_a_server(settings: Settings, setting: str) -> Iterator[Exposure]:
    variable, name = _SERVERS[setting]
    whole = getattr(settings, setting).get_secret_value()
    # Of the others, a comma parts the hosts of one URL.
    for url in whole.split(",") if setting == "nats_url" else [whole]:
        credentials, _, hosts = urlsplit(url).netloc.rpartition("@")
        user, _, password = map(unquote, credentials.partition(":"))
        # Where the others have a user alone, NATS takes a token.
        secret = password or (user if setting == "nats_url" else "")
        if not secret:
            yield Exposure(variable, f"{name} is asked without a password", _CREDENTIALS_FIX)
        elif secret.lower() in _DEFAULT_SECRETS or password == user:
            yield Exposure(variable, f"the password of {name} is a well-known one", _CREDENTIALS_FIX)
        elif len(secret) < _LEAST_SECRET:
            problem = f"the password of {name} is shorter than {_LEAST_SECRET} characters"
            yield Exposure(variable, problem, _CREDENTIALS_FIX)
        if not settings.private_network and not _encrypted(url) and not all(map(_is_here, hosts.split(","))):
            yield Exposure(
                variable,
                f"{name} is elsewhere, and the connection is not encrypted",
                f"use {_TLS_FIX[setting]}, or say HEADRACE_PRIVATE_NETWORK=true where nobody else sees the network",
            )


_CREDENTIALS_FIX: Final = "give it a user and a random password; `make secrets` shows how"
_TLS_FIX: Final = {
    "nats_url": "tls:// and HEADRACE_NATS__TLS_CA",
    "postgres_url": "?sslmode=verify-full&sslrootcert=FILE",
    "mongo_url": "?tls=true&tlsCAFile=FILE",
    "redis_url": "rediss:// and ?ssl_ca_certs=FILE",
}


def _encrypted(url: str) -> bool:
    parts = urlsplit(url)
    options = parse_qs(parts.query.lower())
    return parts.scheme in _TLS_SCHEMES or any(
        options.get(name, [""])[-1] in values for name, values in _TLS_OPTIONS.items()
    )


def _is_here(host: str) -> bool:
    if host.startswith("["):
        return is_loopback(host.partition("]")[0])
    # A path is a socket of this machine.
    name = host.partition(":")[0]
    return not name or name.startswith("%2f") or is_loopback(name)
