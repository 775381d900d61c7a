"""Which errors a kind of route may answer, as codes of problem documents."""

HTTP = frozenset(
    (
        *("bad-request", "request-timeout", "uri-too-long", "expectation-failed"),
        *("headers-too-large", "internal-error", "unsupported-transfer-coding"),
        *("bad-gateway", "proxy-overloaded", "gateway-timeout", "too-many-requests"),
    )
)
"""Of every route: the server or the proxy answers them, also before the route."""

DATABASE = frozenset(
    {"store-unavailable", "store-failed", "stale-state", "row-not-authentic"}
)

TOKEN = HTTP | DATABASE | {"unauthenticated", "forbidden", "not-through-proxy"}
"""Of every route that needs a token."""

ADMINISTRATOR = TOKEN | {"invalid-input"}

MERCHANT = ADMINISTRATOR | {"unknown-tenant"}

BODY = frozenset({"invalid-input", "body-too-large", "unsupported-media-type"})
"""Of every route with a body."""

ACCEPTANCE = BODY.union(
    ("tenant-blocked", "request-signature-invalid", "policy-violation", "conflict"),
    ("idempotency-mismatch", "too-many-open-refunds", "limit-reached"),
    ("screening-unavailable",),
)
"""Of a request for a refund."""

APPROVAL = frozenset({"approval-required", "operator-not-identified"})
"""Of changes that need two administrators."""

_KEY = frozenset(
    (
        *("backend-failed", "backend-unavailable", "backend-throttled"),
        *("backend-access-denied", "key-not-found", "key-ambiguous", "key-unusable"),
        *("key-rotated", "audit-log-unwritable", "audit-not-shipped"),
    )
)

SIGNATURE = _KEY | {"signing-failed", "signing-stopped", "token-stopped"}
"""Of a request for one signature."""

DEVICE = _KEY | {"new-key-unhealthy", "proofs-pending"}
"""Of changes for which a key signs."""
