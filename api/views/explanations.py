"""Explanations and wallets as JSON, for HTTP and the command line."""

from datetime import datetime
from typing import Any

from api.views.refunds import refund_document, timestamp
from signer.model.refund import Refund, SignedTransaction
from signer.model.wallet import UnrecordedTransaction
from signer.ports import NodeStatus
from signer.refunds.explanation import Explanation, FeeStatus
from signer.refunds.wallet_reconciliation import WalletStatus
from signer.refunds.wallet_repair import RepairResult


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return *explanation* as JSON; fees in wei, as decimal strings."""
    refund = explanation.refund
    return {
        "refund": refund_document(refund),
        "summary": explanation.summary,
        "next": {"what": explanation.next_step, "at": _optional(explanation.next_at)},
        "blocked_by": refund.blocked_by,
        "attempts": refund.attempts,
        "policy": {
            "allowed": explanation.policy is None,
            "objection": explanation.policy,
        },
        "history": [
            {"status": str(move.status), "at": timestamp(move.at)}
            for move in explanation.history
        ],
        "transactions": [_transaction(sent) for sent in explanation.transactions],
        "nonce": _nonce(refund, explanation),
        "stopped_at": _optional(explanation.stopped_at),
        "wallet": explanation.wallet_status
        and wallet_document(explanation.wallet_status),
        "nodes": [_node(node) for node in explanation.nodes],
        "confirmations": {
            "head": explanation.head,
            "required": explanation.confirmations,
        },
        "fees": None if explanation.fees is None else _fees(explanation.fees),
        "unanswered": dict(explanation.unanswered),
    }


def wallet_document(status: WalletStatus) -> dict[str, Any]:
    """Return the state of a wallet, in the ledger and on the chain."""
    wallet = status.wallet
    return {
        "chain_id": wallet.chain_id,
        "address": wallet.sender,
        "next_nonce": wallet.next_nonce,
        "chain_next_nonce": status.chain_nonce,
        "unseen": status.unknown_count,
        "paused_by": wallet.paused_by and str(wallet.paused_by),
        "paused_at": _optional(wallet.paused_at),
        "foreign": [_unrecorded(transaction) for transaction in status.foreign],
    }


def repair_document(repair: RepairResult) -> dict[str, Any]:
    """Return the state of a wallet, and what the repair did."""
    return {
        "network": repair.network,
        **wallet_document(repair.wallet_status),
        "resumed": repair.resumed,
        "problem": repair.problem,
        "stopped_at": _optional(repair.stopped_at),
    }


def _nonce(refund: Refund, explanation: Explanation) -> dict[str, Any] | None:
    if refund.nonce is None:
        return None
    return {
        "nonce": refund.nonce,
        "waits_for": [
            {"nonce": other.nonce, "refund": other.id, "status": str(other.status)}
            for other in explanation.ahead
        ],
    }


def _transaction(signed: SignedTransaction) -> dict[str, Any]:
    return {
        "tx_hash": signed.tx_hash,
        "attempt": signed.attempt,
        "kind": str(signed.kind),
        "max_fee_per_gas": str(signed.max_fee_per_gas),
        "max_priority_fee_per_gas": str(signed.max_priority_fee_per_gas),
        "gas_limit": signed.gas_limit,
        "signed_at": timestamp(signed.signed_at),
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


def _fees(fees: FeeStatus) -> dict[str, Any]:
    required = fees.required and [str(fee) for fee in fees.required]
    return {
        "max_fee_per_gas": str(fees.max_fee),
        "max_priority_fee_per_gas": str(fees.priority_fee),
        "base_fee_per_gas": None if fees.base_fee is None else str(fees.base_fee),
        "replacement_max_fee_per_gas": required and required[0],
        "replacement_max_priority_fee_per_gas": required and required[1],
        "cap": str(fees.cap),
        "raise_at": timestamp(fees.raise_at),
    }


def _unrecorded(transaction: UnrecordedTransaction) -> dict[str, Any]:
    return {
        "nonce": transaction.nonce,
        "tx_hash": transaction.tx_hash,
        "block_number": transaction.block_number,
        "seen_at": timestamp(transaction.seen_at),
    }


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
