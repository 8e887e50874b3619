"""What production mode refuses, each with its fix; and nothing of a secret is in what it says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headrace.exposure import ExposedError, check, exposures, is_loopback
from headrace.settings import AuthSettings, GatewaySettings, Settings

ROOT = Path(__file__).parents[2]
SOUND: dict[str, Any] = {
    "production": True,
    "nats_url": SecretStr("nats://gateway:3f9c27ab81d0@127.0.0.1:4222"),
    "auth": AuthSettings(register_open=False),
}
FILE = Path("/etc/headrace/tls.pem")


def settings(**changes: Any) -> Settings:
    return Settings(**{**SOUND, **changes})


def test_what_is_sound_may_start() -> None:
    check(settings())
    check(settings(auth=AuthSettings(register_open=True)))
    check(settings(gateway=GatewaySettings(host="0.0.0.0", tls_certificate=FILE)))
    check(settings(gateway=GatewaySettings(host="0.0.0.0"), private_network=True))
    check(settings(nats_url=SecretStr("tls://gateway:3f9c27ab81d0@nats.example:4222")))
    check(settings(nats_url=SecretStr("nats://3f9c27ab81d03f9c27ab81d0@127.0.0.1:4222")))
    check(settings(postgres_url=SecretStr("postgresql://hr:3f9c27ab81d0@db.example/hr?sslmode=verify-full")))
    check(settings(mongo_url=SecretStr("mongodb://hr:3f9c27ab81d0@m1.example,m2.example/hr?tls=true")))
    check(settings(redis_url=SecretStr("rediss://:3f9c27ab81d0@redis.example/0")))
    check(settings(nats_url=SecretStr("nats://127.0.0.1:4222")), own=["nats_url"])


def test_outside_production_everything_may_start() -> None:
    check(Settings(gateway=GatewaySettings(host="0.0.0.0")))


EXPOSED: dict[str, tuple[str, dict[str, Any]]] = {
    "points at which to die": ("HEADRACE_FAILPOINTS", {"failpoints": FILE}),
    "HTTP for everybody": ("HEADRACE_GATEWAY__HOST", {"gateway": GatewaySettings(host="0.0.0.0")}),
    "HTTP on IPv6": ("HEADRACE_GATEWAY__HOST", {"gateway": GatewaySettings(host="::")}),
    "HTTP by name": ("HEADRACE_GATEWAY__HOST", {"gateway": GatewaySettings(host="gateway.example")}),
    "any origin": ("HEADRACE_GATEWAY__CORS_ORIGINS", {"gateway": GatewaySettings(cors_origins=("*",))}),
    "registration that nobody opened": ("HEADRACE_AUTH__REGISTER_OPEN", {"auth": AuthSettings()}),
    "a short first password": (
        "HEADRACE_AUTH__BOOTSTRAP_PASSWORD",
        {"auth": AuthSettings(register_open=False, bootstrap_password=SecretStr("w4terwheel!"))},
    ),
    "NATS without a password": ("HEADRACE_NATS_URL", {"nats_url": SecretStr("nats://127.0.0.1:4222")}),
    "the second NATS without one": (
        "HEADRACE_NATS_URL",
        {"nats_url": SecretStr("nats://gateway:3f9c27ab81d0@127.0.0.1:4222,nats://127.0.0.1:4223")},
    ),
    "NATS with a well-known one": ("HEADRACE_NATS_URL", {"nats_url": SecretStr("nats://nats:Password@127.0.0.1")}),
    "NATS elsewhere in the clear": (
        "HEADRACE_NATS_URL",
        {"nats_url": SecretStr("nats://gateway:3f9c27ab81d0@nats.example:4222")},
    ),
    "Postgres with its user as password": (
        "HEADRACE_POSTGRES_URL",
        {"postgres_url": SecretStr("postgresql://headrace_1:headrace_1@127.0.0.1/headrace")},
    ),
    "Postgres without a password": (
        "HEADRACE_POSTGRES_URL",
        {"postgres_url": SecretStr("postgresql://headrace@127.0.0.1/headrace")},
    ),
    "Postgres elsewhere, TLS if it likes": (
        "HEADRACE_POSTGRES_URL",
        {"postgres_url": SecretStr("postgresql://hr:3f9c27ab81d0@db.example/hr?sslmode=prefer")},
    ),
    "MongoDB with one of its hosts elsewhere": (
        "HEADRACE_MONGO_URL",
        {"mongo_url": SecretStr("mongodb://hr:3f9c27ab81d0@127.0.0.1,m2.example/hr")},
    ),
    "Redis with a short one": ("HEADRACE_REDIS_URL", {"redis_url": SecretStr("redis://:k9x2@127.0.0.1/0")}),
    "Redis with an escaped well-known one": (
        "HEADRACE_REDIS_URL",
        {"redis_url": SecretStr("redis://:p%61ssword@127.0.0.1/0")},
    ),
}


@pytest.mark.parametrize("case", sorted(EXPOSED))
def test_what_is_left_open_is_named_with_its_fix_and_without_the_secret(case: str) -> None:
    setting, changes = EXPOSED[case]
    [found] = exposures(settings(**changes))

    assert found.setting == setting
    assert found.fix
    with pytest.raises(ExposedError) as refusal:
        check(settings(**changes))
    for secret in ("3f9c27ab81d0", "w4terwheel!", "k9x2", "headrace_1", "p%61ssword"):
        assert secret not in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_only_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example")


async def test_a_service_does_not_start_with_anything_left_open() -> None:
    status, said = await run("gateway", HEADRACE_GATEWAY__HOST="0.0.0.0")

    assert status == 1
    for setting in ("HEADRACE_GATEWAY__HOST", "HEADRACE_AUTH__REGISTER_OPEN", "HEADRACE_NATS_URL"):
        assert setting in said
    assert said.count("Fix: ") == 3
    assert "Traceback" not in said


async def test_doctor_names_each_and_its_fix() -> None:
    status, said = await run("doctor")

    assert status == 1
    assert "✗ HEADRACE_AUTH__REGISTER_OPEN" in said
    assert "✗ HEADRACE_NATS_URL" in said


async def run(*command: str, **environment: str) -> tuple[int | None, str]:
    """Run a command in production mode and nothing else."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *command),
        cwd=ROOT / "tests",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HEADRACE_PRODUCTION": "true", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()
