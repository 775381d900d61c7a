"""The command line: ``hotwallet serve``, ``worker``, ``guard``, ``token`` and more."""

import io
import json
import os
import signal
import sys
from datetime import timedelta
from threading import Event
from typing import NoReturn, cast

import click

from api.auth.jwt_verifier import Role
from api.cli.audit import audit
from api.cli.inspection import nonce, refund
from api.cli.keys import keys
from api.doctor.command import doctor
from api.logs import answer_alone, configure, watch_uncaught
from signer.config.settings import Settings
from signer.errors import (
    ConfigurationError,
    HotWalletError,
    InvalidInputError,
    NewKeyUnhealthyError,
    Refusal,
)
from signer.redact import cut_key_ids, sanitize
from signer.startup.guard import EXIT_STATUS
from softhsm.cli import softhsm


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hotwallet")
def cli() -> None:
    """
    Sign and send stablecoin refunds with a key that never leaves its HSM.

    Settings are environment variables; docs/configuration.md lists them.  A command
    exits with 78 when it refuses them, and docs/guard.md has the cure of each code.
    """


@cli.command()
def serve() -> None:
    """Serve the API with gunicorn, unless the guard refuses."""
    # gunicorn replaces this process, and runs the guard before it forks workers.
    os.execvp(  # noqa: S606
        sys.executable,
        [
            sys.executable,
            "-P",  # Import nothing from the working directory.
            "-m",
            "api.server",
            "--config",
            "python:api.server.gunicorn_conf",
            "api.server.entrypoint:get_app()",
        ],
    )


@cli.command()
@click.option(
    "--interval", default=1.0, show_default=True, help="Seconds between two passes."
)
@click.option("--once", is_flag=True, help="Do one pass, and stop.")
def worker(interval: float, once: bool) -> None:
    """Bring every accepted refund to its end: send, resend, confirm."""
    from api.bootstrap import open_container  # noqa: PLC0415  Help needs no backend.

    configure(Settings.from_env(os.environ))
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    container = open_container(serving=False)
    container.start_sealer()
    container.worker.run(wait=lambda: once or stop.wait(interval))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def guard(as_json: bool) -> None:
    """Say whether the service would start, and what must be mended if not."""
    from api.bootstrap import open_container  # noqa: PLC0415

    try:
        with answer_alone():
            found = open_container()
            active = found.store.active_key()
    except ConfigurationError as e:
        if as_json:
            refusals = [{"code": r.code, "message": r.message} for r in e.refusals]
            click.echo(json.dumps({"ok": False, "refusals": refusals}))
        raise
    address = active.address if active else None
    if as_json:
        click.echo(
            json.dumps(
                {
                    "ok": True,
                    "environment": found.settings.app_env,
                    "address": address,
                    "networks": sorted(found.networks),
                    "warnings": list(found.warnings),
                }
            )
        )
        return
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"ok: {found.settings.app_env}, signing for {address}")


@cli.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["merchant", "admin", "devops"]),
    default=["merchant"],
    show_default=True,
    help="What it may do; repeatable.",
)
@click.option(
    "--subject",
    default="developer",
    show_default=True,
    help="Who asks: references and lists are per subject.",
)
@click.option(
    "--seconds", default=300, show_default=True, help="Lifetime; 300 at most."
)
@click.option("--scope", "scopes", multiple=True, help="As keys:rotate; repeatable.")
@click.option("--kid", help="Key id, where the service reads a JWKS file.")
def token(
    roles: tuple[str, ...],
    subject: str,
    seconds: int,
    scopes: tuple[str, ...],
    kid: str | None,
) -> None:
    """Mint a token for development; refused in production."""
    from api.auth.dev_tokens import mint  # noqa: PLC0415

    click.echo(
        mint(
            Settings.from_env(os.environ),
            subject=subject,
            roles=cast("tuple[Role, ...]", roles),
            lifetime=timedelta(seconds=seconds),
            scopes=scopes,
            key_id=kid,
        )
    )


@cli.group()
def db() -> None:
    """The ledger's database."""


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema of DATABASE_URL up to date; safe to repeat."""
    from api.bootstrap import upgrade_database  # noqa: PLC0415

    upgrade_database(Settings.from_env(os.environ))
    click.echo("the database is up to date")


cli.add_command(softhsm)
cli.add_command(refund)
cli.add_command(nonce)
cli.add_command(keys)
cli.add_command(audit)
cli.add_command(doctor)


def main() -> NoReturn:
    """Run the command line; our errors become one line each, and a status."""
    watch_uncaught()
    try:
        cli.main(standalone_mode=False)
    except ConfigurationError as e:
        for refusal in e.refusals:
            click.echo(f"refused: {refusal}", err=True)
        sys.exit(EXIT_STATUS)
    except HotWalletError as e:
        click.echo(f"error: {Refusal(e.code, _said(e))}", err=True)
        sys.exit(1)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as e:
        told = io.StringIO()
        e.show(told)
        # It quotes arguments: a key's ARN or id, a URL.
        click.echo(cut_key_ids(sanitize(told.getvalue())), err=True, nl=False)
        sys.exit(e.exit_code)
    sys.exit(0)


# What the command line calls the fields of ``InvalidInputError``.
_ARGUMENTS = {"key_id": "NEW_KEY_ID", "active_address": "--from"}


def _said(error: HotWalletError) -> str:
    """Return what *error* says, and what its class knows beside it."""
    match error:
        case InvalidInputError(field=str(field)):
            return f"{_ARGUMENTS.get(field, field)} {error}"
        case NewKeyUnhealthyError(reason=reason):
            return f"{error} ({reason})"
    return str(error)


if __name__ == "__main__":
    main()
