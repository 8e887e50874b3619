"""Settings: one typed, frozen object, read once at the top of a process and passed down in parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from headrace.job import parse_schedule, zone_of

ENV_PREFIX = "HEADRACE_"
# What one block or one document may be set to. A dead letter holds all of it in base64, and must fit NATS' 1 MiB.
MAX_BLOCK_BYTES: Final = 600 << 10


class _Group(BaseModel):
    """A named part of the settings; refuses names it does not know, so a typo is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(_Group):
    connect_timeout_seconds: float = Field(5.0, gt=0, description="limit for one attempt to connect")
    ping_seconds: float = Field(5.0, gt=0, description="how often a connection is probed; two missed replies close it")
    down_seconds: float = Field(30.0, gt=0, description="a process whose connection is gone this long exits")
    publish_timeout_seconds: float = Field(5.0, gt=0, description="deadline of one block's PubAck")
    request_timeout_seconds: float = Field(5.0, gt=0, description="deadline of one mesh request")
    replicas: int = Field(1, ge=1, le=5, description="copies of each stream")
    tls_ca: Path | None = Field(
        None, description="PEM file of who signs the servers' certificates; without it, the system's authorities do"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of our own certificate, where the servers ask for one"
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key, if it is not in the same file")


class StreamSettings(_Group):
    raw_max_bytes: int = Field(2 << 30, ge=1 << 16, description="size of RAW on disk; a full stream refuses")
    clean_max_bytes: int = Field(2 << 30, ge=1 << 16, description="size of CLEAN on disk")
    dead_max_bytes: int = Field(1 << 30, ge=1 << 16, description="size of DEAD on disk")
    duplicate_window_seconds: int = Field(
        120, ge=1, description="how long the broker remembers a block's id; it saves work, correctness rests on sinks"
    )
    purge_fill: float = Field(
        0.8, gt=0, lt=1, description="fill above which blocks that every consumer has settled are purged"
    )


class BlockSettings(_Group):
    max_documents: int = Field(1000, ge=1, description="documents in one block")
    max_bytes: int = Field(512 * 1024, ge=1024, le=MAX_BLOCK_BYTES, description="size of one block")


class GatewaySettings(_Group):
    host: str = Field("127.0.0.1", description="address the gateway binds")
    port: int = Field(8080, ge=0, le=65535, description="port the gateway binds; 0 takes a free one")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate and its chain; with it the gateway speaks HTTPS and nothing else"
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key, if it is not in the same file")
    document_max_bytes: int = Field(
        256 * 1024, ge=64, le=MAX_BLOCK_BYTES, description="size of one document; a larger one is refused with 413"
    )
    body_max_bytes: int = Field(16 << 20, ge=1024, description="size of one request body, bulk included")
    bulk_max_documents: int = Field(
        20_000, ge=1, description="documents in one request; more are refused with 413, however small"
    )
    max_depth: int = Field(64, ge=1, le=200, description="nesting of one document")
    header_seconds: float = Field(
        10.0, gt=0, description="time a client has to send its headers; with TLS, as much again for the handshake"
    )
    body_seconds: float = Field(30.0, gt=0, description="time a client has to send its body")
    in_flight_documents: int = Field(50_000, ge=1, description="documents awaiting their PubAck before 503")
    in_flight_bytes: int = Field(128 << 20, ge=1024, description="bytes awaiting their PubAck before 503")
    max_fill: float = Field(0.95, gt=0, le=1, description="fill of RAW above which new documents get 503")
    documents_per_second: float = Field(0, ge=0, description="rate one principal may send before 429; 0 sets no limit")
    burst_seconds: float = Field(2.0, gt=0, description="seconds of rate that a quiet principal may spend at once")
    token_cache_seconds: float = Field(
        30.0, ge=0, description="how long an API key stays verified without asking auth again"
    )
    cors_origins: tuple[str, ...] = Field((), description="origins that browsers may call from")
    secure_cookies: bool = Field(
        False,
        description="whether browsers send the pages' cookies over TLS alone; set it where TLS ends before us. With a "
        "certificate of our own they always do",
    )
    session_seconds: int = Field(
        12 * 3600, ge=60, description="how long somebody stays signed in to the pages without using them"
    )
    public_views: bool = Field(
        False, description="serve the pipelines' own GET routes without a token, listings of documents among them"
    )
    drain_seconds: float = Field(20.0, gt=0, description="time running requests have after SIGTERM")


class AuthSettings(_Group):
    signing_key_file: Path | None = Field(
        None, description="PEM of the P-256 private key; without it one is made and kept in Postgres"
    )
    access_seconds: int = Field(900, ge=1, description="life of an access token")
    refresh_seconds: int = Field(14 * 86400, ge=1, description="life of a refresh token")
    register_open: bool = Field(True, description="whether anybody may register; else only an admin adds users")
    hash_threads: int = Field(2, ge=1, description="passwords hashed at the same time")
    hash_waiting: int = Field(8, ge=0, description="passwords that may wait to be hashed before 503")
    login_attempts: int = Field(10, ge=1, description="failed logins per account and minute before 429")
    bootstrap_admin: str | None = Field(None, description="name of an administrator made at the first start")
    bootstrap_password: SecretStr | None = Field(None, description="password of that administrator")


class WorkerSettings(_Group):
    concurrency: int = Field(2, ge=1, description="batches a stage works on at the same time")
    batch_documents: int = Field(4000, ge=1, description="documents a sink writes at once")
    batch_blocks: int = Field(256, ge=1, description="blocks a stage takes at once")
    prefetch_bytes: int = Field(4 << 20, ge=2 << 20, description="bytes of blocks a stage holds ahead of its work")
    ack_wait_seconds: float = Field(30.0, gt=0, description="silence after which JetStream gives a block to another")
    store_timeout_seconds: float = Field(20.0, gt=0, description="limit of one write to a store")


class RetrySettings(_Group):
    max_attempts: int = Field(
        5, ge=1, description="deliveries before a block that kills or confuses its worker is bisected"
    )
    base_seconds: float = Field(0.5, gt=0, description="upper end of the first wait")
    ceiling_seconds: float = Field(30.0, gt=0, description="upper end of any wait")


class AnalyticsSettings(_Group):
    cache_seconds: float = Field(1.0, ge=0, description="how long an answer may be served without asking the stores")
    scan_seconds: float = Field(2.0, gt=0, description="time given to look for a document in the backlog")


class JobSettings(_Group):
    enabled: bool = Field(True, description="whether this process runs the jobs of its service")
    schedules: dict[str, str] = Field(
        {}, description='other schedules for jobs, by name: {"licenses_fetch": "30 4 * * *"}'
    )
    zone: str = Field("UTC", description="time zone that the jobs' schedules mean, such as Europe/Berlin")
    lease_seconds: float = Field(
        15.0, ge=1, description="silence after which a worker is held for dead and its run is taken up again"
    )
    drain_seconds: float = Field(10.0, gt=0, description="time a job that runs has after SIGTERM before it is given up")
    history_days: float = Field(30.0, gt=0, description="how long runs that have ended stay in the history")
    audit_days: float = Field(365.0, gt=0, description="how long auth keeps its audit")
    socrata_url: str | None = Field(
        None, description="Socrata resource that licenses_fetch reads each hour; without it the job is off"
    )

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        try:
            zone_of(zone)
        except ValueError as error:
            raise _refused("time_zone", str(error)) from None
        return zone

    @field_validator("schedules")
    @classmethod
    def _schedules_are_cron(cls, schedules: dict[str, str]) -> dict[str, str]:
        for job, when in schedules.items():
            try:
                parse_schedule(when)
            except ValueError as error:
                raise _refused("schedule", f"{job}: {error}") from None
        return schedules


def _refused(rule: str, reason: str) -> PydanticCustomError:
    # A plain ValueError would be told as "Value error, …".
    return PydanticCustomError(rule, "{reason}", {"reason": reason.rstrip(".")})


class ProducerSettings(_Group):
    socrata_app_token: SecretStr | None = Field(
        None, description="application token of Socrata portals, which lets `produce --socrata` read more at once"
    )
    socrata_max_rows: int = Field(100_000, ge=1, description="rows that are read of one Socrata data set at most")
    socrata_page_rows: int = Field(1000, ge=1, le=50_000, description="rows asked for in one request to a portal")
    socrata_concurrency: int = Field(4, ge=1, le=32, description="requests to a portal under way at the same time")
    socrata_attempts: int = Field(6, ge=1, description="times that a page is asked for before it is given up")
    socrata_timeout_seconds: float = Field(60.0, gt=0, description="time a portal has for one page")
    cache_seconds: int = Field(3600, ge=1, description="life of a data set that was read from a portal, in Redis")
    database_url: SecretStr | None = Field(
        None,
        description="database that `produce --table` reads, as SQLAlchemy writes it, where --database is not given",
    )


class MqttSettings(_Group):
    url: SecretStr | None = Field(
        None,
        description="broker that `headrace mqtt-bridge` subscribes at; mqtt://user:password@host:1883, or mqtts://",
    )
    topic: str = Field(
        "ingest/{pipeline}",
        max_length=256,
        description="topic whose level {pipeline} names the pipeline; other levels may be +",
    )
    client_id: str = Field(
        "headrace-bridge",
        min_length=1,
        max_length=128,
        description="name of the session that the broker keeps for us; two bridges with one name would oust each other",
    )
    keyless: Literal["new", "content"] = Field(
        "new",
        description="id of a document whose pipeline has no key: a new one, or one from topic and content, by which "
        "equal messages are one",
    )


class SchemaSettings(_Group):
    allow_incompatible: bool = Field(
        False, description="register a schema that breaks the version before it, instead of refusing to start"
    )


class DeadLetterSettings(_Group):
    max_ids: int = Field(1000, ge=1, le=10_000, description="documents that one replay or discard may name")
    max_running: int = Field(8, ge=1, le=100, description="replays and discards that may run at the same time")
    max_replays: int = Field(
        3, ge=1, description="times a document is replayed by filter; after that it takes its id or force"
    )
    documents_per_second: float = Field(
        5000.0, ge=1, le=1_000_000, description="rate of a replay, and the most that one may ask for"
    )


class LogSettings(_Group):
    level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe line that is written")
    format: str = Field("auto", pattern="^(auto|json|text)$", description="auto is text on a terminal, else JSON")


class Settings(BaseSettings):
    """Every setting of every service.

    Environment names are `HEADRACE_` plus the field, `__` between the parts
    (`HEADRACE_GATEWAY__PORT`). `*_FILE` names a file that holds the value.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        # Compose passes `${NAME:-}` as an empty value where it means none.
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    nats_url: SecretStr = Field(
        SecretStr("nats://127.0.0.1:4222"),
        validation_alias=AliasChoices("HEADRACE_NATS_URL", "NATS_URL"),
        description="NATS servers, comma separated",
    )
    mongo_url: SecretStr = Field(
        SecretStr("mongodb://127.0.0.1:27017/headrace"),
        validation_alias=AliasChoices("HEADRACE_MONGO_URL", "MONGODB_URI"),
        description="MongoDB and the database in it",
    )
    postgres_url: SecretStr = Field(
        SecretStr("postgresql://headrace@127.0.0.1:5432/headrace"),
        validation_alias=AliasChoices("HEADRACE_POSTGRES_URL", "DATABASE_URL"),
        description="Postgres and the database in it",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("HEADRACE_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey and the database in it",
    )
    namespace: str = Field(
        "",
        pattern="^[a-z0-9_]{0,24}$",
        description="prefix of streams, subjects and keys, for several Headraces on one server",
    )
    production: bool = Field(
        False, description="refuse to start with anything left open: default secrets, plain HTTP, open registration"
    )
    private_network: bool = Field(
        False, description="in production mode: nobody else sees the network, so that connections need no TLS"
    )
    pipelines: Path | None = Field(None, description="folder with pipelines of your own, besides the built-in ones")
    reload: bool = Field(
        False, description="end a service in order when a pipeline's file changes, to be started anew with it"
    )
    failpoints: Path | None = Field(
        None,
        description="file that says where processes are to die, for tests of faults alone (headrace/failpoints.py)",
    )
    nats: NatsSettings = NatsSettings()
    streams: StreamSettings = StreamSettings()
    block: BlockSettings = BlockSettings()
    gateway: GatewaySettings = GatewaySettings()
    auth: AuthSettings = AuthSettings()
    workers: WorkerSettings = WorkerSettings()
    retry: RetrySettings = RetrySettings()
    analytics: AnalyticsSettings = AnalyticsSettings()
    jobs: JobSettings = JobSettings()
    producer: ProducerSettings = ProducerSettings()
    mqtt: MqttSettings = MqttSettings()
    schemas: SchemaSettings = SchemaSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    log: LogSettings = LogSettings()
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="loopback port with this process's own /metrics and /healthz; none by default"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), _EnvFile(settings_cls)


class _WithFiles(EnvSettingsSource):
    """Variables, with `<NAME>_FILE` read as if the file's content stood in `<NAME>`; `<NAME>` itself comes first.

    Raises:
        FileNotFoundError: the file is not there; a missing secret must not become a default.
    """

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        files = {name: variables.pop(name) for name in list(variables) if _names_file(name)}
        for name, path in files.items():
            if path:
                variables.setdefault(name.removesuffix("_file"), Path(path).read_text().strip())
        return variables


class _Environment(_WithFiles):
    """The environment."""


class _EnvFile(_WithFiles, DotEnvSettingsSource):
    """The file `.env`."""


def _names_file(name: str) -> bool:
    # `…SIGNING_KEY_FILE` is a setting itself.
    if not name.endswith("_file") or name.endswith("signing_key_file"):
        return False
    return name.startswith(ENV_PREFIX.lower()) or name.removesuffix("_file") in _WELL_KNOWN


_WELL_KNOWN = ("nats_url", "mongodb_uri", "database_url", "redis_url")
