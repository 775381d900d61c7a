"""An explanation as JSON, for ``explain`` and for the command line."""

from datetime import datetime
from typing import Any

from api.views.refunds import refund_document, timestamp
from signer.model.refund import Refund, SignedTransaction
from signer.model.wallet import UnrecordedTransaction
from signer.ports import NodeStatus
from signer.refunds.explain import Bid, Explanation
from signer.refunds.wallet_reconciliation import WalletStatus
from signer.refunds.wallet_repair import Repair


def explanation_document(found: Explanation) -> dict[str, Any]:
    """Return *found* as a client sees it; fees in wei, as decimal strings."""
    refund = found.refund
    return {
        "refund": refund_document(refund),
        "summary": found.summary,
        "next": {"what": found.next_step, "at": _optional(found.next_at)},
        "blocked_by": refund.blocked_by,
        "attempts": refund.attempts,
        "policy": {"allowed": found.policy is None, "objection": found.policy},
        "history": [
            {"status": str(move.status), "at": timestamp(move.at)}
            for move in found.history
        ],
        "transactions": [_transaction(sent) for sent in found.transactions],
        "nonce": _nonce(refund, found),
        "stopped_at": _optional(found.stopped_at),
        "wallet": None if found.standing is None else standing_document(found.standing),
        "nodes": [_node(node) for node in found.nodes],
        "confirmations": {
            "head": found.head,
            "required": found.confirmations,
        },
        "fees": None if found.bid is None else _fees(found.bid),
        "unanswered": dict(found.unanswered),
    }


def standing_document(standing: WalletStatus) -> dict[str, Any]:
    """Return how a wallet stands: the ledger's view beside the chain's."""
    wallet = standing.wallet
    return {
        "chain_id": wallet.chain_id,
        "address": wallet.sender,
        "next_nonce": wallet.next_nonce,
        "chain_next_nonce": standing.counted,
        "unseen": standing.unseen,
        "paused_by": wallet.paused_by and str(wallet.paused_by),
        "paused_at": _optional(wallet.paused_at),
        "foreign": [_sighting(sighting) for sighting in standing.foreign],
    }


def repair_document(repair: Repair) -> dict[str, Any]:
    """Return how a wallet stands, and what was done about it."""
    return {
        "network": repair.network,
        **standing_document(repair.standing),
        "resumed": repair.resumed,
        "problem": repair.problem,
        "stopped_at": _optional(repair.stopped_at),
    }


def _nonce(refund: Refund, found: Explanation) -> dict[str, Any] | None:
    if refund.nonce is None:
        return None
    return {
        "nonce": refund.nonce,
        "waits_for": [
            {"nonce": other.nonce, "refund": other.id, "status": str(other.status)}
            for other in found.ahead
        ],
    }


def _transaction(sent: SignedTransaction) -> dict[str, Any]:
    return {
        "tx_hash": sent.tx_hash,
        "attempt": sent.attempt,
        "kind": str(sent.kind),
        "max_fee_per_gas": str(sent.max_fee_per_gas),
        "max_priority_fee_per_gas": str(sent.max_priority_fee_per_gas),
        "gas_limit": sent.gas_limit,
        "signed_at": timestamp(sent.signed_at),
    }


def _node(node: NodeStatus) -> dict[str, Any]:
    return {
        "node": node.node,
        "trusted": node.trusted,
        "error": node.error,
        "head": node.head,
        "next_nonce": node.counted,
        "pending_nonce": node.pending,
        "transactions": dict(node.transactions),
    }


def _fees(bid: Bid) -> dict[str, Any]:
    required = bid.required and [str(fee) for fee in bid.required]
    return {
        "max_fee_per_gas": str(bid.max_fee),
        "max_priority_fee_per_gas": str(bid.priority_fee),
        "base_fee_per_gas": None if bid.base_fee is None else str(bid.base_fee),
        "replacement_max_fee_per_gas": required and required[0],
        "replacement_max_priority_fee_per_gas": required and required[1],
        "cap": str(bid.cap),
        "raise_at": timestamp(bid.raise_at),
    }


def _sighting(sighting: UnrecordedTransaction) -> dict[str, Any]:
    return {
        "nonce": sighting.nonce,
        "tx_hash": sighting.tx_hash,
        "block_number": sighting.block_number,
        "seen_at": timestamp(sighting.seen_at),
    }


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
