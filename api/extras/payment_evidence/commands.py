"""``hotwallet audit payment`` and ``hotwallet audit verify-payment``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.audit import open_ledger, read_approvers, read_lines
from api.cli.output import Result, prints
from signer.errors import NotFoundError
from signer.private_files import open_atomic


if TYPE_CHECKING:
    from api.extras.payment_evidence.evidence import PaymentVerdict


@click.command()
@click.argument("refund_id")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Write to this file, which appears once it is complete.",
)
def payment(refund_id: str, out: Path) -> None:
    """
    Write the evidence of one payment, which verifies without the others.

    It has the acceptance of REFUND_ID, each intent and signature for it, and the signed
    bytes.  Of a batch it has the ids of the other refunds, and nothing else of them.
    """
    from api.extras.payment_evidence.evidence import collect

    _, ledger = open_ledger()
    if ledger.get(refund_id) is None:
        raise NotFoundError("there is no such refund")
    with open_atomic(out) as file:
        file.writelines(collect(ledger, refund_id))


@click.command("verify-payment")
@click.argument(
    "evidence", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--approvers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="An APPROVERS_FILE, to show who approved it.",
)
@prints
def verify_payment(evidence: Path, approvers: Sequence[Path]) -> Result:
    """
    Verify the evidence of one payment without a database, a node or other payments.

    It proves which signed transactions pay the refund, and in which place of a batch.
    A node, or a block explorer, says which of them is in a block, and `hotwallet audit
    verify` whether the records are those of the chain.
    """
    from api.extras.payment_evidence.evidence import verify_evidence

    with evidence.open("rb") as file:
        verdict = verify_evidence(read_lines(file), read_approvers(approvers))
    is_good = bool(verdict.payments) and not verdict.problems
    document = {
        "ok": is_good,
        "refund_id": verdict.refund_id,
        "payments": [asdict(each) for each in verdict.payments],
        "problems": list(verdict.problems),
        **({"approved_by": list(verdict.approved_by)} if approvers else {}),
    }
    return Result(document, _lines(verdict), is_good)


def _lines(verdict: PaymentVerdict) -> Iterator[str]:
    asked = "{amount} {token_symbol} to {recipient}".format_map(verdict.accepted)
    yield f"{verdict.refund_id}: {asked}"
    for each in verdict.payments:
        place = "" if each.count is None else f", item {each.position} of {each.count}"
        yield f"  paid by {each.tx_hash} of {each.sender}, nonce {each.nonce}{place}"
    for name in verdict.approved_by:
        yield f"  approved by {name}, with a key of their own"
    for problem in verdict.problems:
        yield f"  PROBLEM: {problem}"
    if not verdict.payments:
        yield "  no signed transaction pays it"
