"""The options of `headrace produce` that say what is sent, and the source that they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from producer.mapping import Columns
    from producer.source import Source

_FILE = "A file"
_MADE = "Made up, or again"
_PORTAL = "A Socrata portal"
_TABLE = "A database table"

File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="CSV, TSV, JSON, NDJSON or the pipeline's own format, also gzipped; by default its sample",
        rich_help_panel=_FILE,
    ),
]
Encoding = Annotated[
    str | None, typer.Option(metavar="NAME", help="of the file; UTF-8 by default", rich_help_panel=_FILE)
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=FIELD",
        help="field that a column is; a dot leads into an object",
        rich_help_panel=_FILE,
    ),
]
MapFile = Annotated[
    Path | None,
    typer.Option(help='JSON or TOML with "map", "date_format" and "drop"', rich_help_panel=_FILE),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="COLUMN", help="leave a column out; '*' leaves out all without --map", rich_help_panel=_FILE
    ),
]
DateFormat = Annotated[
    list[str] | None,
    typer.Option(
        "--date-format",
        metavar="FIELD=FORMAT",
        help="how the dates of a field are written, such as %m/%d/%Y",
        rich_help_panel=_FILE,
    ),
]
Generate = Annotated[int | None, typer.Option(min=1, help="make up so many documents", rich_help_panel=_MADE)]
Endless = Annotated[
    bool,
    typer.Option(
        "--endless",
        help="make documents up until Ctrl-C; with --file draw its users at random, as if it was now",
        rich_help_panel=_MADE,
    ),
]
Once = Annotated[
    bool, typer.Option("--once", help="with --file: all of it once, as if it was now", rich_help_panel=_MADE)
]
Seed = Annotated[
    int | None,
    typer.Option(help="of what is made up or drawn; the same seed makes the same documents", rich_help_panel=_MADE),
]
BadShare = Annotated[
    float,
    typer.Option(min=0, max=1, help="part of the documents that is given a fault", rich_help_panel=_MADE),
]
Users = Annotated[int | None, typer.Option(min=1, help="how many users the documents are of", rich_help_panel=_MADE)]
Socrata = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="data set, such as https://data.cityofnewyork.us/resource/w7w3-xahh.json",
        rich_help_panel=_PORTAL,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="SOQL", help="which of its rows, such as \"license_status='Active'\"", rich_help_panel=_PORTAL
    ),
]
MaxItems = Annotated[int | None, typer.Option(min=1, help="rows at most; by default 100000", rich_help_panel=_PORTAL)]
AppTokenFile = Annotated[
    Path | None,
    typer.Option(help="file with the portal's application token", rich_help_panel=_PORTAL),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="ask the portal, whatever Redis has of it", rich_help_panel=_PORTAL)
]
Table = Annotated[str | None, typer.Option(metavar="NAME", help="table or view", rich_help_panel=_TABLE)]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="as SQLAlchemy writes it; else HEADRACE_PRODUCER__DATABASE_URL", rich_help_panel=_TABLE
    ),
]
KeyColumn = Annotated[
    list[str] | None,
    typer.Option(
        "--key-column", metavar="NAME", help="what it is read by; its primary key by default", rich_help_panel=_TABLE
    ),
]


class UsageError(Exception):
    """The options do not go together."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be sent, as the command line has it."""

    pipeline: str
    file: Path | None = None
    encoding: str | None = None
    generate: int | None = None
    endless: bool = False
    once: bool = False
    seed: int | None = None
    bad_share: float = 0.0
    users: int | None = None
    socrata: str | None = None
    where: str | None = None
    max_items: int | None = None
    app_token_file: Path | None = None
    no_cache: bool = False
    table: str | None = None
    database: str | None = None
    key_columns: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        """The options that each name a source."""
        sources = {
            "--file": self.file,
            "--generate": self.generate,
            "--socrata": self.socrata,
            "--table": self.table,
        }
        return [name for name, value in sources.items() if value is not None]

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: it says which options do not go together.
        """
        given = self.sources
        if len(given) > 1:
            raise UsageError(f"give {' or '.join(given)}, not both")
        if self.endless and self.generate:
            raise UsageError("give --generate or --endless, not both")
        if self.endless and (self.socrata or self.table):
            raise UsageError(f"--endless goes without {given[0]}")
        if self.once and (self.endless or not self.file):
            raise UsageError("--once goes with --file, and without --endless")
        self._goes_with("--file", self.file, {"--encoding": self.encoding})
        self._goes_with(
            "--socrata",
            self.socrata,
            {
                "--where": self.where,
                "--max-items": self.max_items,
                "--app-token-file": self.app_token_file,
                "--no-cache": self.no_cache,
            },
        )
        self._goes_with("--table", self.table, {"--database": self.database, "--key-column": self.key_columns})
        made = self.generate or self.endless or self.once
        self._goes_with(
            "--generate, --endless or --once",
            made,
            {"--bad-share": self.bad_share, "--users": self.users},
        )

    def _goes_with(self, leader: str, present: object, options: dict[str, object]) -> None:
        alone = [name for name, value in options.items() if value]
        if alone and not present:
            raise UsageError(f"{alone[0]} goes with {leader}")


def source_of(wanted: Wanted, columns: Columns) -> Source:
    """Return what is to be sent.

    Raises:
        SourceError: it cannot be read.
        LookupError: there is neither sample nor generator nor example.
        ValueError: an option's value cannot be meant.
    """
    from producer.formats.plain import check_encoding

    if wanted.encoding:
        check_encoding(wanted.encoding)
    if wanted.socrata:
        return _socrata(wanted)
    if wanted.table:
        return _table(wanted, columns)
    if wanted.generate or (wanted.endless and not wanted.file):
        from producer.origins.made import made_source

        return made_source(
            wanted.pipeline,
            wanted.generate,
            seed=wanted.seed,
            bad_share=wanted.bad_share,
            users=wanted.users,
            example=_example(wanted.pipeline),
        )
    return _file(wanted, columns)


def _file(wanted: Wanted, columns: Columns) -> Source:
    from producer.origins.files import file_source
    from producer.origins.replay import replay_source
    from producer.samples import sample

    path = wanted.file or sample(wanted.pipeline)
    if path is None:
        raise LookupError(f"Pipeline {wanted.pipeline!r} has no sample; give --file or --generate.")
    if wanted.endless or wanted.once:
        return replay_source(
            wanted.pipeline,
            path,
            endless=wanted.endless,
            seed=wanted.seed,
            users=wanted.users,
            bad_share=wanted.bad_share,
            encoding=wanted.encoding,
            columns=columns,
        )
    return file_source(wanted.pipeline, path, encoding=wanted.encoding, columns=columns)


def _socrata(wanted: Wanted) -> Source:
    from headrace.registry import load_pipelines
    from producer.origins.socrata import Dataset, socrata_source
    from producer.target import bus_settings

    settings = bus_settings()
    token = settings.producer.socrata_app_token
    secret = token.get_secret_value() if token else None
    if wanted.app_token_file:
        secret = wanted.app_token_file.read_text().strip()
        if not secret.isascii() or not secret.isprintable() or not secret:
            raise ValueError(f"{wanted.app_token_file}: it must hold one token and nothing else.")
    dataset = Dataset(
        wanted.socrata or "", settings.producer, token=secret, where=wanted.where, max_rows=wanted.max_items
    )
    known = load_pipelines(settings.pipelines).get(wanted.pipeline)
    fields = known.accepts.model_fields if known else {}
    return socrata_source(dataset, settings, refresh=wanted.no_cache, fields=fields)


def _table(wanted: Wanted, columns: Columns) -> Source:
    from headrace.settings import Settings
    from producer.origins.table import table_source

    set_url = Settings().producer.database_url
    database = wanted.database or (set_url.get_secret_value() if set_url else None)
    if not database:
        raise ValueError("--table needs --database, or HEADRACE_PRODUCER__DATABASE_URL.")
    return table_source(database, wanted.table or "", key_columns=wanted.key_columns, columns=columns)


def _example(name: str) -> dict[str, Any] | None:
    from headrace.registry import load_pipelines
    from headrace.settings import Settings

    found = load_pipelines(Settings().pipelines).get(name)
    return dict(found.example) if found else None
