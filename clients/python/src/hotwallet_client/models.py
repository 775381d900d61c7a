"""Generated from openapi.json by `make clients`: change the service instead."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class RefundRequest(TypedDict):
    """
    A request for a refund.
    """

    payment_session_id: str
    network: str
    token: str
    recipient: str
    amount: str
    reason: NotRequired[str | None]
    reference: NotRequired[str | None]


class Failure(TypedDict):
    """
    Why a final refund was not paid as requested.
    """

    code: Literal[
        "execution-reverted",
        "token-stopped",
        "reverted",
        "already-paid",
        "approval-rejected",
        "approval-expired",
        "nonce-taken",
        "transfer-mismatch",
    ]
    detail: str | None


class Refund(TypedDict):
    """
    A refund of the caller's tenant.
    """

    id: str
    status: Literal[
        "awaiting-approval",
        "queued",
        "reserved",
        "signed",
        "broadcast",
        "mined",
        "confirmed",
        "refused",
        "cancelled",
        "failed",
    ]
    reference: str
    payment_session_id: str
    network: str
    chain_id: int
    token: str
    token_address: str
    recipient: str
    amount: str
    calldata: str | None
    reason: str | None
    sender: str | None
    nonce: int | None
    tx_hash: str | None
    block_number: int | None
    failure: Failure | None
    created_at: str
    updated_at: str
    cancel_requested_at: str | None


class RefundList(TypedDict):
    """
    A page of refunds, newest first.
    """

    refunds: list[Refund]
    next_cursor: str | None


class Event(TypedDict):
    """
    A change of a refund.
    """

    id: str
    type: Literal[
        "refund.accepted",
        "refund.awaiting_approval",
        "refund.broadcast",
        "refund.confirmed",
        "refund.failed",
        "refund.refused",
        "refund.cancelled",
    ]
    timestamp: str
    sequence: int
    data: Refund


class EventList(TypedDict):
    """
    A page of events, oldest first.
    """

    events: list[Event]
    next_cursor: str


class Data(TypedDict):
    """
    What is tested.
    """

    tenant: str


class WebhookTest(TypedDict):
    """
    A test of the operator's: answer 2xx, and do nothing else.
    """

    id: str
    type: Literal["webhook.test"]
    timestamp: str
    data: Data


class Key(TypedDict):
    """
    A JSON Web Key (RFC 8037).
    """

    kty: str
    crv: str
    use: str
    alg: str
    kid: str
    x: str
    standard_webhooks_key: str


class WebhookKeys(TypedDict):
    """
    A set of public keys.
    """

    keys: list[Key]


class BatchMember(TypedDict):
    """
    A member of a batch: a key, and the fields of a refund.
    """

    idempotency_key: str
    payment_session_id: str
    network: str
    token: str
    recipient: str
    amount: str
    reason: NotRequired[str | None]
    reference: NotRequired[str | None]


class SignedBatchMember(TypedDict):
    """
    A member of a batch of a tenant that signs its requests.
    """

    idempotency_key: str
    body: str
    content_digest: str
    signature_input: str
    signature: str


class BatchRequest(TypedDict):
    """
    Requests for refunds, each with its own `idempotency_key`.
    """

    refunds: list[BatchMember | SignedBatchMember]


class Next(TypedDict):
    """
    What happens next.
    """

    what: str
    at: str | None


class Policy(TypedDict):
    """
    Whether today's rules would accept it.
    """

    allowed: bool
    objection: str | None


class HistoryItem(TypedDict):
    """
    A change of the status.
    """

    status: Literal[
        "awaiting-approval",
        "queued",
        "reserved",
        "signed",
        "broadcast",
        "mined",
        "confirmed",
        "refused",
        "cancelled",
        "failed",
    ]
    at: str


class Transaction(TypedDict):
    """
    A signed transaction of the refund's nonce.
    """

    tx_hash: str
    attempt: int
    kind: Literal["transfer", "noop"]
    gas_limit: int
    signed_at: str
    max_fee_per_gas: str
    max_priority_fee_per_gas: str


class WaitsForItem(TypedDict):
    """
    A transaction whose nonce must be used first.
    """

    refund: str | None
    nonce: int
    status: Literal[
        "awaiting-approval",
        "queued",
        "reserved",
        "signed",
        "broadcast",
        "mined",
        "confirmed",
        "refused",
        "cancelled",
        "failed",
    ]


class Nonce(TypedDict):
    """
    The refund's nonce.
    """

    nonce: int
    waits_for: list[WaitsForItem]


class ForeignItem(TypedDict):
    """
    A final transaction of the wallet that this service did not make.
    """

    nonce: int
    tx_hash: str
    block_number: int
    seen_at: str


class Wallet(TypedDict):
    """
    The wallet that pays, in the database and on the chain.
    """

    address: str
    chain_id: int
    next_nonce: int
    paused_by: (
        Literal[
            "unknown-history",
            "chain-ahead",
            "foreign-transaction",
            "restored",
            "row-not-authentic",
        ]
        | None
    )
    paused_at: str | None
    chain_next_nonce: int
    unseen: int
    foreign: list[ForeignItem]


class Node(TypedDict):
    """
    What one node reports.
    """

    node: str
    trusted: bool
    error: str | None
    head: int | None
    next_nonce: int | None
    pending_nonce: int | None
    transactions: dict[str, Literal["mined", "pending", "unknown"]]


class Confirmations(TypedDict):
    """
    How deep its block is.
    """

    head: int | None
    required: int | None


class Fees(TypedDict):
    """
    The fees of the last transaction, and those of its replacement, in wei per gas.
    """

    max_fee_per_gas: str
    max_priority_fee_per_gas: str
    base_fee_per_gas: str | None
    replacement_max_fee_per_gas: str | None
    replacement_max_priority_fee_per_gas: str | None
    cap: str
    raise_at: str


class Explanation(TypedDict):
    """
    Why a refund has its status.
    """

    refund: Refund
    summary: str
    next: Next
    blocked_by: str | None
    attempts: int
    policy: Policy
    history: list[HistoryItem]
    transactions: list[Transaction]
    nonce: Nonce | None
    stopped_at: str | None
    tenant_blocked_at: str | None
    wallet: Wallet | None
    nodes: list[Node]
    confirmations: Confirmations
    fees: Fees | None
    unanswered: dict[str, str]


class Limit(TypedDict):
    """
    A limit on all refunds of a time together.
    """

    name: Literal[
        "hourly_limit", "daily_limit", "daily_limit_per_recipient", "gas_per_hour"
    ]
    scope: Literal["service", "tenant"]
    limit: str


class LimitRoom(TypedDict):
    """
    A limit, and what is left of it.
    """

    name: Literal[
        "hourly_limit", "daily_limit", "daily_limit_per_recipient", "gas_per_hour"
    ]
    scope: Literal["service", "tenant"]
    limit: str
    room: str | None
    fits: bool


class Token(TypedDict):
    """
    A token that may be refunded.
    """

    network: str
    chain_id: int
    token: str
    address: str
    decimals: int
    min_amount: str | None
    max_amount: str
    approve_above: str | None
    limits: list[Limit]
    confirmations: int


class Network(TypedDict):
    """
    A network on which refunds are paid.
    """

    network: str
    chain_id: int
    confirmations: int
    tokens: list[str]
    limits: list[Limit]


class TokenList(TypedDict):
    """
    What may be refunded.
    """

    tokens: list[Token]


class NetworkList(TypedDict):
    """
    Where refunds are paid.
    """

    networks: list[Network]


class Policy1(TypedDict):
    """
    The decision of the service's policy; null if the request would be refused.
    """

    verdict: Literal["allow", "refuse", "needs-approval"]
    rules: list[str]
    approvals: int


class Simulation(TypedDict):
    """
    The transfer, as the nodes execute it now, without sending it.
    """

    succeeds: bool
    reason: str | None
    gas: int | None


class Fee(TypedDict):
    """
    The network fee, in the chain's coin, which the wallet pays.
    """

    expected: str
    at_most: str
    gas_limit: int
    max_fee_per_gas: str
    max_priority_fee_per_gas: str


class Problem(TypedDict):
    """
    An error (RFC 9457). Decide by `code`; `/problems/{code}` explains it.
    """

    type: str
    title: str
    status: int
    code: Literal[
        "approval-required",
        "audit-log-unwritable",
        "audit-not-shipped",
        "backend-access-denied",
        "backend-failed",
        "backend-throttled",
        "backend-unavailable",
        "bad-gateway",
        "bad-request",
        "body-too-large",
        "chain-unavailable",
        "conflict",
        "cursor-expired",
        "expectation-failed",
        "fees-above-recent",
        "forbidden",
        "gas-above-limit",
        "gateway-timeout",
        "headers-too-large",
        "idempotency-mismatch",
        "insufficient-funds",
        "internal-error",
        "invalid-input",
        "key-ambiguous",
        "key-not-found",
        "key-rotated",
        "key-unusable",
        "limit-reached",
        "method-not-allowed",
        "new-key-unhealthy",
        "nonce-used",
        "not-cancellable",
        "not-found",
        "not-through-proxy",
        "operator-not-identified",
        "policy-violation",
        "proofs-pending",
        "proxy-overloaded",
        "request-signature-invalid",
        "request-timeout",
        "rotation-in-progress",
        "row-not-authentic",
        "same-person",
        "screening-unavailable",
        "signature-encoding",
        "signature-recovery",
        "signing-failed",
        "signing-stopped",
        "stale-state",
        "store-failed",
        "store-unavailable",
        "tenant-blocked",
        "token-stopped",
        "too-many-in-flight",
        "too-many-open-refunds",
        "too-many-requests",
        "unauthenticated",
        "unknown-tenant",
        "unsupported-media-type",
        "unsupported-transfer-coding",
        "uri-too-long",
        "vault-limit",
        "vault-operator-missing",
        "wallet-paused",
    ]
    detail: NotRequired[str]
    request_id: str
    field: NotRequired[str]
    rule: NotRequired[str]
    reason: NotRequired[str]
    error: NotRequired[str]
    message: NotRequired[str]
    digest: NotRequired[str]
    expires_at: NotRequired[str]
    refund_id: NotRequired[str]


class BatchResult(TypedDict):
    """
    What became of one member.
    """

    idempotency_key: str
    status: int
    refund: NotRequired[Refund]
    problem: NotRequired[Problem]
    retry_after: NotRequired[int]


class BatchResults(TypedDict):
    """
    One result for each member, in their order.
    """

    results: list[BatchResult]


class Preview(TypedDict):
    """
    What would happen with a refund that is requested now.
    """

    outcome: Literal["pay", "wait", "refuse"]
    problem: Problem | None
    needs_approval: bool
    waits_for: list[
        Literal[
            "approval-required",
            "policy-violation",
            "signing-stopped",
            "wallet-paused",
            "limit-reached",
            "insufficient-funds",
            "fees-above-recent",
            "gas-above-limit",
            "chain-unavailable",
            "chain-failed",
            "key-not-found",
            "row-not-authentic",
        ]
    ]
    policy: Policy1 | None
    amount: str | None
    sender: str | None
    simulation: Simulation | None
    fee: Fee | None
    limits: list[LimitRoom]
