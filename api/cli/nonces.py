"""``hotwallet nonce``: inspect, pause and repair the nonces of wallets."""

import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from api.bootstrap import build_container
from api.cli.confirmation import confirmed
from api.cli.operator import current_operator
from api.cli.output import command_logging, json_option, print_result
from api.container import Container
from api.views.explanations import repair_document
from api.views.refunds import timestamp
from signer.chain.chain import Chain
from signer.errors import NotFoundError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Operation
from signer.ports import utc_now
from signer.refunds.nonce_admin import NonceAdmin
from signer.refunds.wallet_repair import RepairResult, repair_wallets


@click.group()
def nonce() -> None:
    """Inspect, pause and repair the nonces of wallets."""


@nonce.command("repair")
@click.option("--network", help="Compare wallets of this network only.")
@confirmed("Accept every foreign transaction, and resume the paused wallets?")
@json_option
def repair_nonces(network: str | None, *, dry_run: bool, as_json: bool) -> None:
    """
    Compare each wallet with its chain, and resume paused wallets.

    Transactions that the ledger lacks are recorded, foreign transactions are accepted,
    and the wallet assigns nonces again.  With --dry-run, wallets are only compared.

    A foreign transaction was signed with your key, but not by this service: find out
    who sent it before you accept it, and rotate the key if you cannot.

    Exits with 1 while a wallet is paused.  A `nonce pause` is reported, and stays.
    """
    with command_logging():
        opened = build_container()
        if dry_run:
            chains = _select(opened.chains, network)
            repairs = list(repair_wallets(opened.store, chains, utc_now, apply=False))
        else:
            repairs = list(_nonce_admin(opened).repair(network, current_operator()))
    print_result(
        [repair_document(each) for each in repairs],
        _format_repairs(repairs),
        as_json=as_json,
    )
    if any(each.is_open for each in repairs):
        sys.exit(1)


@nonce.command("pause")
@click.option("--network", help="Pause this network only.")
@json_option
def pause_nonces(network: str | None, as_json: bool) -> None:
    """
    Assign no more nonces on any host until `nonce resume`: the kill switch.

    Runs without confirmation.  Refunds are still accepted, and wait.  Refunds that have
    a nonce already continue, since nodes may have their transactions; to stop those
    too, disable the key.
    """
    with command_logging():
        admin = _nonce_admin(build_container())
        changed = admin.pause(network, current_operator())
    _print_statuses(changed, "paused", "already-paused", as_json=as_json)


@nonce.command("resume")
@click.option("--network", help="Resume this network only.")
@json_option
def resume_nonces(network: str | None, as_json: bool) -> None:
    """Assign nonces again after `nonce pause`; wallets paused otherwise stay paused."""
    with command_logging():
        admin = _nonce_admin(build_container())
        changed = admin.resume(network, current_operator())
    _print_statuses(changed, "resumed", "not-paused", as_json=as_json)


@nonce.command("abandon")
@click.argument("address")
@click.option("--network", help="On this network only.")
@confirmed(
    "A payment that the ledger has forgotten would be paid twice. Stop waiting for"
    " pending transactions of {address}?"
)
@json_option
def abandon_nonces(
    address: str, network: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """
    Stop waiting for pending transactions of ADDRESS, the address of a blocked key.

    Refunds wait while such a transaction may be one of our payments that a ledger
    restored from a backup has forgotten.  An attacker who has the key can keep one
    pending without end.  Abandon only transactions that are not ours: a payment that
    the ledger has forgotten would be paid twice.
    """
    with command_logging():
        admin = _nonce_admin(build_container())
        if dry_run:
            changed = admin.waiting(address, network)
        else:
            changed = admin.abandon(address, network, current_operator())
    done = "would-abandon" if dry_run else "abandoned"
    _print_statuses(changed, done, "not-waiting", as_json=as_json)


def _print_statuses(
    changed: Mapping[str, bool], done: str, unchanged: str, *, as_json: bool
) -> None:
    statuses = {name: done if is_new else unchanged for name, is_new in changed.items()}
    print_result(
        [{"network": name, "status": status} for name, status in statuses.items()],
        [f"{name}: {status}" for name, status in statuses.items()],
        as_json=as_json,
    )


def _nonce_admin(opened: Container) -> NonceAdmin:
    """Return the service that changes wallets and records who did."""
    admin_audit = AdminAudit(opened.audit, Operation.ADMINISTRATION)
    return NonceAdmin(opened.store, opened.chains, admin_audit, utc_now)


def _select(chains: Mapping[str, Chain], network: str | None) -> Mapping[str, Chain]:
    if network is None:
        return chains
    if network not in chains:
        raise NotFoundError("there is no such network in the networks file")
    return {network: chains[network]}


def _format_repairs(repairs: Sequence[RepairResult]) -> Iterator[str]:
    if not repairs:
        yield "no wallet has paid anything yet"
    for each in repairs:
        yield from _format_repair(each)


def _format_repair(each: RepairResult) -> Iterator[str]:
    wallet, status = each.wallet_status.wallet, each.wallet_status
    yield (
        f"{each.network} {wallet.sender}: next nonce {wallet.next_nonce},"
        f" the chain's {status.chain_nonce}"
    )
    if each.stopped_at is not None:
        yield (
            f"  an operator paused the network at {timestamp(each.stopped_at)}:"
            " `hotwallet nonce resume` ends that"
        )
    if not each.is_open:
        yield "  resumed" if each.resumed else "  in order"
        return
    if wallet.paused_by is None:
        yield "  not paused yet: a worker will pause it"
    else:
        yield f"  paused by {wallet.paused_by}"
    if status.unknown_count:
        yield f"  not looked at yet: {status.unknown_count} of the chain's transactions"
    for foreign in status.foreign:
        yield f"  foreign: nonce {foreign.nonce}, transaction {foreign.tx_hash}"
    yield f"  {each.problem or 'to accept this and resume the wallet: omit --dry-run'}"
