"""``hotwallet nonce``: inspect and repair the nonces of wallets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from api.cli.confirmation import confirmed
from api.cli.operator import REASON, identified_operator
from api.cli.output import Result, reports
from signer.errors import NotFoundError


if TYPE_CHECKING:
    from signer.chain.chain import Chain
    from signer.refunds.wallet_repair import RepairResult


_SCOPE = "nonces:repair"

_NEXT = "to accept this and resume the wallet: omit --dry-run"


@click.group()
def nonce() -> None:
    """Inspect and repair the nonces of wallets."""


@nonce.command("repair")
@click.option("--network", help="Compare wallets of this network only.")
@REASON
@confirmed("Accept every foreign transaction, and resume the paused wallets?")
@reports
def repair_nonces(network: str | None, reason: str, *, dry_run: bool) -> Result:
    """
    Compare each wallet with its chain, and resume paused wallets.

    Transactions that the ledger lacks are recorded, foreign transactions are accepted,
    and the wallet assigns nonces again.  With --dry-run, wallets are only compared.

    A foreign transaction was signed with your key, but not by this service: find out
    who sent it before you accept it, and rotate the key if you cannot.

    Exits with 1 while a wallet is paused.  A stop of signing is reported, and stays.
    """
    from api.bootstrap import build_container
    from api.views.explanations import repair_document
    from api.views.repairs import repair_lines
    from signer.refunds.wallet_repair import repair_wallets

    opened = build_container()
    if dry_run:
        chains = _select(opened.chains, network)
        compared = repair_wallets(opened.store, chains, opened.clock, apply=False)
        repairs: Sequence[RepairResult] = list(compared)
    else:
        operator = identified_operator(opened, _SCOPE, reason)
        repairs = opened.nonce_admin.repair(network, operator)
    documents = [repair_document(each) for each in repairs]
    all_resumed = not any(each.is_open for each in repairs)
    lines = [line for each in repairs for line in repair_lines(each, _NEXT)]
    lines = lines or ["no wallet has paid anything yet"]
    return Result(documents, lines, all_resumed)


@nonce.command("abandon")
@click.argument("address")
@click.option("--network", help="On this network only.")
@REASON
@confirmed(
    "A payment that the ledger has forgotten would be paid twice. Stop waiting for"
    " pending transactions of {address}?"
)
@reports
def abandon_nonces(
    address: str, network: str | None, reason: str, *, dry_run: bool
) -> Result:
    """
    Stop waiting for pending transactions of ADDRESS, the address of a blocked key.

    Refunds wait while such a transaction may be one of our payments that a ledger
    restored from a backup has forgotten.  An attacker who has the key can keep one
    pending without end.  Abandon only transactions that are not ours: a payment that
    the ledger has forgotten would be paid twice.
    """
    from api.bootstrap import build_container

    container = build_container()
    admin = container.nonce_admin
    if dry_run:
        changed = admin.waiting(address, network)
        return _statuses(changed, "would-abandon", "not-waiting")
    operator = identified_operator(container, _SCOPE, reason)
    changed = admin.abandon(address, network, operator)
    return _statuses(changed, "abandoned", "not-waiting")


def _statuses(changed: Mapping[str, bool], done: str, unchanged: str) -> Result:
    statuses = {name: done if is_new else unchanged for name, is_new in changed.items()}
    return Result(
        [{"network": name, "status": status} for name, status in statuses.items()],
        [f"{name}: {status}" for name, status in statuses.items()],
    )


def _select(chains: Mapping[str, Chain], network: str | None) -> Mapping[str, Chain]:
    if network is None:
        return chains
    if network not in chains:
        raise NotFoundError("there is no such network in the networks file")
    return {network: chains[network]}
