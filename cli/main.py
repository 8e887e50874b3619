"""The `headrace` command: every command by name; what a command needs is imported when it runs."""

from __future__ import annotations

from typing import Any

import typer

from cli import (
    analyse,
    audit,
    auth,
    config,
    dead,
    demo,
    doctor,
    documents,
    jobs,
    load,
    produce,
    rebuild,
    reconcile,
    schema,
    services,
    status,
)
from cli.problems import Commands, close_stdout

_EPILOG = (
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage or settings, 130 Ctrl-C; status and load have more of "
    "their own. stdout is data, stderr is talk."
)

app = typer.Typer(
    name="headrace",
    help="JSON documents over HTTP, durable before the answer, stored exactly once in effect, counted live.",
    epilog=_EPILOG,
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        close_stdout()


def _register(panel: str, *commands: Any) -> None:
    for command in commands:
        app.command(rich_help_panel=panel)(command)


_register("Run everything", services.up, demo.demo)
_register("Documents", documents.send, documents.get, documents.tail, produce.produce, analyse.analyse, load.load)
_register("Look", status.status, doctor.doctor, reconcile.reconcile, config.config, config.version)
app.add_typer(dead.app, rich_help_panel="Look")
app.add_typer(schema.app, rich_help_panel="Look")
app.add_typer(rebuild.app, rich_help_panel="Look")
app.add_typer(jobs.app, rich_help_panel="Look")
_register("Accounts", auth.token, audit.audit)
app.add_typer(auth.users, rich_help_panel="Accounts")
app.add_typer(auth.keys, rich_help_panel="Accounts")
_register(
    "Run one service", services.gateway, services.auth, services.workers, services.analytics, services.mqtt_bridge
)


if __name__ == "__main__":
    main()
