"""
The errors of this project, as one tree.

A class defines whether to retry (``retryable``) and a stable ``code`` for machines.
Messages are written by this project.  A vendor's message may name accounts, roles and
endpoints.  It is dropped: backends raise outside of the ``except`` block.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeVar


class HotWalletError(Exception):
    """The base class of all errors of this project; never raised directly."""

    code: ClassVar[str] = "internal-error"
    retryable: ClassVar[bool] = False


class ConfigurationError(HotWalletError):
    """The start-up guard refuses to run; ``refusals`` has the reasons."""

    code = "configuration"

    def __init__(self, *refusals: "Refusal") -> None:
        super().__init__("; ".join(str(refusal) for refusal in refusals))
        self.refusals = refusals

    @property
    def is_transient(self) -> bool:
        """Whether the same configuration may be accepted later."""
        return all(refusal.is_transient for refusal in self.refusals)

    @property
    def exit_status(self) -> int:
        """That of sysexits.h with which the process ends: EX_NOPERM or EX_CONFIG."""
        is_pin_refused = any(refusal.is_pin_refused for refusal in self.refusals)
        return os.EX_NOPERM if is_pin_refused else os.EX_CONFIG


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    One reason not to start: a stable *code*, and a message that says what to do.

    A transient reason may go away by itself: a dependency does not answer at present.
    A PIN is refused (*is_pin_refused*) with another exit status, since each start would
    try it again, and devices lock.
    """

    code: str
    message: str
    is_transient: bool = False
    is_pin_refused: bool = False

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RequestError(HotWalletError):
    """The caller made a mistake; nothing was changed."""

    code = "bad-request"


class InvalidInputError(RequestError):
    """The input is malformed; ``field`` names the invalid field, if there is one."""

    code = "invalid-input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ForeignAddressError(InvalidInputError):
    """The address that is to sign is not the one that signs here."""


class ResultTooLargeError(InvalidInputError):
    """A client of JSON-RPC asks the nodes for more than one answer may have."""

    def __init__(
        self, message: str = "the result is too large: ask for less at once"
    ) -> None:
        super().__init__(message, field="params")


class PolicyViolationError(RequestError):
    """The policy does not allow the request; ``rule`` names the violated rule."""

    code = "policy-violation"

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class ScreeningUnavailableError(HotWalletError):
    """The deny list or the screening service cannot be used, so nothing is paid."""

    code = "screening-unavailable"
    retryable = True


class TreasuryError(HotWalletError):
    """
    The treasury cannot be used, or refuses a top-up.

    ``reason`` is a code: of a failed request, or of the treasury's refusal.
    """

    code = "treasury-failed"
    retryable = True

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(f"the treasury does not top up: {reason}")
        self.reason = reason
        self.is_refusal = is_refusal


class AuthenticationError(RequestError):
    """The request has no token, or an invalid one."""

    code = "unauthenticated"


class RequestSignatureError(RequestError):
    """
    The tenant signs its requests, and this one has no valid signature of it.

    *accept* is the header ``Accept-Signature``, which says what to sign.
    """

    code = "request-signature-invalid"

    def __init__(self, message: str, *, accept: str = "") -> None:
        super().__init__(message)
        self.accept = accept


class PermissionDeniedError(RequestError):
    """The token is valid but lacks the role that the route requires."""

    code = "forbidden"


class UnknownTenantError(PermissionDeniedError):
    """The token is valid, and the tenants file has no tenant for it."""

    code = "unknown-tenant"


class TenantBlockedError(PermissionDeniedError):
    """An administrator blocked the tenant: it changes nothing, and may read."""

    code = "tenant-blocked"


class NotThroughProxyError(RequestError):
    """The request did not come through one of the trusted proxies."""

    code = "not-through-proxy"


class NotFoundError(RequestError):
    """The object does not exist, or it belongs to another tenant."""

    code = "not-found"


class RateLimitedError(RequestError):
    """There were too many requests or refusals; *retry_after* is in seconds."""

    code = "too-many-requests"
    retryable = True

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OpenRefundsLimitError(RateLimitedError):
    """The tenant has as many open refunds as it may have."""

    code = "too-many-open-refunds"


