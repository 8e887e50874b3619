"""The Dockerfile: clean by hadolint, and an image without root, build tools or a favourite service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LAYERS = ("requirements/build.txt", "requirements/runtime.txt", "requirements/analysis.txt")
FINAL_STAGE = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[-1]


def test_hadolint_finds_nothing() -> None:
    checked = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_every_install_is_pinned_by_hash_or_takes_nothing_from_a_registry() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^\\\n]*", DOCKERFILE)

    assert installs
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []


def test_an_image_has_what_every_service_needs_and_with_a_build_argument_the_analysis_too() -> None:
    assert re.findall(r"^ARG (\w+)=(\w+)$", DOCKERFILE, re.MULTILINE) == [("REQUIREMENTS", "runtime")]
    assert re.findall(r"-r (\S+)", DOCKERFILE) == ["requirements/build.txt", '"requirements/$REQUIREMENTS.txt"']
    assert re.findall(r"^COPY (requirements/.*) requirements/$", DOCKERFILE, re.MULTILINE) == [" ".join(LAYERS)]


def test_the_image_runs_headrace_as_a_numbered_user_without_build_tools() -> None:
    user = re.search(r"^USER (\d+):\d+$", FINAL_STAGE, re.MULTILINE)

    assert user
    assert int(user[1]) >= 10_000
    assert 'ENTRYPOINT ["headrace"]' in FINAL_STAGE
    assert "pip" not in FINAL_STAGE
    assert "apt-get" not in FINAL_STAGE


def test_the_health_check_asks_the_process_itself_whatever_it_serves() -> None:
    check = re.search(r"^HEALTHCHECK .*\n.*CMD (.*)$", FINAL_STAGE, re.MULTILINE)

    assert check
    assert "HEADRACE_METRICS_PORT" in check[1]
    assert "/healthz" in check[1]


def test_the_build_sees_every_package_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    seen = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert "*" in lines
    packaged = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench", "deploy", "docs"}
    assert seen >= packaged | {"LICENSE", "pyproject.toml"}
    assert {path for path in seen if path.startswith("requirements/")} == set(LAYERS)
    assert not any(path.startswith(("deploy", ".env", ".git")) for path in seen)
