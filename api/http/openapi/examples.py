"""Examples of requests and answers; tests validate them against their schemas."""

from typing import Any

from api.views.refunds import RefundDocument


_RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
_TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"  # noqa: S105  A contract.
_WALLET = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
_AT = "2026-11-24T12:00:00.000000Z"

REFUND_REQUEST: dict[str, Any] = {
    "payment_session_id": "ps_2931",
    "network": "local",
    "token": "TUSD",
    "recipient": _RECIPIENT,
    "amount": "12.50",
    "reason": "Item out of stock",
}

REFUND: dict[str, Any] = {
    **dict.fromkeys(RefundDocument.model_fields),
    "id": "rf_01a20d6d5a00f8577b3cd4745c4d49ee",
    "status": "broadcast",
    "reference": "ps_2931",
    "payment_session_id": "ps_2931",
    "network": "local",
    "chain_id": 31337,
    "token": "TUSD",
    "token_address": _TOKEN,
    "recipient": _RECIPIENT,
    "amount": "12.500000",
    "reason": "Item out of stock",
    "sender": _WALLET,
    "nonce": 7,
    "tx_hash": "0x9b1f04c6ad3f9f5c9a2a1b3d5e7f90817263544536271809a0b1c2d3e4f50617",
    "created_at": _AT,
    "updated_at": "2026-11-24T12:00:00.412907Z",
}

_QUEUED_REFUND = REFUND | {
    "status": "queued",
    "sender": None,
    "nonce": None,
    "tx_hash": None,
    "updated_at": _AT,
}

CANCELLED_REFUND: dict[str, Any] = {
    **_QUEUED_REFUND,
    "status": "cancelled",
    "updated_at": REFUND["updated_at"],
    "cancel_requested_at": "2026-11-24T12:00:00.398102Z",
}

EXPLANATION: dict[str, Any] = {
    "refund": _QUEUED_REFUND,
    "summary": (
        "It gets no nonce: signing was stopped at 2026-11-24T11:58:12+00:00; the last 2"
        " attempts failed, most recently with signing-stopped."
    ),
    "next": {
        "what": (
            "To do: find out who stopped signing and why (`hotwallet stops`), and then"
            " run `hotwallet resume`."
        ),
        "at": "2026-11-24T12:00:03.402375Z",
    },
    "blocked_by": "signing-stopped",
    "attempts": 2,
    "policy": {"allowed": True, "objection": None},
    "history": [{"status": "queued", "at": _AT}],
    "transactions": [],
    "nonce": None,
    "stopped_at": "2026-11-24T11:58:12.310007Z",
    "tenant_blocked_at": None,
    "wallet": {
        "address": _WALLET,
        "chain_id": 31337,
        "next_nonce": 7,
        "paused_by": None,
        "paused_at": None,
        "chain_next_nonce": 7,
        "unseen": 0,
        "foreign": [],
    },
    "nodes": [
        {
            "node": "node-1",
            "trusted": True,
            "error": None,
            "head": 571,
            "next_nonce": 7,
            "pending_nonce": 7,
            "transactions": {},
        }
    ],
    "confirmations": {"head": 571, "required": 2},
    "fees": None,
    "unanswered": {},
}

WEBHOOK_KEYS: dict[str, Any] = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": "063f65e89fcc1873",
            "x": "ZSGf_L8j2HgaxQ1qPx9JzBQl4XDcBAakS56vFCOjk-E",
            "standard_webhooks_key": (
                "whpk_ZSGf/L8j2HgaxQ1qPx9JzBQl4XDcBAakS56vFCOjk+E="
            ),
        }
    ]
}

EVENT: dict[str, Any] = {
    "id": "evt_01a213dfe137369f1705e17df74f2045",
    "type": "refund.broadcast",
    "timestamp": "2026-11-24T12:00:00.412907Z",
    "sequence": 1795521600412907,
    "data": REFUND,
}

SECOND_REFUND_REQUEST: dict[str, Any] = {
    **REFUND_REQUEST,
    "amount": "2.00",
    "reason": "Damaged item, second part",
    "reference": "ps_2931/part-2",
}

BATCH_REQUEST: dict[str, Any] = {
    "refunds": [
        {
            "idempotency_key": "concert-1",
            "payment_session_id": "ps_1",
            "network": "local",
            "token": "TUSD",
            "recipient": _RECIPIENT,
            "amount": "12.50",
        }
    ]
}

BATCH_RESULTS: dict[str, Any] = {
    "results": [
        {
            "idempotency_key": "concert-1",
            "status": 422,
            "problem": {
                "type": "/problems/policy-violation",
                "title": "Policy violation",
                "status": 422,
                "code": "policy-violation",
                "detail": "one refund may pay at most 10 TUSD",
                "request_id": "req_0f3a91c2",
                "rule": "max-amount",
            },
        }
    ]
}

PROBLEM: dict[str, Any] = {
    "type": "/problems/invalid-input",
    "title": "Invalid input",
    "status": 400,
    "code": "invalid-input",
    "detail": "is required",
    "request_id": "req_0f3a91c2",
    "field": "amount",
}

TOKENS: dict[str, Any] = {
    "tokens": [
        {
            "network": "local",
            "chain_id": 31337,
            "token": "TUSD",
            "address": _TOKEN,
            "decimals": 6,
            "min_amount": None,
            "max_amount": "1000.000000",
            "approve_above": "500.000000",
            "limits": [
                {"name": "daily_limit", "scope": "tenant", "limit": "20000.000000"}
            ],
            "confirmations": 2,
        }
    ]
}

NETWORKS: dict[str, Any] = {
    "networks": [
        {
            "network": "local",
            "chain_id": 31337,
            "confirmations": 2,
            "tokens": ["TUSD"],
            "limits": [
                {"name": "gas_per_hour", "scope": "service", "limit": "20000000"}
            ],
        }
    ]
}

PREVIEW: dict[str, Any] = {
    "outcome": "pay",
    "problem": None,
    "needs_approval": False,
    "waits_for": [],
    "policy": None,
    "amount": "12.500000",
    "sender": _WALLET,
    "simulation": {"succeeds": True, "reason": None, "gas": 50000},
    "fee": {
        "expected": "0.000055000000000000",
        "at_most": "0.000131250000000000",
        "gas_limit": 62500,
        "max_fee_per_gas": "2100000000",
        "max_priority_fee_per_gas": "100000000",
    },
    "limits": [
        {
            "name": "daily_limit",
            "scope": "tenant",
            "limit": "20000.000000",
            "room": "19987.500000",
            "fits": True,
        }
    ],
}

READINESS: dict[str, Any] = {
    "status": "ready",
    "checks": {"database": "ok", "signing": "ok", "audit": "ok", "key": "ok"},
    "address": _WALLET,
    "epoch": 1,
}