class ConflictError(RequestError):
    """
    The current state does not allow it; for example, the reference is taken.

    ``refund_id`` is the caller's refund that is in the way, if it is one.
    """

    code = "conflict"

    def __init__(self, message: str, *, refund_id: str | None = None) -> None:
        super().__init__(message)
        self.refund_id = refund_id


class IdempotencyMismatchError(ConflictError):
    """The idempotency key was used before for a different request."""

    code = "idempotency-mismatch"


class NonceUsedError(ConflictError):
    """Another transaction has the nonce, or was asked for with it."""

    code = "nonce-used"


class CursorExpiredError(RequestError):
    """Events after the cursor are no longer kept."""

    code = "cursor-expired"


class RotationInProgressError(ConflictError):
    """Another rotation or failover is in progress."""

    code = "rotation-in-progress"
    retryable = True


class VaultOperatorMissingError(ConflictError):
    """The key may not pay from the vault of a network, so it cannot become active."""

    code = "vault-operator-missing"


class ApprovalRequiredError(ConflictError):
    """
    Another administrator must approve the change first.

    ``digest`` identifies the proposal, and the approval expires at ``expires_at``.
    """

    code = "approval-required"

    def __init__(self, message: str, *, digest: str, expires_at: datetime) -> None:
        super().__init__(message)
        self.digest = digest
        self.expires_at = expires_at


class SamePersonError(PermissionDeniedError):
    """The administrator who asked for a change cannot approve it."""

    code = "same-person"


class UnidentifiedOperatorError(PermissionDeniedError):
    """A change that needs two people was requested without a token."""

    code = "operator-not-identified"


class NotCancellableError(ConflictError):
    """The refund has a nonce or a final status, so that it cannot be cancelled."""

    code = "not-cancellable"


class SigningError(HotWalletError):
    """No signature left the process."""

    code = "signing-failed"


class EncodingError(SigningError):
    """The device's answer is not strict DER, or r or s is out of range."""

    code = "signature-encoding"


class RecoveryError(SigningError):
    """The signature does not recover to the pinned key."""

    code = "signature-recovery"


class NewKeyUnhealthyError(SigningError):
    """The new key failed its self-test with code *reason*; the old key stays active."""

    code = "new-key-unhealthy"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether the error may be temporary, right after the key was created."""
        # KMS is eventually consistent: new keys and grants take seconds to be visible.
        return self.reason in {AccessDeniedError.code, KeyNotFoundError.code}


class NewKeyNotFoundError(NewKeyUnhealthyError):
    """No key has the name that the administrator gave; the old key keeps signing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=KeyNotFoundError.code)


class SelfTestPendingError(SigningError):
    """The device was not asked: too many self-tests of the key are unfinished."""

    code = "proofs-pending"
    retryable = True


class AuditLogUnwritableError(SigningError):
    """The line of a signature's intent cannot be written; the device was not asked."""

    code = "audit-log-unwritable"
    retryable = True


class AuditNotShippedError(AuditLogUnwritableError):
    """Too old records are not shipped (``AUDIT_SHIP_MAX_LAG``); nothing was asked."""

    code = "audit-not-shipped"


class BackendError(SigningError):
    """
    The device failed in a way that no subclass describes.

    ``request_id`` is the device's id of the last call, if it returned one, and
    ``attempts`` is the number of calls; both help to find them in the device's log.
    ``throttled`` of the calls were rejected because of the rate.
    """

    code = "backend-failed"

    request_id: str | None = None
    attempts: int = 1
    throttled: int = 0


class BackendUnavailableError(BackendError):
    """The device did not answer, or reported an internal error."""

    code = "backend-unavailable"
    retryable = True


class BackendThrottledError(BackendError):
    """The device throttles requests."""

    code = "backend-throttled"
    retryable = True


class AccessDeniedError(BackendError):
    """The device rejects the credentials, or they have no permission to sign."""

    code = "backend-access-denied"


class PINRefusedError(AccessDeniedError):
    """The token refused the PIN, or one more wrong PIN would lock it."""


