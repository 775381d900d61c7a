"""``hotwallet refund``: list refunds, explain or cancel one."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from api.cli.actions import add_commands
from api.cli.lazy import LazyGroup
from api.cli.options import read_moment
from api.cli.output import Result, command_logging, reports
from signer.errors import InvalidInputError, NotFoundError


if TYPE_CHECKING:
    from datetime import datetime

    from api.container import Container
    from signer.refunds.explanation import Explanation


@click.group(cls=LazyGroup, core={}, path="refund")
def refund() -> None:
    """List, explain, cancel, submit and export refunds."""


add_commands(refund)


def _read_amount(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> Decimal | None:
    from signer.amounts import is_amount

    if text is not None and not is_amount(text):
        raise click.BadParameter("use digits, such as 12.50", param=parameter)
    return None if text is None else Decimal(text)


@refund.command("list")
@click.option("--tenant", help="Only those of this tenant.")
@click.option("--status", help="Only those with this status.")
@click.option("--network", help="Only those on this network.")
@click.option("--recipient", help="Only those to this address.")
@click.option(
    "--from",
    "start",
    metavar="DATE",
    callback=read_moment,
    help="Only those accepted at this time or later: 2026-01-31, or today.",
)
@click.option(
    "--to",
    "end",
    metavar="DATE",
    callback=read_moment,
    help="Only those accepted before this time.",
)
@click.option(
    "--min-amount",
    "least",
    metavar="AMOUNT",
    callback=_read_amount,
    help="Only those of at least so many whole tokens.",
)
@click.option(
    "--max-amount",
    "most",
    metavar="AMOUNT",
    callback=_read_amount,
    help="Only those of at most so many whole tokens.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="CSV, or one JSON object per line.",
)
def list_refunds(  # noqa: PLR0913  Its options.
    *,
    tenant: str | None,
    status: str | None,
    network: str | None,
    recipient: str | None,
    start: datetime | None,
    end: datetime | None,
    least: Decimal | None,
    most: Decimal | None,
    format_: str,
) -> None:
    """
    Print the refunds in the ledger, newest first, while they are read.

    Asks no node and needs no key.  `refund export` has the settled ones with their
    fees, as the chain has them.

    Example: hotwallet refund list --from 2026-01-01 --to 2026-02-01 > january.csv
    """
    from api.bootstrap import build_container
    from api.views.refund_files import write_refunds
    from signer.addresses import parse_address
    from signer.model.refund import Status
    from signer.ports.refund_reports import RefundFilter

    if status is not None and status not in set(Status):
        raise InvalidInputError(f"must be one of {', '.join(Status)}", field="--status")
    wanted = RefundFilter(
        tenant=tenant,
        status=None if status is None else Status(status),
        recipient=None
        if recipient is None
        else parse_address(recipient, field="--recipient"),
        network=network,
        accepted_from=start,
        accepted_before=end,
        min_amount=least,
        max_amount=most,
    )
    with command_logging():
        store = build_container().store
    for piece in write_refunds(store, wanted, format_):
        click.echo(piece, nl=False)


@refund.command()
@click.argument("refund_id")
@reports
def explain(container: Container, refund_id: str) -> Result:
    """
    Explain why REFUND_ID is in its state, and what happens next.

    Changes nothing, and needs no key.

    Example: hotwallet refund explain rf_018f3c5e
    """
    from api.views.explanations import ExplanationDocument

    explainer = container.explainer
    found = container.store.get(refund_id)
    if found is None:
        raise NotFoundError("there is no such refund")
    explanation = explainer.explain(found)
    document = ExplanationDocument.of(explanation).dump()
    return Result(document, _format_explanation(explanation))


def _format_explanation(explanation: Explanation) -> Iterator[str]:
    from api.views.values import timestamp

    refund = explanation.refund
    yield f"{refund.id}: {refund.status}"
    yield f"  {explanation.summary}"
    next_at = explanation.next_at
    not_before = f" (not before {timestamp(next_at)})" if next_at else ""
    # A step of the operator begins with "To do:", which is a label as well.
    label = "" if explanation.next_step.startswith("To do:") else "Next: "
    yield f"  {label}{explanation.next_step}{not_before}"
    if explanation.policy is not None:
        yield f"  Today's policy would refuse it: {explanation.policy}"
    yield "History:"
    for change in explanation.history:
        yield f"  {timestamp(change.at)}  {change.status}"
    if explanation.transactions:
        yield "Transactions:"
    for sent in explanation.transactions:
        yield (
            f"  {sent.tx_hash}  {sent.kind}, nonce {sent.nonce},"
            f" at most {sent.max_fee_per_gas} wei per gas"
        )
    if explanation.nodes:
        yield "Nodes:"
    for node in explanation.nodes:
        known = ", ".join(node.transactions.values()) or "nothing sent"
        yield f"  {node.node}: {node.error or f'head {node.head}, {known}'}"
    for part, code in explanation.unanswered.items():
        yield f"Not known: {part} ({code})"
