"""Exit status 2, for commands whose status 1 means that a problem was found."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from signer.errors import ConfigurationError, HotWalletError


class CommandError(click.ClickException):
    """The command could not check or do what was asked."""

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
