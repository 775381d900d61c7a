"""The lines of the accounting export: one per used nonce of a wallet."""

from typing import Any

from api.views.books import block_time
from api.views.refunds import timestamp
from signer.amounts import format_units
from signer.books.assets import COIN_ASSET
from signer.books.used_nonces import UsedNonce
from signer.model.refund import Refund
from signer.ports.chain_history import Header


COLUMNS = (
    *("kind", "refund_id", "status", "tenant", "payment_session_id", "reference"),
    *("network", "chain_id", "token", "token_address", "recipient", "amount", "paid"),
    *("network_fee", "created_at", "block_time", "block_number", "tx_hash"),
    *("sender", "nonce", "failure_code"),
)


def settlement_row(network: str, used: UsedNonce, header: Header) -> dict[str, Any]:
    """
    Return *used* as a line; *header* is that of its block.

    ``kind`` is that of ``UsedNonce``.  ``paid`` is whether the
    amount left the wallet.  ``network_fee`` is in whole coins.
    """
    settled, refund = used.settled, used.entry.refund if used.is_own else None
    paid = {
        "kind": used.kind,
        "network": network,
        "sender": used.wallet,
        "nonce": used.entry.nonce,
    }
    if settled is not None:
        paid |= {
            "network_fee": COIN_ASSET.format(settled.fee),
            "block_time": block_time(header),
            "block_number": settled.block.number,
            "tx_hash": settled.tx_hash,
        }
    if refund is None:
        return paid
    return {**_refund_fields(refund), "paid": _yes(used, refund), **paid}


def _refund_fields(refund: Refund) -> dict[str, Any]:
    names = ("status", "tenant", "payment_session_id", "reference", "chain_id", "token")
    more = ("token_address", "recipient", "failure_code")
    return {
        "refund_id": refund.id,
        **{name: getattr(refund, name) for name in (*names, *more)},
        "amount": format_units(refund.amount, refund.decimals),
        "created_at": timestamp(refund.created_at),
    }


def _yes(used: UsedNonce, refund: Refund) -> str:
    amounts = [
        each.amount for each in used.payments if each.recipient == refund.recipient
    ]
    return "yes" if refund.amount in amounts else "no"
