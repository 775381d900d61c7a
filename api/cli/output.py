"""What all commands share: where their result and their log go."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from api.logs import configure
from signer.config.settings import Settings


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


@contextlib.contextmanager
def command_logging() -> Iterator[Settings]:
    """
    Send the log to standard error, so that standard output has only the result.

    Yields:
        The settings of the environment, which also configure the log.
    """
    with contextlib.redirect_stdout(sys.stderr):
        settings = Settings.from_env(os.environ)
        configure(settings)
        yield settings


def print_result(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print *document* as JSON for programs, or *lines* for people."""
    for line in [json.dumps(document)] if as_json else lines:
        click.echo(line)
