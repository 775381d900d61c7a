"""
Every error that the system raises on purpose.

::

    HotWalletError
    ├── ConfigurationError           the start-up guard refuses
    ├── RequestError                 the caller's mistake; nothing changed
    │   ├── InvalidInputError        malformed: amount, address, JSON, digest
    │   ├── PolicyViolationError     well formed, and not allowed
    │   ├── AuthenticationError      no token, or not one of ours
    │   ├── PermissionDeniedError    a token without the role
    │   ├── NotThroughProxyError     a good way in, and not the one to take
    │   ├── NotFoundError            no such refund
    │   ├── RateLimitedError         retry: too many of them, or of bad tokens
    │   └── ConflictError            the key or the reference is taken
    │       ├── IdempotencyMismatchError
    │       ├── RotationInProgressError  retry: another key is being changed to
    │       ├── InProgressError      retry: the first request is being answered
    │       └── NotCancellableError  a nonce is spent on it already
    ├── SigningError                 no signature left the process
    │   ├── EncodingError            not strict DER, or out of range
    │   ├── RecoveryError            does not recover to the pinned key
    │   ├── NewKeyUnhealthyError     the old key goes on serving
    │   │   └── NewKeyNotFoundError  no key has the given name
    │   ├── ProofsPendingError       retry: earlier proofs of the key still hang
    │   └── BackendError             the device said no
    │       ├── BackendUnavailableError   retry
    │       ├── BackendThrottledError     retry
    │       ├── AccessDeniedError
    │       ├── KeyNotFoundError
    │       └── KeyUnusableError
    ├── LimitReachedError            retry: so much may not leave at once
    ├── ChainError                   the node said no
    │   ├── ChainUnavailableError    retry: what happened is unknown
    │   ├── ExecutionRevertedError   the call cannot succeed
    │   ├── InsufficientFundsError   retry: the wallet must be filled
    │   ├── WalletPausedError        retry: the chain knows more than the ledger
    │   └── BroadcastRejectedError   the node did not take these bytes
    └── StoreError                   the database said no
        ├── StoreUnavailableError    retry
        └── StaleStateError          somebody else moved the row first
            └── KeyRotatedError      another key is the active one now

The class says whether to retry (``retryable``) and how a machine calls the
error (``code``).  Messages are ours: a vendor's words stay in ``__cause__``
at most, and are never shown, since they name accounts, roles and endpoints.
"""

from typing import ClassVar


class HotWalletError(Exception):
    """Never raised directly."""

    code: ClassVar[str] = "internal-error"
    retryable: ClassVar[bool] = False


class ConfigurationError(HotWalletError):
    """The start-up guard refuses to run.  ``refusals`` says why, a line each."""

    code = "configuration"

    def __init__(self, *refusals: "Refusal") -> None:
        super().__init__("; ".join(str(refusal) for refusal in refusals))
        self.refusals = refusals


class Refusal:
    """One reason not to start: a stable *code*, and what to do about it."""

    __slots__ = ("code", "message")

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"Refusal({self.code!r}, {self.message!r})"


class RequestError(HotWalletError):
    """The caller's mistake.  Nothing was changed."""

    code = "bad-request"


class InvalidInputError(RequestError):
    """Malformed input.  ``field`` names the offender where there is one."""

    code = "invalid-input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PolicyViolationError(RequestError):
    """Well formed, and not allowed.  ``rule`` names the row of the policy."""

    code = "policy-violation"

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class AuthenticationError(RequestError):
    """No token, or not one of ours."""

    code = "unauthenticated"


class PermissionDeniedError(RequestError):
    """A good token without the role that the route needs."""

    code = "forbidden"


class NotThroughProxyError(RequestError):
    """It came past the proxies that were named, from somewhere else."""

    code = "not-through-proxy"


class NotFoundError(RequestError):
    """There is no such thing, or it belongs to somebody else."""

    code = "not-found"


class RateLimitedError(RequestError):
    """Too many requests, or refused ones; *retry_after* is in seconds."""

    code = "too-many-requests"
    retryable = True

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConflictError(RequestError):
    """The caller's reference is already taken by another refund."""

    code = "conflict"


class IdempotencyMismatchError(ConflictError):
    """The idempotency key was used before, for another request."""

    code = "idempotency-mismatch"


