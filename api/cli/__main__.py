"""The ``hotwallet`` command: ``serve``, ``db``, and the table of all others."""

import gc
import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import click

from api.cli.lazy import LazyGroup
from api.cli.output import Result, prints
from api.uncaught import watch_uncaught
from signer.errors import (
    ConfigurationError,
    HotWalletError,
    InvalidInputError,
    NewKeyUnhealthyError,
    Refusal,
)
from signer.redact import cut_key_ids, sanitize


# The module and attribute of each command of the core, and its line in the help.
_COMMANDS = {
    "approvals": (
        "api.cli.administration:approvals",
        "List, approve and reject what needs two administrators.",
    ),
    "audit": ("api.cli.audit:audit", "Export and verify the audit log of key use."),
    "config": ("api.cli.config:config", "Check configuration files."),
    "explain-code": (
        "api.cli.guard:explain_code",
        "Explain a refusal, error or alert code.",
    ),
    "guard": ("api.cli.guard:guard", "Check whether the service would start."),
    "health": ("api.cli.guard:health", "Ask whether the API of this host answers."),
    "init": ("api.cli.init:init", "Write a configuration to start from."),
    "keys": (
        "api.cli.administration:keys",
        "List, rotate, revoke and reinstate signing keys.",
    ),
    "limits": (
        "api.cli.limits:limits",
        "Compare the limits of the files with the accepted ones.",
    ),
    "listen": ("api.cli.webhooks:listen", "Print the events that a webhook receives."),
    "nonce": ("api.cli.administration:nonce", "Inspect and repair wallets' nonces."),
    "policy": (
        "api.cli.policy:policy",
        "Show, test and explain what may be signed.",
    ),
    "refund": (
        "api.cli.refunds:refund",
        "List, explain, submit and export refunds.",
    ),
    "resume": ("api.cli.administration:resume", "Sign again after a stop."),
    "secrets": (
        "api.cli.guard:secrets",
        "List the secrets of this host, with their ages.",
    ),
    "stop": ("api.cli.administration:stop", "Stop all signatures: the kill switch."),
    "stops": ("api.cli.administration:stops", "List what is stopped, and why."),
    "tenants": ("api.cli.administration:tenants", "List, block and unblock tenants."),
    "token": ("api.cli.token:token", "Mint a token for development."),
    "up": ("api.cli.worker:up", "Run the API and a worker."),
    "webhooks": (
        "api.cli.webhooks:webhooks",
        "List, repeat and test the deliveries of events.",
    ),
    "worker": ("api.cli.worker:worker", "Process accepted refunds."),
}


# What libraries read from the environment when they are loaded.
_LIBRARY_SETTINGS = {
    # The other function that may be installed takes 2 MB.
    "ETH_HASH_BACKEND": "pysha3",
    # glibc would keep freed memory for each thread of the processes started from here.
    "MALLOC_ARENA_MAX": "2",
}


@click.group(
    cls=LazyGroup,
    core=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="hotwallet")
@click.option("--verbose", is_flag=True, help="Show a command's log on a terminal.")
@click.option(
    "--no-env-file",
    is_flag=True,
    envvar="HOTWALLET_NO_ENV_FILE",
    help="Do not load .env from the working directory.",
)
def cli(verbose: bool, no_env_file: bool) -> None:
    """
    Sign and send stablecoin refunds with a key in an HSM.

    Settings are environment variables; .env.example lists them.  Outside production,
    .env in the working directory sets those that are not set.  A command exits with 78
    if the settings are refused; `hotwallet explain-code CODE` explains why.
    """
    env_file = Path(".env")
    if not no_env_file and env_file.exists():
        from api.cli.options import load_env_file

        message = load_env_file(os.environ, env_file)
        if message is not None:
            click.echo(message, err=True)


@cli.command()
@click.option(
    "--role",
    type=click.Choice(["all", "refunds", "admin", "sign"]),
    help="What to serve, in place of SERVE_ROLE; `refunds` needs no key.",
)
def serve(role: str | None) -> None:
    """
    Serve the API with gunicorn, unless the guard refuses.

    It accepts refunds; `hotwallet worker` pays them.  `hotwallet up` runs both.
    """
    if role is not None:
        os.environ["SERVE_ROLE"] = role
    # gunicorn replaces this process, and runs the guard before it forks workers.
    # With -P, nothing is imported from the working directory.
    command = [sys.executable, "-P", "-m", "api.server"]
    command += ["--config", "python:api.server.gunicorn_conf"]
    os.execvp(sys.executable, [*command, "api.server.entrypoint:get_app()"])  # noqa: S606


