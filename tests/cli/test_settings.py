"""Settings as a user meets them: masked, explained, and traced to where they were set."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from cli.settings import (
    Variables,
    all_settings,
    explain,
    mask_url,
    origin_of,
    shown,
    unknown_variables,
)
from headrace.settings import Settings
from tests.cli.stand_in import headrace

BY_NAME = {setting.name: setting for setting in all_settings()}


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("nats://h:4222", "nats://h:4222"),
        ("nats://t0ken@h:4222", "nats://***@h:4222"),
        ("nats://u:p@a:1,nats://u:p@b:2", "nats://u:***@a:1,nats://u:***@b:2"),
        ("postgresql://u:p@h/d?sslpassword=s&x=1", "postgresql://u:***@h/d?sslpassword=***&x=1"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("mongodb://u:p%40x@a,b:2/d?authSource=admin", "mongodb://u:***@a,b:2/d?authSource=admin"),
        ("redis://:p@h/0", "redis://:***@h/0"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/x@h/d", "***"),
        ("u:p@h", "***"),
    ],
)
def test_urls_are_shown_without_what_is_secret(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_secrets_that_are_no_urls_are_not_shown_at_all() -> None:
    setting = BY_NAME["HEADRACE_AUTH__BOOTSTRAP_PASSWORD"]

    assert setting.secret
    assert shown(setting, SecretStr("hunter2")) == "***"


@pytest.mark.parametrize(
    ("environment", "dotenv", "origin"),
    [
        ({}, {}, "default"),
        ({"HEADRACE_NATS_URL": "x"}, {"HEADRACE_NATS_URL": "y"}, "environment: HEADRACE_NATS_URL"),
        ({}, {"HEADRACE_NATS_URL": "y"}, ".env: HEADRACE_NATS_URL"),
        ({"NATS_URL": "x"}, {}, "environment: NATS_URL"),
        ({"NATS_URL_FILE": "/s/nats"}, {}, "file /s/nats: NATS_URL_FILE"),
        ({"NATS_URL_FILE": "/s/nats", "NATS_URL": "x"}, {}, "environment: NATS_URL"),
    ],
)
def test_a_value_is_traced_to_where_it_was_set(
    environment: dict[str, str], dotenv: dict[str, str], origin: str
) -> None:
    assert origin_of(BY_NAME["HEADRACE_NATS_URL"], Variables(environment, dotenv)) == origin


def test_a_value_may_come_with_its_group() -> None:
    variables = Variables({"HEADRACE_GATEWAY": '{"port": 1}'}, {})

    assert origin_of(BY_NAME["HEADRACE_GATEWAY__PORT"], variables) == "environment: HEADRACE_GATEWAY"
    assert origin_of(BY_NAME["HEADRACE_GATEWAY__HOST"], variables) == "default"


def test_a_variable_that_means_nothing_is_named_with_what_was_meant() -> None:
    known = {"HEADRACE_URL": "x", "HEADRACE_TOKEN": "x", "HEADRACE_NATS_URL_FILE": "x", "HEADRACE_GATEWAY": "{}"}
    variables = Variables({**known, "HEADRACE_NAMESPCE": "x", "OTHER": "x"}, {"HEADRACE_QQQ": "x"})

    assert unknown_variables(variables) == {"HEADRACE_NAMESPCE": "HEADRACE_NAMESPACE", "HEADRACE_QQQ": ""}


def test_every_setting_has_its_sentence() -> None:
    assert all(setting.field.description for setting in all_settings())
    assert "HEADRACE_GATEWAY__PORT" in BY_NAME
    assert BY_NAME["HEADRACE_MONGO_URL"].aliases == ("MONGODB_URI",)


def test_a_broken_rule_names_the_variable_the_rule_and_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_GATEWAY__PORT", "99999")
    monkeypatch.setenv("HEADRACE_GATEWAY__PROT", "1")
    with pytest.raises(ValidationError) as raised:
        Settings()

    lines = explain(raised.value)
    assert lines is not None
    assert lines[0].startswith("HEADRACE_GATEWAY__PORT=99999: Input should be less than or equal to 65535.")
    assert "at most 65535" in lines[0]
    assert lines[0].endswith("Fix: change it, or remove it for the default 8080.")
    assert lines[1] == "HEADRACE_GATEWAY__PROT: there is no such setting. Fix: did you mean HEADRACE_GATEWAY__PORT?"


def test_another_models_error_is_not_about_the_settings() -> None:
    assert explain(ValidationError.from_exception_data("Invoice", [])) is None


@pytest.mark.parametrize(
    ("environment", "dotenv", "words"),
    [
        ({"HEADRACE_LOG__LEVEL": "loud"}, "", ["HEADRACE_LOG__LEVEL=loud", "Fix:"]),
        ({}, "HEADRACE_GATEWAY__PORT=x", ["HEADRACE_GATEWAY__PORT=x (in .env)", "Fix:"]),
        ({"HEADRACE_GATEWAY__CORS_ORIGINS": "*"}, "", ["HEADRACE_GATEWAY__CORS_ORIGINS: this is not JSON", "Fix:"]),
        ({"HEADRACE_GATEWAY": "8080"}, "", ["HEADRACE_GATEWAY: ", "Fix: set its parts"]),
        ({"DATABASE_URL_FILE": "/nowhere"}, "", ["DATABASE_URL_FILE=/nowhere: No such file", "Fix:"]),
    ],
)
async def test_a_service_with_wrong_settings_says_so_and_exits_2(
    tmp_path: Path, environment: dict[str, str], dotenv: str, words: list[str]
) -> None:
    (tmp_path / ".env").write_text(dotenv)
    result = await headrace(tmp_path, "workers", environment=environment)

    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    assert all(word in result.err for word in words)


async def test_config_shows_values_and_origins_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADRACE_LOG__LEVEL=debug\n")
    environment = {
        "DATABASE_URL": "postgresql://ada:hunter2@h/d",
        "HEADRACE_AUTH__BOOTSTRAP_PASSWORD": "hunter2",
        "HEADRACE_PORT": "1",
    }
    text = await headrace(tmp_path, "config", "--explain", environment=environment)
    rows = (await headrace(tmp_path, "config", "--json", environment=environment)).lines[0]

    assert text.code == 0
    assert "hunter2" not in text.out + text.err + str(rows)
    assert "HEADRACE_PORT is set and is no setting" in text.err
    found = {row["name"]: (row["value"], row["origin"]) for row in rows}
    assert found["HEADRACE_POSTGRES_URL"] == ("postgresql://ada:***@h/d", "environment: DATABASE_URL")
    assert found["HEADRACE_LOG__LEVEL"] == ("debug", ".env: HEADRACE_LOG__LEVEL")
    assert found["HEADRACE_GATEWAY__PORT"] == (8080, "default")
    assert "# port the gateway binds; 0 takes a free one (at least 0, at most 65535)" in text.out.splitlines()