class RotationInProgressError(ConflictError):
    """Somebody is rotating to another key at the moment."""

    code = "rotation-in-progress"
    retryable = True


class InProgressError(ConflictError):
    """The first request with this key is still being answered; ask again soon."""

    code = "request-in-progress"
    retryable = True


class NotCancellableError(ConflictError):
    """The refund has its nonce, or is at its end: it cannot be called back."""

    code = "not-cancellable"


class SigningError(HotWalletError):
    """No signature left the process."""

    code = "signing-failed"


class EncodingError(SigningError):
    """The device's answer is not strict DER, or its numbers are out of range."""

    code = "signature-encoding"


class RecoveryError(SigningError):
    """The signature does not recover to the pinned key."""

    code = "signature-recovery"


class NewKeyUnhealthyError(SigningError):
    """
    The key that was to be rotated to did not prove itself; the old one goes on.

    *reason* is the code of what it failed with.
    """

    code = "new-key-unhealthy"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether a key's or a grant's first seconds look like this."""
        # KMS is eventually consistent: it denies, or does not know, what is new.
        return self.reason in {AccessDeniedError.code, KeyNotFoundError.code}


class NewKeyNotFoundError(NewKeyUnhealthyError):
    """No key has the name that the administrator gave; the old key goes on serving."""

    code = "new-key-not-found"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=KeyNotFoundError.code)


class ProofsPendingError(SigningError):
    """Too many proofs of the new key are under way, or hang; it was not asked."""

    code = "proofs-pending"
    retryable = True


class BackendError(SigningError):
    """
    The device failed in a way that has no better name.

    ``request_id`` is the device's name of the call, where it told one, and
    ``attempts`` how often it was asked: either may stand in the device's own log.
    """

    code = "backend-failed"

    request_id: str | None = None
    attempts: int = 1


class BackendUnavailableError(BackendError):
    """The device did not answer, or answered with a fault of its own."""

    code = "backend-unavailable"
    retryable = True


class BackendThrottledError(BackendError):
    """The device asks us to slow down."""

    code = "backend-throttled"
    retryable = True


class AccessDeniedError(BackendError):
    """The device does not accept our credentials, or they may not sign."""

    code = "backend-access-denied"


class KeyNotFoundError(BackendError):
    """There is no key with this id, or more than one."""

    code = "key-not-found"


class KeyUnusableError(BackendError):
    """The key exists and must not or cannot sign: disabled, wrong curve or usage."""

    code = "key-unusable"


class LimitReachedError(HotWalletError):
    """A limit of value is reached; the refund waits until there is room again."""

    code = "limit-reached"
    retryable = True


class ChainError(HotWalletError):
    """The node failed in a way that has no better name."""

    code = "chain-failed"


class ChainUnavailableError(ChainError):
    """The node did not answer.  Whether it acted is *unknown*, never "failed"."""

    code = "chain-unavailable"
    retryable = True


class ExecutionRevertedError(ChainError):
    """The contract would revert this call; the message is the decoded reason."""

    code = "execution-reverted"


class InsufficientFundsError(ChainError):
    """The wallet holds too little of the token; a top-up lets the refund go on."""

    code = "insufficient-funds"
    retryable = True


class WalletPausedError(ChainError):
    """The chain knows nonces that the ledger does not; none is given out meanwhile."""

    code = "wallet-paused"
    retryable = True


class BroadcastRejectedError(ChainError):
    """
    The node did not take these bytes.

    ``reason`` is one of ``nonce-too-low``, ``nonce-too-high``, ``underpriced``,
    ``insufficient-funds``, ``other``.  None of them says that the transaction
    was not mined before.
    """

    code = "broadcast-rejected"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(HotWalletError):
    """The database failed in a way that has no better name."""

    code = "store-failed"


class StoreUnavailableError(StoreError):
    """The database did not answer in time."""

    code = "store-unavailable"
    retryable = True


class StaleStateError(StoreError):
    """Somebody else moved the row first.  Read it again; nothing was changed."""

    code = "stale-state"
    retryable = True


class KeyRotatedError(StaleStateError):
    """Another key is the active one now; nothing was changed."""

    code = "key-rotated"
