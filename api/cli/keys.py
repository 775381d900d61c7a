"""``hotwallet keys``: see the ring, rotate it, and relocate its keys."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from api.cli.operator import invoker
from api.http.keys import (
    failover_document,
    key_document,
    rotation_document,
)
from api.logs import answer_alone
from signer.errors import NewKeyUnhealthyError
from signer.keys.changeover import (
    AWAITING_FUNDS,
    WOULD_AWAIT_FUNDS,
    RotationOptions,
    RotationResult,
)
from signer.keys.rotation import Rotation
from signer.refunds.sweep_plan import SweepItem


_RETRY_SECONDS = 5.0

_NOT_ACTIVE = frozenset({AWAITING_FUNDS, WOULD_AWAIT_FUNDS})


@click.group()
def keys() -> None:
    """The keys that sign or have signed."""


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_keys(as_json: bool) -> None:
    """Show every key of the ring, the active one first."""
    from api.bootstrap import build_container  # noqa: PLC0415  Help needs no backend.

    with answer_alone():
        ring = build_container().store.keys()
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
    "--from",
    "active_address",
    metavar="ADDRESS",
    help="The key to replace; where another one is active, nothing is done.",
)
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    help="Seconds to try again while KMS does not know the key or permission yet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rotate(
    new_key_id: str,
    *,
    dry_run: bool,
    compromised: bool,
    active_address: str | None,
    wait: float,
    as_json: bool,
) -> None:
    """
    Make NEW_KEY_ID the active key: a KMS key id, ARN or alias, or a CKA_ID in hex.

    The new key proves itself first; until then, and if it does not, the old one goes
    on.  A new key is a new address, which must be funded.

    Exits with 1 when the key is not active then, or would not be.
    """
    from api.bootstrap import build_admin_container  # noqa: PLC0415

    with answer_alone():
        terms = RotationOptions(dry_run, compromised, active_address)
        rotated = _patiently(build_admin_container().rotation, wait, new_key_id, terms)
    if as_json:
        click.echo(json.dumps(rotation_document(rotated)))
    for line in () if as_json else _told(rotated):
        click.echo(line)
    if rotated.status in _NOT_ACTIVE:
        sys.exit(1)


@keys.command()
@click.argument("new_key_id")
@click.option("--dry-run", is_flag=True, help="Prove the key, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def relocate(new_key_id: str, dry_run: bool, as_json: bool) -> None:
    """
    Pin a key of the ring to NEW_KEY_ID, another place where the same key lives.

    That is a replica of a multi-Region KMS key, by its ARN.  The key proves itself
    there first; the address, the nonces and what the key may do stay as they are.
    """
    from api.bootstrap import build_admin_container  # noqa: PLC0415

    with answer_alone():
        relocated = build_admin_container().failover.relocate(
            new_key_id, invoker(), rehearse=dry_run
        )
    shown = failover_document(relocated)
    if as_json:
        click.echo(json.dumps(shown))
        return
    click.echo(f"{shown['status']}: {shown['keyId']} {shown['address']}")
    click.echo(f"  before: {shown['previousKeyId']}, and it is {shown['state']}")
    for warning in relocated.warnings:
        click.echo(f"  warning: {warning}")


@keys.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def block(address: str, as_json: bool) -> None:
    """
    Give up the former key with ADDRESS as compromised: it signs nothing any more.

    Refunds that it has signed may be mined yet; they are listed, for a person to look
    at.  Those that it never signed are paid by the active key.
    """
    from api.bootstrap import build_admin_container  # noqa: PLC0415

    with answer_alone():
        actor = invoker()
        key, stranded = build_admin_container().revocation.block(address, actor)
    if as_json:
        click.echo(json.dumps({**key_document(key), "strandedRefunds": list(stranded)}))
        return
    click.echo(f"{key.state}: {key.address}")
    for refund_id in stranded:
        click.echo(f"  signed by it, and open: {refund_id}")


@keys.command()
@click.argument("address")
@click.option("--apply", is_flag=True, help="Move it; without this, only say what.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def sweep(address: str, apply: bool, as_json: bool) -> None:
    """
    Move what is left at ADDRESS, a former key's, to the active key's address.

    Tokens go first, since they need the coin for gas; call it again for the coin when
    they are confirmed.  A worker sends what is accepted here, like any refund:
    `hotwallet refund explain ID` tells how far it is.  What is being moved already is
    not moved again.

    Exits with 1 while something is left that nothing moves yet.
    """
    from api.bootstrap import build_admin_container  # noqa: PLC0415

    with answer_alone():
        sweeper = build_admin_container().sweeper
        actor = invoker()
        pieces = sweeper.sweep(address, actor) if apply else sweeper.plan(address)
    if as_json:
        click.echo(json.dumps([_piece_document(piece) for piece in pieces]))
    for line in () if as_json else _swept(pieces):
        click.echo(line)
    if any(piece.refund is None for piece in pieces):
        sys.exit(1)


def _piece_document(piece: SweepItem) -> dict[str, Any]:
    return {
        "network": piece.network,
        "token": piece.symbol,
        "amount": piece.whole,
        "waitsFor": piece.waits_for,
        "refund": None if piece.refund is None else piece.refund.id,
    }


def _swept(pieces: Sequence[SweepItem]) -> Iterator[str]:
    if not pieces:
        yield "nothing is left there"
    for piece in pieces:
        state = "would be moved"
        if piece.waits_for is not None:
            state = f"waits for {piece.waits_for}"
        if piece.refund is not None:
            state = f"{piece.refund.status} as {piece.refund.id}"
        yield f"{piece.network}: {piece.whole} {piece.symbol}: {state}"


def _patiently(
    rotation: Rotation, wait: float, name: str, terms: RotationOptions
) -> RotationResult:
    deadline = time.monotonic() + wait
    actor = invoker()
    while (left := deadline - time.monotonic()) > 0:
        try:
            return rotation.rotate(name, actor, replace(terms, insists=True))
        except NewKeyUnhealthyError as e:
            if not e.may_pass:
                raise
        click.echo("not yet; trying again ...", err=True)
        time.sleep(min(_RETRY_SECONDS, left))
    return rotation.rotate(name, actor, terms)  # The last time: it tells who must know.


def _told(rotated: RotationResult) -> Iterator[str]:
    shown = rotation_document(rotated)
    yield f"{rotated.status}: {shown['keyId']} {shown['address']}"
    if rotated.previous is not None:
        yield f"  before: {shown['previousKeyId']} {shown['previousAddress']}"
    for holding in rotated.holdings:
        tokens = ", ".join(f"{value} {name}" for name, value in holding.tokens.items())
        if holding.error is None:
            yield f"  {holding.network}: {holding.gas} for gas, {tokens}"
    for refund_id in rotated.stranded:
        yield f"  signed by the old key, and open: {refund_id}"
    for warning in rotated.warnings:
        yield f"  warning: {warning}"
