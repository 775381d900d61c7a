"""``hotwallet health``: whether the API on this host answers, for supervisors."""

import os
import sys

import click


_DEFAULT_BIND = "127.0.0.1:8080"
_ALIVE_SECONDS = 2.0  # Less than the timeout of the health check in docker/Dockerfile.
_READY_SECONDS = 6.0  # /readyz answers within 5 s.
_OK = 200


@click.command()
@click.option(
    "--ready", is_flag=True, help="Ask /readyz: also database, key, nodes and worker."
)
def health(ready: bool) -> None:
    """
    Ask the API of this host, at BIND, whether it answers.

    Exits with 1 if it does not within 2 seconds (with --ready: 6), or answers another
    status than 200.  A worker listens nowhere: /readyz of the API reports it.

    Example: hotwallet health --ready
    """
    from api.server.probe import ask

    path, seconds = (
        ("/readyz", _READY_SECONDS) if ready else ("/healthz", _ALIVE_SECONDS)
    )
    bind = os.environ.get("BIND", "").strip() or _DEFAULT_BIND
    try:
        status, answer = ask(bind, path, seconds)
    except ValueError as e:
        raise click.UsageError(f"BIND is {e}") from None
    except OSError as e:
        click.echo(f"nothing answers at BIND ({type(e).__name__})", err=True)
        sys.exit(1)
    click.echo(answer)
    if status != _OK:
        sys.exit(1)
