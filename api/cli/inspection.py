"""``hotwallet refund`` and ``hotwallet nonce``: see what is, and mend it safely."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from api.cli.operator import invoker
from api.logs import answer_alone, audit_logger
from api.views.explanations import explanation_document, repair_document
from api.views.refunds import timestamp
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.errors import NotFoundError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Operation
from signer.ports import utc_now
from signer.refunds.explain import Explanation
from signer.refunds.nonce_admin import NonceAdmin
from signer.refunds.wallet_repair import Repair, repair


if TYPE_CHECKING:
    from api.container import Container


@click.group()
def refund() -> None:
    """One refund."""


@refund.command()
@click.argument("refund_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(refund_id: str, as_json: bool) -> None:
    """Say why REFUND_ID stands where it stands, and what happens next."""
    from api.bootstrap import build_container  # noqa: PLC0415  Help needs no backend.

    with answer_alone():
        seen = build_container()
        explainer = seen.explainer
        found = seen.store.get(refund_id)
        if found is None:
            raise NotFoundError("there is no such refund")
        explanation = explainer.explain(found)
    if as_json:
        click.echo(json.dumps(explanation_document(explanation)))
        return
    for line in _explanation_told(explanation):
        click.echo(line)


@click.group()
def nonce() -> None:
    """The nonces of the wallets."""


@nonce.command("repair")
@click.option("--network", help="Look at this network alone.")
@click.option("--apply", is_flag=True, help="Accept what is foreign, and go on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def repair_nonces(network: str | None, apply: bool, as_json: bool) -> None:
    """
    Compare each wallet with its chain, and let a paused one go on.

    Without --apply nothing is changed.  With it, the transactions are written down
    that the ledger missed, foreign ones are accepted, and the wallet gives out nonces
    again.  What is foreign was signed with your key by somebody else: find out by
    whom before you accept it, and rotate the key if you cannot tell.

    Exits with 1 while a wallet is paused.  A stop by `nonce pause` is told, and stays.
    """
    from api.bootstrap import build_container  # noqa: PLC0415

    with answer_alone():
        seen = build_container()
        if apply:
            repairs = _controls(seen).repair(network, invoker())
        else:
            chains = _chosen(seen.chains, network)
            repairs = list(repair(seen.store, chains, utc_now, apply=False))
    if as_json:
        click.echo(json.dumps([repair_document(each) for each in repairs]))
    for line in () if as_json else _repairs_told(repairs):
        click.echo(line)
    if any(each.is_open for each in repairs):
        sys.exit(1)


@nonce.command("pause")
@click.option("--network", help="Stop this network alone.")
def pause_nonces(network: str | None) -> None:
    """
    Give out no more nonces on any host, until `nonce resume`: the kill switch.

    Refunds are still accepted, and wait.  What has a nonce already goes on, since the
    nodes may have it; to stop that as well, disable the key.
    """
    from api.bootstrap import build_container  # noqa: PLC0415

    with answer_alone():
        told = _controls(build_container()).pause(network, invoker())
    for name, is_new in told.items():
        click.echo(f"{name}: {'paused' if is_new else 'was paused already'}")


@nonce.command("resume")
@click.option("--network", help="Let this network go on alone.")
def resume_nonces(network: str | None) -> None:
    """Give out nonces again after `nonce pause`; other pauses stay."""
    from api.bootstrap import build_container  # noqa: PLC0415

    with answer_alone():
        told = _controls(build_container()).resume(network, invoker())
    for name, was_stopped in told.items():
        click.echo(f"{name}: {'goes on' if was_stopped else 'was not paused'}")


@nonce.command("abandon")
@click.argument("address")
@click.option("--network", help="On this network alone.")
def abandon_nonces(address: str, network: str | None) -> None:
    """
    Wait no more for what ADDRESS, of a blocked key, has in the nodes' pools.

    Nobody is paid while such a transaction may be a payment of ours that a ledger from
    a backup forgot; and whoever has the key can leave one there for ever.  Do this only
    if you know that it is his: what we forgot would be paid twice.
    """
    from api.bootstrap import build_container  # noqa: PLC0415

    with answer_alone():
        controls = _controls(build_container())
        told = controls.abandon(address, network, invoker())
    for name, was_awaited in told.items():
        click.echo(f"{name}: {'goes on' if was_awaited else 'was not waiting'}")


def _controls(seen: "Container") -> NonceAdmin:
    """Return what changes the wallets, and writes down who did."""
    audit = AuditLog(audit_logger(), journal=seen.store)
    minutes = AdminAudit(audit, Alerts(), Operation.ADMINISTRATION)
    return NonceAdmin(seen.store, seen.chains, minutes, utc_now)


def _chosen(chains: Mapping[str, Chain], network: str | None) -> Mapping[str, Chain]:
    if network is None:
        return chains
    if network not in chains:
        raise NotFoundError("there is no such network in the networks file")
    return {network: chains[network]}


def _repairs_told(repairs: Sequence[Repair]) -> Iterator[str]:
    if not repairs:
        yield "no wallet has paid anything yet"
    for each in repairs:
        wallet, standing = each.standing.wallet, each.standing
        yield (
            f"{each.network} {wallet.sender}: next nonce {wallet.next_nonce},"
            f" the chain's {standing.counted}"
        )
        if each.stopped_at is not None:
            yield (
                f"  an operator stopped the network at {timestamp(each.stopped_at)}:"
                " `hotwallet nonce resume` ends that"
            )
        if not each.is_open:
            yield "  resumed" if each.resumed else "  in order"
            continue
        yield f"  paused by {wallet.paused_by or 'nobody yet'}"
        if standing.unseen:
            yield f"  {standing.unseen} of the chain's transactions not looked at yet"
        for foreign in standing.foreign:
            yield f"  foreign: nonce {foreign.nonce}, transaction {foreign.tx_hash}"
        yield f"  {each.problem or '--apply accepts this, and lets the wallet go on'}"


def _explanation_told(found: Explanation) -> Iterator[str]:
    refund = found.refund
    yield f"{refund.id}: {refund.status}"
    yield f"  {found.summary}"
    at = f" (from {timestamp(found.next_at)} on)" if found.next_at else ""
    yield f"  Next: {found.next_step}{at}"
    if found.policy is not None:
        yield f"  Today's rules would refuse it: {found.policy}"
    yield "History:"
    for move in found.history:
        yield f"  {timestamp(move.at)}  {move.status}"
    if found.transactions:
        yield "Transactions:"
    for sent in found.transactions:
        yield (
            f"  {sent.tx_hash}  {sent.kind}, nonce {sent.nonce},"
            f" at most {sent.max_fee_per_gas} wei per gas"
        )
    if found.nodes:
        yield "Nodes:"
    for node in found.nodes:
        where = ", ".join(node.transactions.values()) or "nothing sent"
        yield f"  {node.node}: {node.error or f'head {node.head}, {where}'}"
    for part, code in found.unanswered.items():
        yield f"Not known: {part} ({code})"
