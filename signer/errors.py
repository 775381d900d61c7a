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

    def __init_subclass__(
        cls, *, code: str | None = None, retryable: bool | None = None
    ) -> None:
        """Give the class its own *code* and *retryable*, or those of its base."""
        super().__init_subclass__()
        cls.code = cls.code if code is None else code
        cls.retryable = cls.retryable if retryable is None else retryable


class ConfigurationError(HotWalletError, code="configuration"):
    """The start-up guard refuses to run; ``refusals`` has the reasons."""

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


class RequestError(HotWalletError, code="bad-request"):
    """The caller made a mistake; nothing was changed."""


class InvalidInputError(RequestError, code="invalid-input"):
    """The input is malformed; ``field`` names the invalid field, if there is one."""

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


class PolicyViolationError(RequestError, code="policy-violation"):
    """The policy does not allow the request; ``rule`` names the violated rule."""

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class ScreeningUnavailableError(
    HotWalletError, code="screening-unavailable", retryable=True
):
    """The deny list or the screening service cannot be used, so nothing is paid."""


class TreasuryError(HotWalletError, code="treasury-failed", retryable=True):
    """
    The treasury cannot be used, or refuses a top-up.

    ``reason`` is a code: of a failed request, or of the treasury's refusal.
    """

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(f"the treasury does not top up: {reason}")
        self.reason = reason
        self.is_refusal = is_refusal


class AuthenticationError(RequestError, code="unauthenticated"):
    """The request has no token, or an invalid one."""


class RequestSignatureError(RequestError, code="request-signature-invalid"):
    """
    The tenant signs its requests, and this one has no valid signature of it.

    *accept* is the header ``Accept-Signature``, which says what to sign.
    """

    def __init__(self, message: str, *, accept: str = "") -> None:
        super().__init__(message)
        self.accept = accept


class PermissionDeniedError(RequestError, code="forbidden"):
    """The token is valid but lacks the role that the route requires."""


class UnknownTenantError(PermissionDeniedError, code="unknown-tenant"):
    """The token is valid, and the tenants file has no tenant for it."""


class TenantBlockedError(PermissionDeniedError, code="tenant-blocked"):
    """An administrator blocked the tenant: it changes nothing, and may read."""


class NotThroughProxyError(RequestError, code="not-through-proxy"):
    """The request did not come through one of the trusted proxies."""


class NotFoundError(RequestError, code="not-found"):
    """The object does not exist, or it belongs to another tenant."""


class RateLimitedError(RequestError, code="too-many-requests", retryable=True):
    """There were too many requests or refusals; *retry_after* is in seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OpenRefundsLimitError(RateLimitedError, code="too-many-open-refunds"):
    """The tenant has as many open refunds as it may have."""


class ConflictError(RequestError, code="conflict"):
    """
    The current state does not allow it; for example, the reference is taken.

    ``refund_id`` is the caller's refund that is in the way, if it is one.
    """

    def __init__(self, message: str, *, refund_id: str | None = None) -> None:
        super().__init__(message)
        self.refund_id = refund_id


class IdempotencyMismatchError(ConflictError, code="idempotency-mismatch"):
    """The idempotency key was used before for a different request."""


class NonceUsedError(ConflictError, code="nonce-used"):
    """Another transaction has the nonce, or was asked for with it."""


class CursorExpiredError(RequestError, code="cursor-expired"):
    """Events after the cursor are no longer kept."""


class RotationInProgressError(
    ConflictError, code="rotation-in-progress", retryable=True
):
    """Another rotation or failover is in progress."""


class VaultOperatorMissingError(ConflictError, code="vault-operator-missing"):
    """The key may not pay from the vault of a network, so it cannot become active."""


class ApprovalRequiredError(ConflictError, code="approval-required"):
    """
    Another administrator must approve the change first.

    ``digest`` identifies the proposal, and the approval expires at ``expires_at``.
    """

    def __init__(self, message: str, *, digest: str, expires_at: datetime) -> None:
        super().__init__(message)
        self.digest = digest
        self.expires_at = expires_at


class SamePersonError(PermissionDeniedError, code="same-person"):
    """The administrator who asked for a change cannot approve it."""


class UnidentifiedOperatorError(PermissionDeniedError, code="operator-not-identified"):
    """A change that needs two people was requested without a token."""


class NotCancellableError(ConflictError, code="not-cancellable"):
    """The refund has a nonce or a final status, so that it cannot be cancelled."""


class SigningError(HotWalletError, code="signing-failed"):
    """No signature left the process."""


class EncodingError(SigningError, code="signature-encoding"):
    """The device's answer is not strict DER, or r or s is out of range."""


class RecoveryError(SigningError, code="signature-recovery"):
    """The signature does not recover to the pinned key."""


class NewKeyUnhealthyError(SigningError, code="new-key-unhealthy"):
    """The new key failed its self-test with code *reason*; the old key stays active."""

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


class SelfTestPendingError(SigningError, code="proofs-pending", retryable=True):
    """The device was not asked: too many self-tests of the key are unfinished."""


