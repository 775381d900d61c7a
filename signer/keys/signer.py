"""One pinned key: a digest goes in, a verified signature comes out."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from eth_utils.address import is_same_address

from signer.audit.actions import SUCCESS
from signer.audit.log import AuditLog
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import (
    PublicKey,
    Signature,
    UnrepresentableError,
    checked_digest,
    recoverable,
)
from signer.errors import (
    BackendError,
    HotWalletError,
    KeyUnusableError,
    PolicyViolationError,
    SigningError,
)
from signer.keys.signing_alarm import SigningAlarm
from signer.model.audit_record import NOTHING, Operation, Purpose, Record, Subject
from signer.model.hold import UNSTOPPABLE, stopped_by
from signer.model.key import SERVING, Key, KeyState, SigningCondition
from signer.model.spending_limits import Spending
from signer.policy.rules import NO_DECISION
from signer.ports.key_backend import DeviceSignature, KeyBackend, KeyDirectory, KeyId
from signer.ports.meter import NO_METER, Meter


SELF_TEST = Purpose(Operation.SELF_TEST, actor="self-test")


def self_test_digest() -> bytes:
    """
    Return a random digest whose signature authorises nothing.

    The hashed bytes begin like no transaction and no message, and differ each time.
    """
    return keccak(b"\x19hotwallet self-test\n" + secrets.token_bytes(32))


class Signer:
    """
    Signs with one key, under one key id.

    A rotation or a failover makes a new signer, so that an operation in flight finishes
    with the key that it started with.  Instances are thread-safe if the backend is, and
    all of this project's backends are.
    """

    def __init__(
        self,
        backend: KeyBackend,
        key_id: KeyId,
        public_key: PublicKey,
        audit: AuditLog,
        timer: Callable[[], float] = time.perf_counter,
        *,
        alarm: SigningAlarm | None = None,
        meter: Meter = NO_METER,
    ) -> None:
        self._backend = backend
        self._alarm = alarm
        self._meter = meter
        self._audit = audit
        self._timer = timer
        self.key_id = key_id
        self.public_key = public_key
        self.address = public_key.address
        # When a signature last succeeded, and when one last failed: time.monotonic().
        self.last_results: tuple[float | None, float | None] = (None, None)
        self._subject = Subject(backend.name, key_id, self.address)

    @classmethod
    def open(
        cls,
        backend: KeyBackend,
        key_id: KeyId,
        audit: AuditLog,
        *,
        expected_address: str | None = None,
        alarm: SigningAlarm | None = None,
        meter: Meter = NO_METER,
    ) -> Self:
        """
        Fetch and pin the public key of *key_id*.

        *alarm* records whether this, and each later signature, succeeds; *meter*
        measures the signatures.

        Raises:
            KeyUnusableError: The key's address is not *expected_address*.
            EncodingError: The device's answer is not a secp256k1 key.
            BackendError: The device did not answer, or has no such key.
        """
        try:
            public_key = parse_public_key(backend.public_key(key_id))
            _require_address(public_key, expected_address)
        except SigningError as e:
            if alarm is not None:
                alarm.failed(expected_address, e)
            raise
        return cls(backend, key_id, public_key, audit, alarm=alarm, meter=meter)

    def sign_digest(
        self, digest: bytes, purpose: Purpose, *, while_active: bool = False
    ) -> Signature:
        """
        Return the signature over *digest*, which are 32 bytes and not hashed again.

        With *while_active*, the key must be the ring's active key under this key id
        when the intent becomes durable.

        Raises:
            InvalidInputError: *digest* is not 32 bytes; the device was not asked.
            PolicyViolationError: *purpose* has no decision that allows *digest*.
            KeyRotatedError: Another key or key id is active; the device was not asked.
            EncodingError: The device's answer is not a strict DER signature.
            RecoveryError: The device signed something else, or with another key.
            BackendError: The device did not sign.
            StoreError, AuditLogUnwritableError: The journal or the log cannot be
                written, or is not shipped.
        """
        _require_decision(digest, purpose)
        return self._announce_and_sign(digest, purpose, while_active=while_active)

    def _announce_and_sign(
        self, digest: bytes, purpose: Purpose, *, while_active: bool
    ) -> Signature:
        states = SERVING if while_active else None
        self._announce(digest, purpose, self._condition(purpose, states))
        signed = self._sign(digest, purpose)
        self._audit.write(signed.outcome())
        return signed.signature

    def announce(
        self,
        digest: bytes,
        purpose: Purpose,
        *,
        states: frozenset[KeyState] | None = None,
        pays: str | None = None,
        chain_id: int | None = None,
        named: str = "",
        spendings: tuple[Spending, ...] = (),
    ) -> None:
        """
        Make the intent to sign *digest*, which is for *chain_id*, durable.

        *named* is what ``Hold.forbids`` looks for stopped tokens in.  *spendings* are
        counted in the same transaction.

        Raises:
            InvalidInputError: *digest* is not 32 bytes.
            PolicyViolationError: *purpose* has no decision that allows *digest*.
            KeyRotatedError: *states* is given and the ring has the key in none of them,
                or under another key id; or *pays* is not the active key's address.
            SigningStoppedError: *states* is given, and signing is stopped, or that of
                a token that is *named*.
            LimitReachedError: *states* is given, and a limit of *spendings* is reached.
            StoreError: The journal cannot be written.
            AuditLogUnwritableError: The line of the intent cannot be written.
        """
        _require_decision(digest, purpose)
        condition = self._condition(
            purpose,
            states,
            pays=pays,
            chain_id=chain_id,
            named=named,
            spendings=spendings,
        )
        self._announce(digest, purpose, condition)

    def _condition(
        self,
        purpose: Purpose,
        states: frozenset[KeyState] | None,
        *,
        pays: str | None = None,
        chain_id: int | None = None,
        named: str = "",
        spendings: tuple[Spending, ...] = (),
    ) -> SigningCondition | None:
        if states is None:
            return None
        stop = stopped_by(purpose.operation, chain_id)
        return SigningCondition(
            self.address, self.key_id, states, pays, stop, named, spendings
        )

    def _announce(
        self, digest: bytes, purpose: Purpose, condition: SigningCondition | None
    ) -> None:
        checked_digest(digest)
        self._require_shipped(purpose)
        intent = self._audit.intent(purpose, self._subject, digest)
        self._audit.write_intent(intent, condition)

    def log_intent(self, intent: Record) -> None:
        """Log an *intent* that is durable; raises ``AuditLogUnwritableError``."""
        self._audit.log_intent(intent)

    def intent(self, purpose: Purpose) -> Record:
        """
        Draft an intent for a commit that also decides what will be signed.

        Call ``sign`` only after that commit and ``log_intent``.
        """
        return self._audit.intent(purpose, self._subject)

    def sign(self, digest: bytes, purpose: Purpose) -> "Signed":
        """
        Return the signature for an intent that is already durable and logged.

        The caller must make the outcome durable before the signature leaves the
        process.  If the device does not sign, this method records the outcome.  It
        raises as ``sign_digest``.
        """
        _require_decision(digest, purpose)
        return self._sign(digest, purpose)

    def _require_shipped(self, purpose: Purpose) -> None:
        if purpose.operation not in UNSTOPPABLE:
            self._audit.require_shipped()

    def _sign(self, digest: bytes, purpose: Purpose) -> "Signed":
        checked_digest(digest)
        self._require_shipped(purpose)
        attempt = _Attempt()
        outcome = "internal-error"
        signature = None
        try:
            signature = self._sign_with_retry(digest, attempt)
        except HotWalletError as e:
            outcome = e.code
            self.last_results = self.last_results[0], time.monotonic()
            self._report(purpose, attempt, e)
            raise
        finally:
            if signature is None:
                self._audit.write(
                    self._outcome(purpose, digest, attempt, outcome, NOTHING)
                )
        self._report(purpose, attempt, None)
        self.last_results = time.monotonic(), self.last_results[1]

        def succeeded(**details: str | int) -> Record:
            return self._outcome(purpose, digest, attempt, SUCCESS, details)

        return Signed(digest, signature, succeeded, self._audit)

    def self_test(
        self, purpose: Purpose = SELF_TEST, *, while_active: bool = False
    ) -> None:
        """
        Test the key: sign a random digest, which needs no decision of the policy.

        It raises as ``sign_digest``.
        """
        self._announce_and_sign(self_test_digest(), purpose, while_active=while_active)

    def _report(
        self, purpose: Purpose, attempt: "_Attempt", error: HotWalletError | None
    ) -> None:
        """
        Report the outcome to the meter, and to the alarm.

        Callers report their own self-tests to the alarm.
        """
        self._meter.signed(
            self._backend.name,
            SUCCESS if error is None else error.code,
            attempt.seconds,
            attempts=attempt.calls,
            throttled=attempt.throttled,
        )
        if self._alarm is None:
            return
        self._alarm.called(self._backend.name, attempt.calls, attempt.throttled)
        if error is None:
            self._alarm.signed(self.address)
        elif purpose.operation is not Operation.SELF_TEST:
            self._alarm.failed(self.address, error)

    def _sign_with_retry(self, digest: bytes, attempt: "_Attempt") -> Signature:
        started = self._timer()
        try:
            return self._sign_and_verify(digest, attempt)
        except UnrepresentableError:
            # The next signature has another R.  Two failures in a row are not chance.
            return self._sign_and_verify(digest, attempt)
        finally:
            attempt.seconds = self._timer() - started

    def _sign_and_verify(self, digest: bytes, attempt: "_Attempt") -> Signature:
        try:
            answer: DeviceSignature = self._backend.sign_digest(self.key_id, digest)
        except BackendError as e:
            attempt.count(e.attempts, e.throttled, e.request_id)
            raise
        attempt.count(answer.attempts, answer.throttled, answer.request_id)
        r, s = parse_signature(answer.der)
        return recoverable(r, s, digest, self.public_key)

    def _outcome(
        self,
        purpose: Purpose,
        digest: bytes,
        attempt: "_Attempt",
        outcome: str,
        details: Mapping[str, str | int],
    ) -> Record:
        return self._audit.outcome(
            purpose,
            self._subject,
            digest=digest,
            outcome=outcome,
            seconds=attempt.seconds,
            attempts=attempt.calls,
            device_request_ids=attempt.request_ids,
            details=details,
        )


@dataclass(frozen=True, slots=True)
class SignerFactory:
    """Opens signers of one device's keys, which share the other fields."""

    directory: KeyDirectory
    audit: AuditLog
    alarm: SigningAlarm | None = None
    meter: Meter = NO_METER

    def open(self, key: Key) -> Signer:
        """Return the signer of *key*; raises as ``Signer.open``."""
        return Signer.open(
            self.directory,
            KeyId(key.key_id),
            self.audit,
            expected_address=key.address,
            alarm=self.alarm,
            meter=self.meter,
        )


