"""Asks before a command changes something that is hard to undo."""

import functools
import sys
from collections.abc import Callable

import click


_NOT_A_TERMINAL = (
    "this command asks for confirmation, and standard input is not a terminal; nothing"
    " was changed. Add --yes to confirm, or --dry-run to see what would change."
)


yes_option = click.option(
    "--yes", "-y", is_flag=True, help="Do not ask for confirmation."
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would change; change nothing."
)


def confirm(question: str) -> None:
    """
    Ask *question* on the terminal; end the command unless the answer is yes.

    Raises:
        click.UsageError: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(_NOT_A_TERMINAL)
    if not click.confirm(question, err=True):
        click.echo("cancelled: nothing was changed", err=True)
        sys.exit(1)


def confirmed(question: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Add ``--yes`` and ``--dry-run`` to a command, and ask *question* before it runs.

    The command gets ``dry_run`` as a parameter.  *question* is a format string over the
    command's other parameters.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @yes_option
        @dry_run_option
        @functools.wraps(command)
        def run(*, yes: bool, dry_run: bool, **parameters: object) -> None:
            if not (yes or dry_run):
                confirm(question.format(**parameters))
            command(dry_run=dry_run, **parameters)

        return run

    return decorate
