"""``hotwallet keys``: list, rotate, fail over, revoke, reinstate and sweep keys."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from api.cli.confirmation import confirmed
from api.cli.operator import REASON, current_operator, identified_operator
from api.cli.output import Result, reports
from signer.errors import NewKeyUnhealthyError
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from signer.keys.failover import FailoverResult
    from signer.keys.rotation import Rotation
    from signer.keys.rotation_options import RotationOptions, RotationResult
    from signer.model.key import Key
    from signer.refunds.sweep_plan import SweepItem


_RETRY_SECONDS = 5.0


_SCOPE = "keys:rotate"


@click.group()
def keys() -> None:
    """
    List, rotate, fail over, revoke, reinstate and sweep signing keys.

    Commands that change keys ask for confirmation on a terminal, and refuse to run
    elsewhere without --yes.
    """


@keys.command("list")
@reports
def list_keys() -> Result:
    """List every key of the key ring, the active one first."""
    from api.bootstrap import build_container
    from api.views.keys import key_document

    ring = build_container().store.keys()
    return Result([key_document(key) for key in ring], _format_ring(ring))


@keys.command()
@click.argument("new_key_id")
@click.option(
    "--compromised",
    is_flag=True,
    help="Revoke the old key: it never signs again.  Requires --from.",
)
@click.option(
    "--from",
    "active_address",
    metavar="ADDRESS",
    help="Address of the key to replace; if another key is active, change nothing.",
)
@click.option(
    "--without-funds",
    is_flag=True,
    help="With --compromised: do not wait for funds on the new address.",
)
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    help="Seconds to retry while KMS does not know the key or its permissions yet.",
)
@REASON
@confirmed("Refunds are then paid from the new key's address. Make it the active key?")
@reports
def rotate(
    new_key_id: str,
    *,
    dry_run: bool,
    compromised: bool,
    active_address: str | None,
    without_funds: bool,
    wait: float,
    reason: str,
) -> Result:
    """
    Make NEW_KEY_ID the active key: a key id, ARN or alias of AWS KMS, a CKA_ID in hex,
    or the id that another backend uses.

    The new key must pass a self-test first; if it fails, the old key stays active.  A
    new key has a new address, which must be funded.

    Exits with 1 if the key is not active afterwards (with --dry-run: would not be).

    Example: hotwallet keys rotate alias/refunds-2 --dry-run --wait 600
    """
    from api.bootstrap import build_admin_container
    from api.views.keys import rotation_document
    from signer.keys.rotation_options import (
        AWAITING_FUNDS,
        WOULD_AWAIT_FUNDS,
        RotationOptions,
    )

    options = RotationOptions(dry_run, compromised, active_address, without_funds)
    container = build_admin_container()
    # A planned rotation needs no approval, so it must not fail because of a token.
    needs_approval = compromised and not dry_run
    operator = (
        identified_operator(container, _SCOPE, reason)
        if needs_approval
        else current_operator(reason)
    )
    result = _rotate_with_retries(
        container.rotation, wait, new_key_id, options, operator
    )
    is_active = result.status not in {AWAITING_FUNDS, WOULD_AWAIT_FUNDS}
    return Result(rotation_document(result), _format_rotation(result), is_active)


@keys.command()
@click.argument("new_key_id")
@confirmed("Sign with this replica from now on?")
@reports
def failover(new_key_id: str, *, dry_run: bool) -> Result:
    """
    Sign with NEW_KEY_ID, the ARN of a multi-Region key's replica in another region.

    The replica must pass a self-test first.  Address, nonces and the key's state do not
    change, since the replica has the same key material.

    Example: hotwallet keys failover arn:aws:kms:eu-west-1:111122223333:key/mrk-...
    """
    from api.bootstrap import build_admin_container
    from api.views.keys import failover_document

    result = build_admin_container().failover.fail_over(
        new_key_id, current_operator(), dry_run=dry_run
    )
    return Result(failover_document(result), _format_failover(result))


@keys.command()
@click.argument("address")
@REASON
@confirmed("A revoked key never signs again. Revoke the key of {address}?")
@reports
def revoke(address: str, reason: str, *, dry_run: bool) -> Result:
    """
    Block the former key of ADDRESS as compromised: it never signs again.

    Refunds that it has signed may still be mined; they are listed for you to check.
    Refunds that it has not signed are paid by the active key.  To revoke the active
    key, use `hotwallet keys rotate --compromised --from ADDRESS`.
    """
    from api.bootstrap import build_admin_container
    from api.views.keys import key_document

    container = build_admin_container()
    revocation = container.revocation
    if dry_run:
        key, stranded = revocation.preview(address)
    else:
        operator = identified_operator(container, _SCOPE, reason)
        key, stranded = revocation.revoke(address, operator)
    status = "would be revoked" if dry_run else key.state
    return Result(
        {**key_document(key), "strandedRefunds": list(stranded)},
        [f"{status}: {key.address}", *_format_stranded(stranded)],
    )


@keys.command()
@click.argument("address")
@click.option("--reason", required=True, help="Why, for the audit log.")
@confirmed("It may sign again. Reinstate the key of {address}?")
@reports
def reinstate(address: str, *, reason: str, dry_run: bool) -> Result:
    """
    Undo the revocation of ADDRESS, which was a mistake, within 24 hours.

    The key finishes the refunds that it had signed, as after a planned rotation; they
    are listed.  It does not become the active key.
    """
    from api.bootstrap import build_admin_container
    from api.views.keys import reinstatement_document

    container = build_admin_container()
    reinstatement = container.reinstatement
    if dry_run:
        key, refunds = reinstatement.preview(address)
    else:
        operator = identified_operator(container, _SCOPE)
        key, refunds = reinstatement.reinstate(address, reason, operator)
    status = "would be reinstated" if dry_run else key.state
    return Result(
        reinstatement_document(key, refunds),
        [
            f"{status}: {key.address}",
            *(f"  signed by it, and still open: {each}" for each in refunds),
        ],
    )


@keys.command()
@click.argument("address")
@confirmed("Move all funds of {address} to the active key's address?")
@reports
def sweep(address: str, *, dry_run: bool) -> Result:
    """
    Move all funds of ADDRESS, a former key's, to the active key's address.

    Tokens go first, since moving them costs gas.  When those transfers are confirmed,
    run the command again to move the network's coin.  A worker sends the transfers like
    refunds: `hotwallet refund explain ID` shows their progress.  Running the command
    twice does not move anything twice.

    Exits with 1 while ADDRESS has funds that no transfer moves yet.
    """
    from api.bootstrap import build_admin_container

    sweeper = build_admin_container().sweeper
    if dry_run:
        items = sweeper.plan(address)
    else:
        items = sweeper.sweep(address, current_operator())
    all_moving = all(item.refund is not None for item in items)
    documents = [_sweep_document(item) for item in items]
    return Result(documents, _format_sweep(items), all_moving)


def _rotate_with_retries(
    rotation: Rotation,
    wait: float,
    name: str,
    options: RotationOptions,
    operator: Actor,
) -> RotationResult:
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        try:
            return rotation.rotate(name, operator, replace(options, will_retry=True))
        except NewKeyUnhealthyError as e:
            if not e.may_pass:
                raise
        click.echo("not yet; trying again ...", err=True)
        time.sleep(min(_RETRY_SECONDS, left))
    # The last attempt alone raises an alert if it fails.
    return rotation.rotate(name, operator, options)


def _format_ring(ring: Sequence[Key]) -> Iterator[str]:
    from api.views.keys import key_document
    from api.views.refunds import timestamp

    if not ring:
        yield (
            "the key ring is empty: the first key is added when the service starts, or"
            " by `hotwallet guard`"
        )
    for key in ring:
        cause = f", {key.blocked_by}" if key.blocked_by else ""
        if key.reinstatable_until is not None:
            cause = f", can be reinstated until {timestamp(key.reinstatable_until)}"
        yield (
            f"{key_document(key)['keyId']:12} {key.backend:8} {key.address} "
            f" {key.state}{cause}, epoch {key.epoch or '-'}"
        )


def _format_rotation(result: RotationResult) -> Iterator[str]:
    from api.views.keys import rotation_document

    document = rotation_document(result)
    yield f"{result.status}: {document['keyId']} {document['address']}"
    if result.previous is not None:
        yield f"  before: {document['previousKeyId']} {document['previousAddress']}"
    for holding in result.holdings:
        tokens = ", ".join(f"{value} {name}" for name, value in holding.tokens.items())
        if holding.error is None:
            yield f"  {holding.network}: {holding.gas} for gas, {tokens}"
    yield from _format_stranded(result.stranded)
    for warning in result.warnings:
        yield f"  warning: {warning}"


def _format_failover(result: FailoverResult) -> Iterator[str]:
    from api.views.keys import failover_document

    document = failover_document(result)
    yield f"{document['status']}: {document['keyId']} {document['address']}"
    yield f"  before: {document['previousKeyId']}; the key is {document['state']}"
    for warning in result.warnings:
        yield f"  warning: {warning}"


def _format_stranded(refund_ids: Sequence[str]) -> Iterator[str]:
    for refund_id in refund_ids:
        yield f"  signed by the old key, and still open: {refund_id}"


def _sweep_document(item: SweepItem) -> dict[str, Any]:
    return {
        "network": item.network,
        "token": item.symbol,
        "amount": item.display_amount,
        "waitsFor": item.waits_for,
        "refund": None if item.refund is None else item.refund.id,
    }


def _format_sweep(items: Sequence[SweepItem]) -> Iterator[str]:
    if not items:
        yield "nothing is left there"
    for item in items:
        state = "would be moved"
        if item.waits_for is not None:
            state = f"waits for {item.waits_for}"
        if item.refund is not None:
            state = f"{item.refund.status} as {item.refund.id}"
        yield f"{item.network}: {item.display_amount} {item.symbol}: {state}"