class AuditLogUnwritableError(
    SigningError, code="audit-log-unwritable", retryable=True
):
    """The line of a signature's intent cannot be written; the device was not asked."""


class AuditNotShippedError(AuditLogUnwritableError, code="audit-not-shipped"):
    """Too old records are not shipped (``AUDIT_SHIP_MAX_LAG``); nothing was asked."""


class BackendError(SigningError, code="backend-failed"):
    """
    The device failed in a way that no subclass describes.

    ``request_id`` is the device's id of the last call, if it returned one, and
    ``attempts`` is the number of calls; both help to find them in the device's log.
    ``throttled`` of the calls were rejected because of the rate.
    """

    request_id: str | None = None
    attempts: int = 1
    throttled: int = 0


class BackendUnavailableError(BackendError, code="backend-unavailable", retryable=True):
    """The device did not answer, or reported an internal error."""


class BackendThrottledError(BackendError, code="backend-throttled", retryable=True):
    """The device throttles requests."""


class AccessDeniedError(BackendError, code="backend-access-denied"):
    """The device rejects the credentials, or they have no permission to sign."""


class PINRefusedError(AccessDeniedError):
    """The token refused the PIN, or one more wrong PIN would lock it."""


class KeyNotFoundError(BackendError, code="key-not-found"):
    """The device has no key with this id."""


class AmbiguousKeyError(KeyNotFoundError, code="key-ambiguous"):
    """Several keys of the device have this id."""


class KeyUnusableError(BackendError, code="key-unusable"):
    """The key exists but cannot be used: disabled, or of the wrong curve or usage."""


class KeyNotProtectedError(KeyUnusableError):
    """Production must not sign with the key; ``refusals`` has the reasons."""

    def __init__(self, message: str, refusals: Iterable[Refusal] = ()) -> None:
        super().__init__(message)
        self.refusals = (*refusals,)


class KeyNotExportableError(HotWalletError, AttributeError, code="key-not-exportable"):
    """A program asked an HSM account for its private key, which stays in the HSM."""


class LimitReachedError(HotWalletError, code="limit-reached", retryable=True):
    """A spending limit is reached; the refund waits until it fits in again."""


class SigningStoppedError(HotWalletError, code="signing-stopped", retryable=True):
    """An operator or an automatic rule stopped signing; the refund waits."""


class TokenStoppedError(SigningStoppedError, code="token-stopped"):
    """An operator holds the token: nothing that names its contract is signed."""


class ChainError(HotWalletError, code="chain-failed"):
    """The node failed in a way that no subclass describes."""


class ChainUnavailableError(ChainError, code="chain-unavailable", retryable=True):
    """The node did not answer; whether it acted is *unknown*, never "failed"."""


class ExecutionRevertedError(ChainError, code="execution-reverted"):
    """The contract reverts this call; the message is the decoded revert reason."""


class RevertedCallError(ExecutionRevertedError):
    """As its base, for a call of a client: *data* is what the contract returned."""

    def __init__(self, message: str, *, data: bytes | None = None) -> None:
        super().__init__(message)
        self.data = data


class MethodNotServedError(ChainError):
    """The node lacks a method that a client of JSON-RPC asks for."""


class InsufficientFundsError(ChainError, code="insufficient-funds", retryable=True):
    """The wallet holds too little of a token or coin; the refund waits for a top-up."""


class GasLimitError(ChainError, code="gas-above-limit", retryable=True):
    """The nodes estimate more gas than the token's ``max_gas`` allows."""


class FeesAboveRecentError(ChainError, code="fees-above-recent", retryable=True):
    """Fees are far above those that the wallet recently paid; the refund waits."""


class TooManyInFlightError(ChainError, code="too-many-in-flight", retryable=True):
    """As many transactions of the wallet as are allowed have no receipt yet."""


class VaultLimitError(ChainError, code="vault-limit", retryable=True):
    """The vault's caps or its list of operators do not permit the payment now."""


class WalletPausedError(ChainError, code="wallet-paused", retryable=True):
    """The chain has transactions that are not in the ledger; no nonce is reserved."""


class BroadcastRejectedError(ChainError, code="broadcast-rejected"):
    """
    The node refused the transaction.

    ``reason`` is one of ``nonce-too-low``, ``nonce-too-high``, ``underpriced``,
    ``insufficient-funds`` and ``other``.  The transaction may still have been mined
    before.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(HotWalletError, code="store-failed"):
    """The database failed in a way that no subclass describes."""


class StoreUnavailableError(StoreError, code="store-unavailable", retryable=True):
    """The database did not answer in time."""


class StaleStateError(StoreError, code="stale-state", retryable=True):
    """Another process changed the row first; nothing was changed: read it again."""


class RowNotAuthenticError(StoreError, code="row-not-authentic"):
    """A row of the ledger has no valid MAC: another program created or changed it."""


class KeyRotatedError(StaleStateError, code="key-rotated"):
    """Another key, or another id of it, is active now; nothing was changed."""


_T = TypeVar("_T")


def require(outcome: _T | Exception) -> _T:
    """Return *outcome*, or raise it if it is an error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
