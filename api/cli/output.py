"""What all commands share: where their result and their log go."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click


if TYPE_CHECKING:
    from signer.config.settings import Settings


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


class Result(NamedTuple):
    """A *document* for programs and *lines* for people; exit with 1 unless *ok*."""

    document: Any
    lines: Iterable[str]
    ok: bool = True


class _NoOutput(io.TextIOBase):
    def write(self, text: str, /) -> int:
        return len(text)


@contextlib.contextmanager
def redirect_log() -> Iterator[None]:
    """
    Keep the log, which goes to standard output, apart from the command's result.

    The log goes to standard error, audit records included.  If that is a terminal, the
    log is discarded unless ``hotwallet --verbose`` was called: an operator reads the
    result, and audit records are also in the ledger.
    """
    context = click.get_current_context(silent=True)
    verbose = context is not None and context.find_root().params.get("verbose", False)
    hidden = sys.stderr.isatty() and not verbose
    with contextlib.redirect_stdout(_NoOutput() if hidden else sys.stderr):
        yield


@contextlib.contextmanager
def command_logging() -> Iterator[Settings]:
    """Redirect the log, configure it by the settings of the environment, yield them."""
    from api.logs import configure
    from signer.config.settings import Settings

    with redirect_log():
        settings = Settings.from_env(os.environ)
        configure(settings)
        yield settings


def show_title(command: str) -> None:
    """Let ``ps`` show ``hotwallet`` and the *command*, which runs until it is ended."""
    from setproctitle import setproctitle

    setproctitle(f"hotwallet {command}")


def prints(command: Callable[..., Result]) -> Callable[..., None]:
    """Add ``--json`` to *command*, and print the result that it returns."""

    @json_option
    @functools.wraps(command)
    def run(*, as_json: bool, **parameters: object) -> None:
        result = command(**parameters)
        print_result(result.document, result.lines, as_json=as_json)
        if not result.ok:
            sys.exit(1)

    return run


def reports(command: Callable[..., Result]) -> Callable[..., None]:
    """As ``prints``, for a *command* of a container, whose log is configured."""

    @functools.wraps(command)
    def run(**parameters: object) -> Result:
        from api.bootstrap import build_container

        with command_logging():
            return command(build_container(), **parameters)

    return prints(run)


def print_result(
    document: Any, lines: Iterable[str], *, as_json: bool, err: bool = False
) -> None:
    for line in [json.dumps(document)] if as_json else lines:
        click.echo(line, err=err)
