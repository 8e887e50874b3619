"""`headrace up`, and `headrace gateway|auth|workers|analytics|mqtt-bridge`: one service, as containers run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.options import DataDir, Port
from cli.problems import EXIT_USAGE, fail

if TYPE_CHECKING:
    from headrace.process import Service
    from headrace.settings import Settings


def up(
    data_dir: DataDir = Path(".headrace"),
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="one line on stdout when ready")] = False,
    reload: Annotated[bool, typer.Option("--reload", help="take up pipeline files as they change")] = False,
) -> None:
    """Run embedded servers and all services in the foreground; a server whose URL is set is used instead."""
    import asyncio

    from cli.up import up as run

    raise typer.Exit(asyncio.run(run(data_dir, port, as_json, reload=reload)))


def gateway() -> None:
    """Run the gateway: the HTTP door."""
    settings = _settings()
    from gateway.service import run

    _serve("gateway", settings, run)


def auth() -> None:
    """Run the auth service: accounts, tokens, keys."""
    settings = _settings()
    from auth.service import run

    # It knows no pipeline.
    _serve("auth", settings.model_copy(update={"reload": False}), run)


def analytics() -> None:
    """Run the analytics service: documents, metrics, ledger, dead letters."""
    settings = _settings()
    from analytics.service import run

    _serve("analytics", settings, run)


def workers(
    stages: Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...", help="by default all")] = None,
) -> None:
    """Run the stages that refine, store and count: refine, documents, facts, journal, dead."""
    from functools import partial

    settings = _settings()
    from headrace.topology import STAGES
    from workers.service import run

    chosen = list(dict.fromkeys(stages or STAGES))
    if unknown := [name for name in chosen if name not in STAGES]:
        fail(f"there is no stage {unknown[0]!r}; there are: {', '.join(STAGES)}", exit_code=EXIT_USAGE)
    _serve("workers", settings, partial(run, stages=chosen))


def mqtt_bridge(
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="mqtt://user:password@host:1883, mqtts:// for TLS")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="with {pipeline} as one of its levels")] = None,
    client_id: Annotated[str | None, typer.Option(metavar="NAME", help="of the session that the broker keeps")] = None,
) -> None:
    """Bring documents from an MQTT broker; each is acknowledged there once it is on disk here."""
    from pydantic import SecretStr

    from cli.local import told
    from headrace.settings import MqttSettings

    settings = _settings()
    given = {"url": broker, "topic": topic, "client_id": client_id}
    mqtt = MqttSettings.model_validate(
        {**settings.mqtt.model_dump(), **{name: value for name, value in given.items() if value is not None}}
    )
    changes: dict[str, object] = {"mqtt": mqtt}
    if "nats_url" not in settings.model_fields_set and (url := told().get("nats_url")):
        changes["nats_url"] = SecretStr(url)
    settings = settings.model_copy(update=changes)
    from gateway.bridge.service import run

    _serve("bridge", settings, run)


def _settings() -> Settings:
    """Return the settings; read before the service is imported, so that a wrong one is said at once."""
    from headrace.settings import Settings

    return Settings()


def _serve(name: str, settings: Settings, run: Service) -> NoReturn:
    """Run until SIGTERM; exit 0 after draining, 1 when the service cannot go on, 2 when the settings are wrong."""
    from headrace.process import run_service

    raise typer.Exit(run_service(name, settings, run))