def _require_decision(digest: bytes, purpose: Purpose) -> None:
    """Require that the policy was asked, and allowed exactly this."""
    if not purpose.allows(digest):
        raise PolicyViolationError(
            "the policy was not asked, or did not allow this signature",
            rule=NO_DECISION,
        )


def _require_address(public_key: PublicKey, expected: str | None) -> None:
    address = public_key.address
    if expected and not is_same_address(expected, address):
        raise KeyUnusableError(
            f"the key has the address {address} instead of the expected {expected}"
        )


@dataclass(frozen=True, slots=True)
class Signed:
    """
    A verified signature that must not leave the process before its outcome is durable.

    ``signature`` was verified over ``digest``, with the signer's key.  ``outcome``
    drafts the audit record, with further details as keyword arguments, and ``audit`` is
    the log to write it to.
    """

    digest: bytes = field(repr=False)
    signature: Signature = field(repr=False)
    outcome: Callable[..., Record] = field(repr=False)
    audit: AuditLog = field(repr=False)


class _Attempt:
    """The calls to the device for one signature."""

    __slots__ = ("calls", "request_ids", "seconds", "throttled")

    def __init__(self) -> None:
        self.calls = 0
        self.throttled = 0
        self.request_ids: list[str] = []
        self.seconds = 0.0

    def count(self, attempts: int, throttled: int, request_id: str | None) -> None:
        """
        Add *attempts* calls, *throttled* of which the device rejected.

        The device calls the last of them *request_id*.
        """
        self.calls += attempts
        self.throttled += throttled
        if request_id is not None:
            self.request_ids.append(request_id)
