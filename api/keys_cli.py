"""``hotwallet keys``: see the ring, and rotate it."""

import contextlib
import getpass
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from api.administration import key_document, rotation_document
from api.logs import configure
from signer.audit.record import Actor
from signer.errors import AccessDeniedError, KeyNotFoundError, NewKeyUnhealthyError
from signer.rotation import AWAITING_FUNDS, Rotated, Rotation
from signer.settings import Settings


_RETRY_SECONDS = 5.0

# What a grant or a new key's first seconds look like (KMS is eventually consistent).
_MAY_PASS = frozenset({AccessDeniedError.code, KeyNotFoundError.code})


@click.group()
def keys() -> None:
    """The keys that sign or have signed."""


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_keys(as_json: bool) -> None:
    """Show every key of the ring, the active one first."""
    from api.bootstrap import open_ledger  # noqa: PLC0415  Help needs no backend.

    with _answer_alone():
        ring = open_ledger(os.environ).keys()
    if as_json:
        click.echo(json.dumps([key_document(key) for key in ring]))
        return
    if not ring:
        click.echo("no key was enrolled yet: start the service, or `hotwallet guard`")
    for key in ring:
        shown = key_document(key)
        why = f", {key.blocked_by}" if key.blocked_by else ""
        click.echo(
            f"{shown['keyId']:12} {key.backend:8} {key.address}  {key.state}"
            f"{why}, epoch {key.epoch or '-'}"
        )


@keys.command()
@click.argument("new_key_id")
@click.option("--dry-run", is_flag=True, help="Prove the new key, and change nothing.")
@click.option(
    "--compromised", is_flag=True, help="The old key signs nothing at all any more."
)
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    help="Seconds to try again while KMS does not know the key or the grant yet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rotate(
    new_key_id: str, dry_run: bool, compromised: bool, wait: float, as_json: bool
) -> None:
    """
    Make NEW_KEY_ID the active key: a KMS key id, ARN or alias, or a CKA_ID in hex.

    The new key proves itself first; until then, and if it does not, the old one goes
    on.  A new key is a new address, which must be funded.

    Exits with 1 when the key is not active then.
    """
    from api.bootstrap import build_rotation  # noqa: PLC0415

    with _answer_alone():
        rotation = build_rotation(os.environ)
        rotated = _patiently(
            rotation, wait, new_key_id, rehearse=dry_run, compromised=compromised
        )
    if as_json:
        click.echo(json.dumps(rotation_document(rotated)))
    for line in () if as_json else _told(rotated):
        click.echo(line)
    if rotated.status == AWAITING_FUNDS:
        sys.exit(1)


def _patiently(rotation: Rotation, wait: float, name: str, **how: Any) -> Rotated:
    deadline = time.monotonic() + wait
    actor = Actor(f"cli:{getpass.getuser()}")
    while True:
        try:
            return rotation.rotate(name, actor, **how)
        except NewKeyUnhealthyError as e:
            if e.reason not in _MAY_PASS or time.monotonic() >= deadline:
                raise
        click.echo("not yet; trying again ...", err=True)
        time.sleep(_RETRY_SECONDS)


def _told(rotated: Rotated) -> Iterator[str]:
    shown = rotation_document(rotated)
    yield f"{rotated.status}: {shown['keyId']} {shown['address']}"
    if rotated.previous is not None:
        yield f"  before: {shown['previousKeyId']} {shown['previousAddress']}"
    for holding in rotated.holdings:
        tokens = ", ".join(f"{value} {name}" for name, value in holding.tokens.items())
        if holding.error is None:
            yield f"  {holding.network}: {holding.gas} for gas, {tokens}"
    for warning in rotated.warnings:
        yield f"  warning: {warning}"


@contextlib.contextmanager
def _answer_alone() -> Iterator[None]:
    """Let the log go to standard error, so that the answer stands alone."""
    with contextlib.redirect_stdout(sys.stderr):
        configure(Settings.from_env(os.environ))
        yield
