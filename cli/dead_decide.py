"""`headrace dead replay|discard`: tried out first, asked about on a terminal, told in numbers."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.dead_choice import After, Before, Code, Pipeline, Pointer, Stage, chosen, filters_of
from cli.options import Json, Token, Url
from cli.output import print_table, write_json
from cli.problems import EXIT_FAILED, EXIT_USAGE, fail, say

if TYPE_CHECKING:
    from collections.abc import Mapping

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="documents; or choose by the options")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and change nothing")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


def replay(
    ids: Ids = None,
    pipeline: Pipeline = None,
    stage: Stage = None,
    code: Code = None,
    pointer: Pointer = None,
    after: After = None,
    before: Before = None,
    patch: Annotated[
        str | None, typer.Option(metavar="FILE|-|JSON", help="JSON Patch (RFC 6902) for each document")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="/OLD=/NEW", help="rename a field; may be repeated")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="/PATH", help="remove a field; may be repeated")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="/PATH=VALUE", help="set a field, to JSON or text; repeatable")
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="run here on each document; returns the new one, or None to skip"),
    ] = None,
    dry_run: DryRun = False,
    rate: Annotated[float | None, typer.Option(min=1, help="documents a second, at most")] = None,
    force: Annotated[bool, typer.Option("--force", help="also what was replayed too often, or is in conflict")] = False,
    reason: Annotated[str | None, typer.Option(help="kept in the audit")] = None,
    yes: Yes = False,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Give dead documents back to the stream under their own ids, as they are or mended.

    The operations of --patch come first, then --rename, --remove and --set.

    Exit codes: 0 all pass or are replayed, 1 some would fail or were left out.
    """
    from cli.patching import function as function_of
    from cli.patching import operations

    filters = filters_of(pipeline, stage, code, pointer, after, before)
    request = chosen(ids, filters)
    found = operations(patch, rename or (), remove or (), set_ or ())
    if found and function:
        fail("Give --function or a patch, not both.", exit_code=EXIT_USAGE)
    if found:
        request["patch"] = found
    more = {"rate": rate, "reason": reason, "force": force or None}
    request |= {name: value for name, value in more.items() if value is not None}
    if function is None:
        asyncio.run(_replay(request, dry_run, _asks(yes, ids), as_json, url, token))
        return
    if stage not in (None, "refine"):
        fail("Only letters of stage refine hold what was sent, so --function is for those.", exit_code=EXIT_USAGE)
    # Letters of a store hold the stored form, which is not the function's to change.
    filters["stage"] = "refine"
    del request["ids" if ids else "filter"]
    asyncio.run(_replay_changed(function_of(function), ids or [], filters, request, dry_run, yes, as_json, url, token))


def discard(
    reason: Annotated[str, typer.Option(help="why; kept in the audit")],
    ids: Ids = None,
    pipeline: Pipeline = None,
    stage: Stage = None,
    code: Code = None,
    pointer: Pointer = None,
    after: After = None,
    before: Before = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Take dead letters out of the list for good; the audit keeps who and why, the index keeps their bytes."""
    filters = filters_of(pipeline, stage, code, pointer, after, before)
    request = {**chosen(ids, filters), "reason": reason}
    asyncio.run(_discard(request, ids or [], filters, dry_run, _asks(yes, ids), as_json, url, token))


async def _replay(
    request: dict[str, Any], dry_run: bool, asks: bool, as_json: bool, url: str | None, token: str | None
) -> None:
    from cli import deciding
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        if dry_run or asks:
            trial = await deciding.try_out(api, request)
            if dry_run:
                _tell_trial(trial.told(), as_json)
                return
            _tell_trial(trial.told(), as_json=False, ends=False)
            _confirm(f"Replay {trial.would_pass + trial.would_fail:,} dead letters?")
        _tell_replay(await deciding.replay(api, request), as_json)


async def _replay_changed(
    how: Any,
    ids: list[str],
    filters: dict[str, str],
    request: dict[str, Any],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    url: str | None,
    token: str | None,
) -> None:
    """Replay what a function makes of the documents: each request holds the patches of some hundred of them."""
    from cli import deciding
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        trial = deciding.Trial()
        if dry_run or _asks(yes, ids):
            async for patches in deciding.changed(api, deciding.letters(api, ids, filters), how, trial):
                found = await deciding.try_out(api, {**request, "patches": patches})
                trial.add(found.told())
            if dry_run:
                _tell_trial(trial.told(), as_json)
                return
            _tell_trial(trial.told(), as_json=False, ends=False)
            _confirm(f"Replay {trial.would_pass:,} dead letters and those of them that would fail?")
        left = deciding.Trial()
        ends = [
            await deciding.replay(api, {**request, "patches": patches})
            async for patches in deciding.changed(api, deciding.letters(api, ids, filters), how, left)
        ]
    total = deciding.totals(ends)
    total["left_out"] += left.would_fail
    total["samples"] = (left.samples + total["samples"])[:10]
    _tell_replay(total, as_json)


async def _discard(
    request: dict[str, Any],
    ids: list[str],
    filters: dict[str, str],
    dry_run: bool,
    asks: bool,
    as_json: bool,
    url: str | None,
    token: str | None,
) -> None:
    from cli import deciding
    from cli.api import Api, find

    async with Api(find(url, token)) as api:
        if dry_run or asks:
            count = await deciding.chosen(api, ids, filters)
            if dry_run and as_json:
                write_json({"would_discard": count})
            elif dry_run:
                say(f"{count:,} dead letters would be discarded.")
            if dry_run:
                return
            _confirm(f"Discard {count:,} dead letters for good?")
        end = await deciding.discard(api, request)
    if as_json:
        write_json(end)
    else:
        say(f"{end['discarded']:,} discarded; `headrace dead audit` has who and why.")


def _asks(yes: bool, ids: list[str] | None) -> bool:
    """Return whether somebody is there to be asked, and should be: many documents that nobody has named."""
    return not yes and not ids and sys.stdin.isatty() and sys.stderr.isatty()


def _confirm(question: str) -> None:
    if not typer.confirm(question, err=True):
        fail("Nothing was changed.")


def _tell_trial(found: Mapping[str, Any], as_json: bool, *, ends: bool = True) -> None:
    if as_json:
        write_json(found)
    else:
        say(f"{found['would_pass']:,} would pass, {found['would_fail']:,} would fail; nothing is changed yet.")
        print_table(
            ("count", "code", "where"),
            [(f"{one['count']:,}", one["code"], one["pointer"]) for one in found["reasons"]],
            "",
        )
        _print_samples(found["samples"])
    if found["would_fail"] and ends:
        raise typer.Exit(EXIT_FAILED)


def _tell_replay(end: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(end)
    else:
        say(f"{end['replayed']:,} replayed, {end['left_out']:,} left out.")
        _print_samples(end["samples"])
    if end["left_out"]:
        raise typer.Exit(EXIT_FAILED)


def _print_samples(samples: list[dict[str, Any]]) -> None:
    print_table(("sample", "code", "why"), [(one["id"], one["code"], one["detail"]) for one in samples], "")
