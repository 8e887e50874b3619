"""`headrace user add|ls|passwd|disable|enable`, `token`, `key new|ls|revoke|rotate-signing`: what opens the door.

Users and the signing key are managed over NATS, whose credentials make an operator; tokens and API keys over HTTP, like
any client.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.local import reached
from cli.options import Json, Token, Url
from cli.output import console, write_json
from cli.problems import say

if TYPE_CHECKING:
    from collections.abc import Sequence


users = typer.Typer(name="user", help="Manage users; needs NATS, as the services do.", no_args_is_help=True)
keys = typer.Typer(name="key", help="Manage API keys, tokens for machines, and the signing key.", no_args_is_help=True)

Username = Annotated[str, typer.Argument(help="name of the user")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="what it may do, such as documents:write or documents:write:PIPELINE; repeatable"),
]

# In the audit, whoever holds the credentials of NATS.
_OPERATOR = "operator"


@users.command("add")
def add_user(username: Username, scope: Scopes = None, as_json: Json = False) -> None:
    """Add a user; the password is asked for, or read from stdin when that is no terminal.

    Without --scope the user may write and read documents and analytics, as one who registers.
    """
    body = {"username": username, "password": _password(confirm=True), **({"scopes": scope} if scope else {})}
    user = asyncio.run(_ask_auth("users.add", body))
    if as_json:
        write_json(user)
    else:
        say(f"{user['username']} may {', '.join(user['scopes'])}.")


@users.command("ls")
def list_users(as_json: Json = False) -> None:
    """List all users."""
    found = asyncio.run(_ask_auth("users.list", {}))
    if as_json:
        write_json(found)
        return
    _table(
        ("user", "scopes", "since", "disabled"),
        [
            (user["username"], " ".join(user["scopes"]), user["created_at"][:19], (user["disabled_at"] or "")[:19])
            for user in found
        ],
        empty="There are no users.",
    )


@users.command("passwd")
def set_password(username: Username) -> None:
    """Set a user's password, asked for or read from stdin; all sessions of the user end within a second."""
    asyncio.run(_ask_auth("users.password", {"username": username, "password": _password(confirm=True)}))
    say(f"{username} has a new password and has to log in with it.")


@users.command("disable")
def disable_user(username: Username, as_json: Json = False) -> None:
    """Disable a user: no login any more; sessions and API keys end within a second, and for good."""
    user = asyncio.run(_ask_auth("users.disable", {"username": username}))
    if as_json:
        write_json(user)
    else:
        say(f"{user['username']} is disabled; every session and API key has ended.")


@users.command("enable")
def enable_user(username: Username, as_json: Json = False) -> None:
    """Enable a user again, who has to log in anew and to make new API keys."""
    user = asyncio.run(_ask_auth("users.enable", {"username": username}))
    if as_json:
        write_json(user)
    else:
        say(f"{user['username']} may log in again; API keys have to be made anew.")


def token(username: Username, scope: Scopes = None, as_json: Json = False, url: Url = None) -> None:
    """Log in and write an access token to stdout; the password is asked for, or read from stdin.

    With --json the refresh token and the seconds it all lasts come along.
    """
    body = {"username": username, "password": _password(confirm=False), "scope": " ".join(scope or [])}
    pair = asyncio.run(_ask_gateway("POST", ("auth", "token"), body, url, None))
    if as_json:
        write_json(pair)
    else:
        typer.echo(pair["access_token"])


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="what the key is for")],
    scope: Annotated[list[str], typer.Option("--scope", help="what it may do, no more than you; repeatable")],
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="how long it is good; else until revoked")] = None,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Make an API key and write it to stdout, this once."""
    body = {"name": name, "scopes": scope, **({"expires_in": days * 86400} if days else {})}
    made = asyncio.run(_ask_gateway("POST", ("auth", "keys"), body, url, token))
    if as_json:
        write_json(made)
        return
    typer.echo(made["key"])
    say(f"This is key {made['id']}; it is not shown again. `headrace key revoke {made['id']}` ends it.")


@keys.command("ls")
def list_keys(as_json: Json = False, url: Url = None, token: Token = None) -> None:
    """List your API keys, without their secrets."""
    found = asyncio.run(_ask_gateway("GET", ("auth", "keys"), None, url, token))
    if as_json:
        write_json(found)
        return
    _table(
        ("id", "name", "scopes", "made", "expires"),
        [
            (key["id"], key["name"], " ".join(key["scopes"]), key["created_at"][:19], (key["expires_at"] or "")[:19])
            for key in found
        ],
        empty="You have no keys; `headrace key new` makes one.",
    )


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="as `key ls` tells it")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Revoke an API key; every gateway refuses it within a second."""
    asyncio.run(_ask_gateway("DELETE", ("auth", "keys", key_id), None, url, token))
    say(f"Key {key_id} is revoked.")


@keys.command("rotate-signing")
def rotate_signing_key(as_json: Json = False) -> None:
    """Make a new key to sign access tokens with; needs NATS. Tokens that are out stay good until they expire.

    It signs a while later, when every gateway has had time to learn of it. Keys in a file are changed there.
    """
    made = asyncio.run(_ask_auth("signing.rotate", {}))
    if as_json:
        write_json(made)
    else:
        say(f"Key {made['kid']} signs from {made['signs_from']}; what older keys have signed stays good.")


def _password(*, confirm: bool) -> str:
    """Return the password; never from the arguments, which every user of the machine can read."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))


async def _ask_gateway(method: str, where: Sequence[str], body: object, url: str | None, token: str | None) -> Any:
    import msgspec

    from cli.api import Api, find, path

    async with Api(find(url, token)) as api:
        answer = await api.ask(
            method,
            path(*where),
            body=None if body is None else msgspec.json.encode(body),
            headers={"Content-Type": "application/json"},
        )
    if answer.status >= 400:
        raise answer.error
    return answer.body


async def _ask_auth(endpoint: str, body: object) -> Any:
    import msgspec

    from headrace import telemetry
    from headrace.errors import HeadraceError
    from headrace.messaging.connection import connect
    from headrace.messaging.mesh import ask
    from headrace.settings import Settings
    from headrace.tokens import ADMIN, PRINCIPAL_HEADER, Principal

    settings = reached(Settings())
    # Each attempt to connect is a warning; here the last one's failure says it all, and stdout is for data.
    telemetry.configure_logs(settings.log.model_copy(update={"level": "error"}), "cli")
    operator = Principal(_OPERATOR, frozenset({ADMIN}), "", "", 0)
    failure: HeadraceError | None = None
    async with connect(settings, "headrace-cli") as bus:
        try:
            reply = await ask(
                bus,
                settings.namespace,
                "auth",
                endpoint,
                msgspec.json.encode(body),
                headers={PRINCIPAL_HEADER: operator.encode()},
            )
        except HeadraceError as error:
            # Raised out here it would arrive in a group.
            failure = error
    if failure:
        raise failure
    return msgspec.json.decode(reply.body) if reply.body else None


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not rows:
        say(empty)
        return
    table = Table(box=SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)
