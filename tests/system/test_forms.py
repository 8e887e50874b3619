"""Forms and results as their user meets them, before everything that is real."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
from collections.abc import AsyncIterator

import pytest

from headrace.registry import load_pipelines
from tests.gateway.browser import Browser, browsing
from tests.system.system import ROOT, System
from tests.waiting import eventually

PASSWORD = "a mill needs water"
HOSTILE = "\"'><script>alert(1)</script>"


@pytest.fixture
async def browser(system: System) -> AsyncIterator[Browser]:
    """A browser of a new user who is signed in."""
    account = {"username": f"u{secrets.token_hex(4)}", "password": PASSWORD}
    async with system.session.post(f"{system.url}/v1/auth/register", json=account) as answer:
        assert answer.status == 201
    async with browsing(system.url) as browser:
        await browser.sign_in(account["username"], PASSWORD)
        assert browser.page.url == "/forms"
        yield browser


async def test_a_record_goes_from_a_form_to_the_results(system: System, browser: Browser) -> None:
    before = await system.drained("students")
    form = await browser.open("/forms/students")
    example = load_pipelines()["students"].example
    typed = {f"/{name}": str(value) for name, value in example.items()}

    page = await browser.submit(fields={**typed, "/age": "40"})
    assert (page.status, page.fields["/age"], page.fields["/school"]) == (422, ["40"], ["GP"])
    assert "Age: This should be less than or equal to 22." in page.words

    page = await browser.submit(fields=typed)
    receipt = page.url
    browser.page = form
    # The button pressed twice, and the answer's page loaded again.
    assert (await browser.submit(fields=typed)).url == receipt

    async def stored() -> bool:
        return "It is in every store and has been counted." in (await browser.open(receipt)).words

    await eventually(stored, seconds=60)
    after = await system.drained("students")
    assert after["accepted"] - before["accepted"] in (1, 2)
    assert after["stored"]["facts"] - before["stored"]["facts"] == 1

    page = await browser.open("/results/students")
    assert page.status == 200
    assert receipt in page.links
    for title in ("By school", "Final marks by school", "Per minute", "Latest documents"):
        assert title in page.words


async def test_what_is_refused_behind_the_door_is_told_on_its_receipt(system: System, browser: Browser) -> None:
    await browser.open("/forms/searches")
    example = {**load_pipelines()["searches"].example, "hotel_advertisers": json.dumps({HOSTILE: []})}
    page = await browser.submit(fields={f"/{name}": str(value) for name, value in example.items()})

    async def refused() -> bool:
        return "No advertiser in hotel_advertisers has an offer" in (await browser.open(page.url)).words

    await eventually(refused, seconds=60)
    assert "script" not in browser.page.tags


async def test_a_session_dies_with_its_sign_out_everywhere_and_no_log_knows_it(
    system: System, browser: Browser
) -> None:
    secret = browser.cookie("headrace_session")
    assert secret is not None
    await browser.open("/forms")
    assert (await browser.submit("/logout")).url == "/login"
    async with system.session.get(
        f"{system.url}/forms", headers={"Cookie": f"headrace_session={secret}"}, allow_redirects=False
    ) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/login?next=%2Fforms&over=1")

    logs = everything_logged(system)
    assert secret not in logs
    assert PASSWORD not in logs
    assert "hrr_" not in logs


async def test_a_form_can_be_sent_from_a_shell_as_the_documentation_says(system: System) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "forms.md").read_text(), re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", commands, env={**os.environ, "URL": system.url}, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()

    assert process.returncode == 0
    assert re.search(rb'<h1 class="state (stored|accepted)">', told), told


def everything_logged(system: System) -> str:
    found = [path.read_text() for path in (system.directory / "logs").glob("*.log")]
    assert found
    return "".join(found)