class KeyNotFoundError(BackendError):
    """The device has no key with this id."""

    code = "key-not-found"


class AmbiguousKeyError(KeyNotFoundError):
    """Several keys of the device have this id."""

    code = "key-ambiguous"


class KeyUnusableError(BackendError):
    """The key exists but cannot be used: disabled, or of the wrong curve or usage."""

    code = "key-unusable"


class KeyNotProtectedError(KeyUnusableError):
    """Production must not sign with the key; ``refusals`` has the reasons."""

    def __init__(self, message: str, refusals: Iterable[Refusal] = ()) -> None:
        super().__init__(message)
        self.refusals = (*refusals,)


class KeyNotExportableError(HotWalletError, AttributeError):
    """A program asked an HSM account for its private key, which stays in the HSM."""

    code = "key-not-exportable"


class LimitReachedError(HotWalletError):
    """A spending limit is reached; the refund waits until it fits in again."""

    code = "limit-reached"
    retryable = True


class SigningStoppedError(HotWalletError):
    """An operator or an automatic rule stopped signing; the refund waits."""

    code = "signing-stopped"
    retryable = True


class TokenStoppedError(SigningStoppedError):
    """An operator holds the token: nothing that names its contract is signed."""

    code = "token-stopped"


class ChainError(HotWalletError):
    """The node failed in a way that no subclass describes."""

    code = "chain-failed"


class ChainUnavailableError(ChainError):
    """The node did not answer; whether it acted is *unknown*, never "failed"."""

    code = "chain-unavailable"
    retryable = True


class ExecutionRevertedError(ChainError):
    """The contract reverts this call; the message is the decoded revert reason."""

    code = "execution-reverted"


class RevertedCallError(ExecutionRevertedError):
    """As its base, for a call of a client: *data* is what the contract returned."""

    def __init__(self, message: str, *, data: bytes | None = None) -> None:
        super().__init__(message)
        self.data = data


class MethodNotServedError(ChainError):
    """The node lacks a method that a client of JSON-RPC asks for."""


class InsufficientFundsError(ChainError):
    """The wallet holds too little of a token or coin; the refund waits for a top-up."""

    code = "insufficient-funds"
    retryable = True


class GasLimitError(ChainError):
    """The nodes estimate more gas than the token's ``max_gas`` allows."""

    code = "gas-above-limit"
    retryable = True


class FeesAboveRecentError(ChainError):
    """Fees are far above those that the wallet recently paid; the refund waits."""

    code = "fees-above-recent"
    retryable = True


class TooManyInFlightError(ChainError):
    """As many transactions of the wallet as are allowed have no receipt yet."""

    code = "too-many-in-flight"
    retryable = True


class VaultLimitError(ChainError):
    """The vault's caps or its list of operators do not permit the payment now."""

    code = "vault-limit"
    retryable = True


class WalletPausedError(ChainError):
    """The chain has transactions that are not in the ledger; no nonce is reserved."""

    code = "wallet-paused"
    retryable = True


class BroadcastRejectedError(ChainError):
    """
    The node refused the transaction.

    ``reason`` is one of ``nonce-too-low``, ``nonce-too-high``, ``underpriced``,
    ``insufficient-funds`` and ``other``.  The transaction may still have been mined
    before.
    """

    code = "broadcast-rejected"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(HotWalletError):
    """The database failed in a way that no subclass describes."""

    code = "store-failed"


class StoreUnavailableError(StoreError):
    """The database did not answer in time."""

    code = "store-unavailable"
    retryable = True


class StaleStateError(StoreError):
    """Another process changed the row first; nothing was changed: read it again."""

    code = "stale-state"
    retryable = True


class RowNotAuthenticError(StoreError):
    """A row of the ledger has no valid MAC: another program created or changed it."""

    code = "row-not-authentic"


class KeyRotatedError(StaleStateError):
    """Another key, or another id of it, is active now; nothing was changed."""

    code = "key-rotated"


_T = TypeVar("_T")


def require(outcome: _T | Exception) -> _T:
    """Return *outcome*, or raise it if it is an error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