@cli.group()
def db() -> None:
    """Manage the database of the ledger."""


@db.command("upgrade")
@click.option(
    "--create",
    is_flag=True,
    help="Create the SQLite file if there is no ledger; needed in production only.",
)
@prints
def db_upgrade(create: bool) -> Result:
    """Bring the schema of DATABASE_URL up to date; safe to repeat."""
    from api.backend_factories import upgrade_database
    from signer.config.settings import Settings

    done = upgrade_database(Settings.from_env(os.environ), create=create)
    document = {
        "action": done.action,
        "path": None if done.path is None else str(done.path),
        "from": done.before,
        "to": done.after,
    }
    place = done.path or "the PostgreSQL database of DATABASE_URL"
    messages = {
        "created": f"created a new ledger in {place}, revision {done.after}",
        "unchanged": f"{place} is already up to date, revision {done.after}",
    }
    return Result(document, [messages[done.action]])


@db.command("mac-key")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--add", is_flag=True, help="Add a new key, which only verifies MACs.")
@click.option(
    "--activate", is_flag=True, help="Make new MACs with the newest key of the file."
)
@click.option(
    "--kms", "arn", metavar="ARN", help="KMS makes the new key, with its HMAC_256 key."
)
@prints
def mac_key(out: Path, add: bool, activate: bool, arn: str | None) -> Result:
    """
    Create a key for MAC_KEY_FILE, or replace it in two steps.

    To replace it, --add a key, copy the file to every host and restart them all.  Then
    --activate the key, copy the file and restart again.  To repeat --activate changes
    nothing.
    """
    from api.backend_factories import derive_mac_key
    from api.key_files import activate_mac_key, add_mac_key, create_mac_key
    from signer.config.settings import Settings

    if add and activate:
        raise click.UsageError(
            "--add and --activate are two steps: every host needs the added key before"
        )
    if activate and arn:
        raise click.UsageError("--kms is for a new key")
    derive = partial(derive_mac_key, Settings.from_env(os.environ))
    try:
        if activate:
            done = activate_mac_key(out, derive)
        else:
            done = (add_mac_key if add else create_mac_key)(out, arn, derive)
    except OSError as e:
        raise click.FileError(str(out), e.strerror) from None
    key = f"the MAC key {done.key_id} in {out}"
    copy = "copy the file to every host"
    line = {
        "created": f"created {key}, which is active; {copy}",
        "added": f"added {key}; {done.active_id} is active; {copy}, restart them all,"
        " then use --activate",
        "activated": f"activated {key}; {copy} and restart them all; the other keys"
        " only verify",
        "unchanged": f"{key} is the newest and already active; nothing was changed",
    }[done.action]
    document = {
        "action": done.action,
        "path": str(out),
        "keyId": done.key_id,
        "activeKeyId": done.active_id,
    }
    return Result(document, [line])


_IMPORTED_OBJECTS = 200_000


def main() -> NoReturn:
    """Run the command line; print an error of ours as one line, and exit."""
    # Of what a command imports nothing is garbage, and looking costs it a sixth.
    gc.set_threshold(_IMPORTED_OBJECTS)
    watch_uncaught()
    for name, value in _LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        cli.main(standalone_mode=False)
    except ConfigurationError as e:
        for refusal in e.refusals:
            click.echo(f"refused: {refusal}", err=True)
        sys.exit(e.exit_status)
    except HotWalletError as e:
        click.echo(f"error: {Refusal(e.code, _message(e))}", err=True)
        sys.exit(1)
    except click.exceptions.Abort:
        click.echo("\naborted", err=True)  # The cursor stands after a question.
        sys.exit(130)
    except click.ClickException as e:
        shown = io.StringIO()
        e.show(shown)
        # Click quotes arguments, which may be the ARN or id of a key, or a URL.
        click.echo(cut_key_ids(sanitize(shown.getvalue())), err=True, nl=False)
        sys.exit(e.exit_code)
    finally:
        # At the exit, Python would search all that was imported for garbage: a third of
        # a short command's time.
        gc.freeze()
    sys.exit(0)


# What the command line calls the fields of ``InvalidInputError``.
_ARGUMENTS = {
    "high_water": "--high-water",
}


def _message(error: HotWalletError) -> str:
    match error:
        case InvalidInputError(field=str(field)):
            return f"{_ARGUMENTS.get(field, field)} {error}"
        case NewKeyUnhealthyError(reason=reason):
            return f"{error} ({reason})"
    return str(error)


if __name__ == "__main__":
    main()
