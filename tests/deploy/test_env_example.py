"""The committed .env.example is what the settings say, and is read back as the defaults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.env_example import env_example, settings_of
from headrace.settings import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_committed_file_is_up_to_date() -> None:
    assert EXAMPLE.read_text() == env_example(), "run `make env-example`"


def test_every_setting_has_a_line_and_a_sentence() -> None:
    lines = EXAMPLE.read_text().splitlines()
    settings = list(settings_of(Settings.model_fields))

    assert len(settings) == sum(line.startswith("#HEADRACE_") for line in lines)
    for setting in settings:
        line = next(number for number, line in enumerate(lines) if line.startswith(f"#{setting.name}="))
        assert setting.field.description
        assert lines[line - 1].startswith(f"# {setting.field.description}")


def test_its_values_are_read_back_as_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.chdir(tmp_path)
    defaults = Settings()
    set_lines = [
        line.removeprefix("#")
        for line in EXAMPLE.read_text().splitlines()
        if line.startswith("#HEADRACE_") and not line.endswith("=")
    ]
    (tmp_path / ".env").write_text("\n".join(set_lines))

    assert Settings() == defaults


def test_a_changed_line_changes_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("HEADRACE_GATEWAY__PORT=9090\n")

    assert Settings().gateway.port == 9090
