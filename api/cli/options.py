"""What commands share: dates, questions before a change, and environment files."""

import functools
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from signer.errors import ConfigurationError, HotWalletError, InvalidInputError


class CommandError(click.ClickException):
    exit_code = 2


@contextmanager
def errors_exit_with_2() -> Iterator[None]:
    """Raise a ``CommandError`` for an error of the block; refusals stay as they are."""
    try:
        yield
    except ConfigurationError:
        raise
    except HotWalletError as e:
        field = getattr(e, "field", None)
        problem = f"{e.code}: {field} {e}" if field else f"{e.code}: {e}"
    except OSError as e:
        prefix = "" if e.filename is None else f"{e.filename}: "
        problem = f"{prefix}{e.strerror or type(e).__name__}"
    else:
        return
    raise CommandError(problem)


_DAY = timedelta(days=1)
_HAS_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")


def read_moment(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> datetime | None:
    """Return the time that an option's *text* means now; None for None."""
    if text is None:
        return None
    moment = parse_moment(text, datetime.now(UTC))
    if moment is None:
        raise click.BadParameter(
            f"{text!r} is not a date: use 2026-01-31, 2026-01-31T12:00Z, today,"
            " yesterday or now",
            param=parameter,
        )
    return moment


def parse_moment(text: str, now: datetime) -> datetime | None:
    """
    Return the time that *text* means at *now*; None if it is malformed.

    A date means 00:00 of that day, and a time without a zone is in UTC.

    >>> parse_moment("yesterday", datetime(2026, 1, 2, 3, tzinfo=UTC)).isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    names = {"now": now, "today": today, "yesterday": today - _DAY}
    if text in names:
        return names[text]
    if not (_HAS_TIME.match(text) or re.fullmatch(r"\d{4}-\d{2}-\d{2}", text)):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


_NOT_A_TERMINAL = (
    "this command asks for confirmation, and standard input is not a terminal; nothing"
    " was changed. Add --yes to confirm, or --dry-run to see what would change."
)


staging_recipient_option = click.option(
    "--recipient",
    metavar="ADDRESS",
    required=True,
    help="Your address on the test chain: the smallest refunds are paid to it.",
)

staging_chains_option = click.option(
    "--chain-id",
    "chain_ids",
    type=int,
    multiple=True,
    required=True,
    help="Of a test chain; repeat it. If the deployment pays on another chain, nothing"
    " is done.",
)

yes_option = click.option(
    "--yes", "-y", is_flag=True, help="Do not ask for confirmation."
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would change; change nothing."
)


def confirm(question: str) -> None:
    """Ask *question* on the terminal; end the command unless the answer is yes."""
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


_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# It names code.  `hotwallet serve` would pass it on, and no other command sees it.
_OF_ENVIRONMENT_ONLY = "HOTWALLET_EXTRAS"


def load_env_file(environ: MutableMapping[str, str], path: Path) -> str | None:
    """
    Set the variables of the file at *path* in *environ*, unless they are set already.

    An empty variable counts as unset, as it does for ``Settings``.  The file is not
    loaded in production, which is also the default of ``APP_ENV``, nor if another user
    may have written it.  Return a line for the operator; None if there is no file, or
    no variable was set.
    """
    from signer.config.settings import Settings

    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
                return _not_loaded(path, "another user may write it: chmod 600 it")
            text = file.read().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as e:
        return _not_loaded(path, type(e).__name__)
    values = _read_variables(text)
    variables = {
        name: value
        for name, value in values.items()
        if value is not None and name != _OF_ENVIRONMENT_ONLY
    }
    app_env = environ.get("APP_ENV", "").strip() or variables.get("APP_ENV", "")
    if Settings.from_env({"APP_ENV": app_env}).is_production:
        return _not_loaded(path, "APP_ENV is production: set variables otherwise")
    missing = {name for name in variables if not environ.get(name, "").strip()}
    environ.update({name: variables[name] for name in missing})
    return f"loaded {path}" if missing else None


def read_env_file(path: Path) -> dict[str, str]:
    """
    Return the variables of the file at *path*, as systemd and Docker Compose read it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as e:
        raise InvalidInputError(
            f"{path.name} cannot be read ({type(e).__name__})"
        ) from None
    values = _read_variables(text)
    return {name: value for name, value in values.items() if value is not None}


def _not_loaded(path: Path, reason: str) -> str:
    return f"warning: {path} is not loaded: {reason}"


def _read_variables(text: str) -> dict[str, str | None]:
    # Not above: few commands read such a file.
    from dotenv import dotenv_values

    return dotenv_values(stream=io.StringIO(text), interpolate=False)
