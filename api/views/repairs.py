"""Wallets that a repair compared with their chains, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from signer.refunds.wallet_repair import RepairResult


def repair_lines(each: RepairResult, next_step: str) -> Iterator[str]:
    """Return *each* for people; *next_step* says how the repair can be made."""
    from api.views.document import timestamp

    wallet, status = each.wallet_status.wallet, each.wallet_status
    yield (
        f"{each.network} {wallet.sender}: next nonce {wallet.next_nonce},"
        f" the chain's {status.chain_nonce}"
    )
    if each.stopped_at is not None:
        yield (
            f"  signing was stopped at {timestamp(each.stopped_at)}:"
            " `hotwallet resume` ends that"
        )
    if not each.is_open:
        yield "  resumed" if each.resumed else "  in order"
        return
    if not wallet.is_paused:
        yield "  not paused yet: a worker will pause it"
    else:
        yield f"  paused by {wallet.pause_reason}"
    if status.unknown_count:
        yield f"  not looked at yet: {status.unknown_count} of the chain's transactions"
    for foreign in status.foreign:
        yield f"  foreign: nonce {foreign.nonce}, transaction {foreign.tx_hash}"
    yield f"  {each.problem or next_step}"
