"""Asks before a command changes something that is hard to undo."""

import functools
import sys
from collections.abc import Callable

import click


_NOT_A_TERMINAL = (
    "this command asks for confirmation, and standard input is not a terminal; nothing"
    " was changed. Add --yes to confirm, or --dry-run to see what would change."
)


def confirmed(question: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Add ``--yes`` and ``--dry-run`` to a command, and ask *question* before it runs.

    The command gets ``dry_run`` as a parameter.  *question* is a format string over the
    command's other parameters.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
        @click.option(
            "--dry-run", is_flag=True, help="Show what would change; change nothing."
        )
        @functools.wraps(command)
        def run(*, yes: bool, dry_run: bool, **parameters: object) -> None:
            if not (yes or dry_run):
                if not sys.stdin.isatty():
                    raise click.UsageError(_NOT_A_TERMINAL)
                if not click.confirm(question.format(**parameters), err=True):
                    click.echo("cancelled: nothing was changed", err=True)
                    sys.exit(1)
            command(dry_run=dry_run, **parameters)

        return run

    return decorate
