"""Settings as the environment gives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from headrace.settings import Settings

SECRETS = {
    "nats_url": ("HEADRACE_NATS_URL", "NATS_URL"),
    "mongo_url": ("HEADRACE_MONGO_URL", "MONGODB_URI"),
    "postgres_url": ("HEADRACE_POSTGRES_URL", "DATABASE_URL"),
    "redis_url": ("HEADRACE_REDIS_URL", "REDIS_URL"),
}
NAMES = [(field, name) for field, names in SECRETS.items() for name in names]


@pytest.fixture(autouse=True)
def _bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.chdir(tmp_path)


def read(field: str) -> str:
    value: str = getattr(Settings(), field).get_secret_value()
    return value


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_a_url_is_read_under_each_of_its_names(field: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: "scheme://somewhere"})

    assert read(field) == "scheme://somewhere"


@pytest.mark.parametrize(("field", "names"), SECRETS.items())
def test_our_own_name_comes_before_the_common_one(
    field: str, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {names[1]: "theirs", names[0]: "ours"})

    assert read(field) == "ours"


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_a_secret_may_stand_in_a_file(field: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setattr(os, "environ", {f"{name}_FILE": str(tmp_path / "secret")})

    assert read(field) == "from a file"


def test_the_value_itself_comes_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file")
    monkeypatch.setattr(os, "environ", {"NATS_URL": "direct", "NATS_URL_FILE": str(tmp_path / "secret")})

    assert read("nats_url") == "direct"


def test_a_nested_secret_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("pass word\n")
    name = "HEADRACE_AUTH__BOOTSTRAP_PASSWORD_FILE"
    monkeypatch.setattr(os, "environ", {name: str(tmp_path / "secret")})

    password = Settings().auth.bootstrap_password

    assert password is not None
    assert password.get_secret_value() == "pass word"


def test_the_signing_key_s_file_stays_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HEADRACE_AUTH__SIGNING_KEY_FILE": "/nowhere/key.pem"})

    assert Settings().auth.signing_key_file == Path("/nowhere/key.pem")


def test_a_missing_secret_file_is_an_error_and_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"DATABASE_URL_FILE": "/nowhere/at/all"})

    with pytest.raises(FileNotFoundError):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_NATS__PING_SECOND", "5"),
        ("HEADRACE_GATEWAY__PROT", "80"),
        ("HEADRACE_GATEWAY__PORT", "65536"),
        ("HEADRACE_GATEWAY__PORT", "web"),
        ("HEADRACE_NATS__PING_SECONDS", "0"),
        ("HEADRACE_BLOCK__MAX_BYTES", "1000000"),
        ("HEADRACE_WORKERS__PREFETCH_BYTES", "1024"),
        ("HEADRACE_NAMESPACE", "Has.Dots"),
        ("HEADRACE_LOG__LEVEL", "loud"),
    ],
)
def test_an_unknown_or_impossible_setting_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: value})

    with pytest.raises(ValidationError):
        Settings()


def test_the_environment_comes_before_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("HEADRACE_GATEWAY__PORT=1\nHEADRACE_LOG__LEVEL=debug\n")
    monkeypatch.setattr(os, "environ", {"HEADRACE_GATEWAY__PORT": "2"})

    assert (Settings().gateway.port, Settings().log.level) == (2, "debug")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().gateway.port = 1  # type: ignore[misc]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"DATABASE_URL": "postgresql://me:hunter2@db/x", "NATS_URL": "nats://hunter2@n"})

    assert "hunter2" not in repr(Settings()) + str(Settings()) + Settings().model_dump_json()
