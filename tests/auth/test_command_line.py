"""`headrace user`, `token` and `key`, against a real auth service behind a door that only carries requests on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web

from headrace.errors import HeadraceError, problem_of
from headrace.messaging.mesh import ask
from headrace.settings import Settings
from headrace.tokens import PRINCIPAL_HEADER
from tests.auth.system import PASSWORD, Auth, running, with_auth

ROOT = Path(__file__).parents[2]

ENDPOINTS = {
    ("POST", "/v1/auth/token"): "token",
    ("POST", "/v1/auth/keys"): "keys.create",
    ("GET", "/v1/auth/keys"): "keys.list",
}


@contextlib.asynccontextmanager
async def door(auth: Auth) -> AsyncIterator[str]:
    """Carry HTTP to the mesh, as far as these commands go; yields the URL."""

    async def carry(request: web.Request) -> web.Response:
        headers, payload = {}, await request.read()
        endpoint = ENDPOINTS.get((request.method, request.path), "keys.delete")
        if endpoint == "keys.delete":
            payload = msgspec.json.encode({"id": request.path.rpartition("/")[2]})
        try:
            if bearer := request.headers.get("Authorization", "").removeprefix("Bearer "):
                headers[PRINCIPAL_HEADER] = (await auth.verified(bearer)).encode()
            reply = await ask(auth.bus, auth.settings.namespace, "auth", endpoint, payload, headers=headers)
        except HeadraceError as error:
            return web.Response(status=error.status, body=msgspec.json.encode(problem_of(error)))
        return web.Response(status=reply.status, body=reply.body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", carry)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str


async def headrace(auth: Auth, *arguments: str, stdin: str = "", folder: Path | None = None) -> Result:
    """Run a command as a shell would.

    Args:
        folder: where to run it with no NATS in the environment; else NATS is there.
    """
    variables = {"HEADRACE_NAMESPACE": auth.settings.namespace, "PYTHONPATH": str(ROOT)}
    if folder is None:
        variables["HEADRACE_NATS_URL"] = auth.settings.nats_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *arguments),
        env={"PATH": os.environ["PATH"], **variables},
        cwd=folder or ROOT / "tests",
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    stdout, stderr = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Result(process.returncode, stdout.decode(), stderr.decode())


async def test_an_operator_adds_users_and_lists_them(auth: Auth) -> None:
    plain = await headrace(auth, "user", "add", "ada", stdin=f"{PASSWORD}\n")
    narrow = await headrace(
        auth, "user", "add", "bob", "--scope", "documents:write:invoices", "--json", stdin=f"{PASSWORD}\n"
    )
    listed = await headrace(auth, "user", "ls", "--json")

    assert (plain.exit_code, plain.stdout) == (0, "")
    assert json.loads(narrow.stdout) == {"username": "bob", "scopes": ["documents:write:invoices"]}
    assert [user["username"] for user in json.loads(listed.stdout)] == ["ada", "bob"]
    assert "ada" in (await headrace(auth, "user", "ls")).stdout
    assert await auth.login("ada")


async def test_an_operator_sets_a_password_disables_and_enables(auth: Auth) -> None:
    await auth.register("ada")
    new = "the wheel turns at dawn"
    changed = await headrace(auth, "user", "passwd", "ada", stdin=f"{new}\n")
    assert (changed.exit_code, changed.stdout) == (0, "")
    assert await auth.login("ada", new)

    disabled = await headrace(auth, "user", "disable", "ada", "--json")
    assert json.loads(disabled.stdout)["disabled_at"]
    assert (await auth.refused("token", {"username": "ada", "password": new})).code == "user_disabled"
    assert json.loads(disabled.stdout)["disabled_at"][:10] in (await headrace(auth, "user", "ls")).stdout

    assert (await headrace(auth, "user", "enable", "ada")).exit_code == 0
    assert await auth.login("ada", new)
    nobody = await headrace(auth, "user", "disable", "eve")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert "no user" in nobody.stderr


async def test_what_is_refused_is_said_on_stderr(auth: Auth) -> None:
    weak = await headrace(auth, "user", "add", "ada", stdin="short\n")

    assert (weak.exit_code, weak.stdout) == (1, "")
    assert "too_short" in weak.stderr


async def test_without_an_auth_service_the_command_says_so(settings: Settings) -> None:
    async with running(settings) as auth:
        lonely = Auth(auth.bus, settings.model_copy(update={"namespace": "nobody_"}))
        result = await headrace(lonely, "user", "ls")

    assert result.exit_code == 1
    assert "auth service" in result.stderr


async def test_the_nats_of_an_up_in_this_folder_is_found(auth: Auth, tmp_path: Path) -> None:
    (tmp_path / ".headrace").mkdir()
    up = {"nats_url": auth.settings.nats_url.get_secret_value()}
    (tmp_path / ".headrace/up.json").write_text(json.dumps(up))

    result = await headrace(auth, "user", "ls", "--json", folder=tmp_path)

    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


async def test_a_login_on_the_command_line_gives_a_token(auth: Auth) -> None:
    await auth.register("ada")
    async with door(auth) as url:
        bare = await headrace(auth, "token", "ada", "--url", url, stdin=f"{PASSWORD}\n")
        whole = await headrace(
            auth, "token", "ada", "--scope", "documents:read", "--json", "--url", url, stdin=f"{PASSWORD}\n"
        )
        wrong = await headrace(auth, "token", "ada", "--url", url, stdin="guess again\n")

    assert (await auth.verified(bare.stdout.strip())).subject == "ada"
    assert json.loads(whole.stdout)["scope"] == "documents:read"
    assert (wrong.exit_code, wrong.stdout) == (1, "")


async def test_keys_are_made_listed_and_revoked(settings: Settings) -> None:
    async with running(with_auth(settings)) as auth, door(auth) as url:
        await auth.register("ada")
        token = (await auth.login("ada"))["access_token"]
        there = ("--url", url, "--token", token)

        made = await headrace(auth, "key", "new", "import", "--scope", "documents:write", "--days", "30", *there)
        (listed,) = json.loads((await headrace(auth, "key", "ls", "--json", *there)).stdout)
        assert (await auth.ask("verify_key", {"key": made.stdout.strip()}))["subject"] == "ada"
        assert (listed["name"], listed["scopes"]) == ("import", ["documents:write"])
        assert listed["id"] in (await headrace(auth, "key", "ls", *there)).stdout

        revoked = await headrace(auth, "key", "revoke", listed["id"], *there)
        unknown = await headrace(auth, "key", "revoke", "0123456789abcdef", *there)

        assert revoked.exit_code == 0
        assert (await auth.refused("verify_key", {"key": made.stdout.strip()})).status == 401
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert json.loads((await headrace(auth, "key", "ls", "--json", *there)).stdout) == []
