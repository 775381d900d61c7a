"""Explanations and wallets as JSON, for HTTP and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from signer.model.refund import Refund, SignedTransaction
    from signer.ports.chain import NodeStatus
    from signer.refunds.explanation import Explanation, FeeStatus
    from signer.refunds.wallet_reconciliation import WalletStatus
    from signer.refunds.wallet_repair import RepairResult


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return *explanation* as JSON; fees in wei, as decimal strings."""
    from api.views.refunds import fields, refund_document, timestamp

    refund, next_at = explanation.refund, explanation.next_at
    return {
        "refund": refund_document(refund),
        "summary": explanation.summary,
        "next": {"what": explanation.next_step, "at": next_at and timestamp(next_at)},
        **fields(refund, "blocked_by", "attempts"),
        "policy": {
            "allowed": explanation.policy is None,
            "objection": explanation.policy,
        },
        "history": [fields(move, "status", "at") for move in explanation.history],
        "transactions": [_transaction(sent) for sent in explanation.transactions],
        "nonce": _nonce(refund, explanation),
        **fields(explanation, "stopped_at", "tenant_blocked_at"),
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
    from api.views.refunds import fields

    return {
        "address": status.wallet.sender,
        **fields(status.wallet, "chain_id", "next_nonce"),
        "paused_by": status.wallet.pause_reason,
        **fields(status.wallet, "paused_at"),
        "chain_next_nonce": status.chain_nonce,
        "unseen": status.unknown_count,
        "foreign": [
            fields(transaction, "nonce", "tx_hash", "block_number", "seen_at")
            for transaction in status.foreign
        ],
    }


def repair_document(repair: RepairResult) -> dict[str, Any]:
    """Return the state of a wallet, and what the repair did."""
    from api.views.refunds import fields

    return {
        **wallet_document(repair.wallet_status),
        **fields(repair, "network", "resumed", "problem", "stopped_at"),
    }


def _nonce(refund: Refund, explanation: Explanation) -> dict[str, Any] | None:
    from api.views.refunds import fields

    if refund.nonce is None:
        return None
    return {
        "nonce": refund.nonce,
        "waits_for": [
            {
                "refund": explanation.visible_id(other),
                **fields(other, "nonce", "status"),
            }
            for other in explanation.ahead
        ],
    }


def _transaction(signed: SignedTransaction) -> dict[str, Any]:
    from api.views.refunds import fields

    return {
        **fields(signed, "tx_hash", "attempt", "kind", "gas_limit", "signed_at"),
        "max_fee_per_gas": str(signed.max_fee_per_gas),
        "max_priority_fee_per_gas": str(signed.max_priority_fee_per_gas),
    }


def _node(node: NodeStatus) -> dict[str, Any]:
    from api.views.refunds import fields

    return {
        **fields(node, "node", "trusted", "error", "head"),
        "next_nonce": node.counted,
        "pending_nonce": node.pending,
        "transactions": dict(node.transactions),
    }


def _fees(fees: FeeStatus) -> dict[str, Any]:
    from api.views.refunds import timestamp

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
