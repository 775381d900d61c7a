"""``hotwallet refund``: list refunds, explain or cancel one, submit and export many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from api.cli.actions import add_commands
from api.cli.lazy import LazyGroup
from api.cli.output import Result, reports
from api.cli.refund_list import list_refunds
from api.cli.refund_submit import submit_file
from signer.errors import NotFoundError


if TYPE_CHECKING:
    from signer.refunds.explanation import Explanation


@click.group(cls=LazyGroup, core={}, path="refund")
def refund() -> None:
    """List, explain, cancel, submit and export refunds."""


refund.add_command(submit_file)
refund.add_command(list_refunds)
add_commands(refund)


@refund.command()
@click.argument("refund_id")
@reports
def explain(refund_id: str) -> Result:
    """
    Explain why REFUND_ID is in its state, and what happens next.

    Changes nothing, and needs no key.

    Example: hotwallet refund explain rf_018f3c5e
    """
    from api.bootstrap import build_container
    from api.views.explanations import explanation_document

    opened = build_container()
    explainer = opened.explainer
    found = opened.store.get(refund_id)
    if found is None:
        raise NotFoundError("there is no such refund")
    explanation = explainer.explain(found)
    document = explanation_document(explanation)
    return Result(document, _format_explanation(explanation))


def _format_explanation(explanation: Explanation) -> Iterator[str]:
    from api.views.document import timestamp

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
