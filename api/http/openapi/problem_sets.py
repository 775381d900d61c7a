"""Which errors a kind of route may answer, as codes of problem documents."""

HTTP = frozenset(
    {
        "bad-request",
        "request-timeout",
        "uri-too-long",
        "expectation-failed",
        "headers-too-large",
        "internal-error",
        "unsupported-transfer-coding",
        "bad-gateway",
        "proxy-overloaded",
        "gateway-timeout",
        "too-many-requests",
    }
)
"""Of every route: the server or the proxy answers them, also before the route."""

DATABASE = frozenset(
    {"store-unavailable", "store-failed", "stale-state", "row-not-authentic"}
)

TOKEN = HTTP | DATABASE | {"unauthenticated", "forbidden", "not-through-proxy"}
"""Of every route that needs a token."""

MERCHANT = TOKEN | {"unknown-tenant", "invalid-input"}

BODY = frozenset({"invalid-input", "body-too-large", "unsupported-media-type"})
"""Of every route with a body."""

ACCEPTANCE = BODY | {
    "tenant-blocked",
    "request-signature-invalid",
    "policy-violation",
    "conflict",
    "idempotency-mismatch",
    "too-many-open-refunds",
    "limit-reached",
    "screening-unavailable",
}
"""Of a request for a refund."""

ADMINISTRATOR = TOKEN | {"invalid-input"}

APPROVAL = frozenset({"approval-required", "operator-not-identified"})
"""Of changes that need two administrators."""

SIGNATURE = frozenset(
    {
        "signing-failed",
        "signing-stopped",
        "backend-failed",
        "backend-unavailable",
        "backend-throttled",
        "backend-access-denied",
        "key-not-found",
        "key-ambiguous",
        "key-unusable",
        "key-rotated",
        "audit-log-unwritable",
    }
)
"""Of a request for one signature."""

DEVICE = frozenset(
    {
        "new-key-unhealthy",
        "proofs-pending",
        "backend-failed",
        "backend-unavailable",
        "backend-throttled",
        "backend-access-denied",
        "key-not-found",
        "key-ambiguous",
        "key-unusable",
        "key-rotated",
        "audit-log-unwritable",
    }
)
"""Of changes for which a key signs."""
