"""Expected failures as one line on stderr and an exit code; what is not expected is a bug and keeps its trace."""

from __future__ import annotations

import sys
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperGroup

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class Commands(TyperGroup):
    """The commands, with the failures that a user can mend turned into a line that says how."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            lines, code = _explained(error)
            if not lines:
                raise
            for line in lines:
                say(f"headrace: {line}")
            raise typer.Exit(code) from None


def say(text: str) -> None:
    """Write a line of talk; stdout is for data."""
    typer.echo(text, err=True)


def fail(message: str, *, exit_code: int = EXIT_FAILED) -> NoReturn:
    """End the command with a message."""
    say(f"headrace: {message}")
    raise typer.Exit(exit_code)


def _explained(error: Exception) -> tuple[list[str], int]:
    """Return what to say and the exit code; no lines where the error is not one of the expected."""
    from headrace.errors import HeadraceError

    if isinstance(error, HeadraceError):
        return [error.detail, *(_rule(field) for field in error.errors)], EXIT_FAILED
    # What the other commands do not need takes a tenth of a second to import.
    if isinstance(error, (ValueError, OSError)):
        from cli.settings import explain

        if lines := explain(error):
            return lines, EXIT_USAGE
    if isinstance(error, BrokenPipeError):
        # The reader of our output has seen enough; typer ends without a word.
        return [], EXIT_FAILED
    if isinstance(error, OSError):
        return [f"{error.filename}: {error.strerror}" if error.filename else str(error)], EXIT_FAILED
    return [], EXIT_FAILED


def _rule(field: Any) -> str:
    return f"  {field.pointer or '/'}: {field.code}: {field.message}"


def close_stdout() -> None:
    """Flush stdout; a reader that has gone is no failure, and the interpreter must not complain about it at its end."""
    import os

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
