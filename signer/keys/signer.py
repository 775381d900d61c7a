"""One pinned key: a digest goes in, a verified signature comes out."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from eth_utils.address import is_same_address
from eth_utils.crypto import keccak

from signer.audit.log import SUCCESS, AuditLog
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import (
    PublicKey,
    Signature,
    UnrepresentableError,
    checked_digest,
    recoverable,
)
from signer.errors import BackendError, HotWalletError, KeyUnusableError, SigningError
from signer.keys.signing_alarm import SigningAlarm
from signer.model.audit_record import NOTHING, Operation, Purpose, Record, Subject
from signer.model.key import SERVING, KeyState, SigningCondition
from signer.ports import DeviceSignature, KeyBackend, KeyId


SELF_TEST = Purpose(Operation.SELF_TEST, actor="self-test")


def self_test_digest() -> bytes:
    """
    Return a digest for a signature that is of no use to anybody.

    It is of bytes that no transaction or message begins with, and fresh each time.
    """
    return keccak(b"\x19hotwallet self-test\n" + secrets.token_bytes(32))


class Signer:
    """
    Signs with one key, in one place, for life; rotation makes a new signer, and so does
    relocation.

    An operation in flight therefore finishes, and verifies, against the key that
    it started with.  Instances may be shared by threads as far as the backend
    may, and both of ours may.
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
    ) -> None:
        self._backend = backend
        self._alarm = alarm
        self._audit = audit
        self._timer = timer
        self.key_id = key_id
        self.public_key = public_key
        self.address = public_key.address
        self.last_signature_at: float | None = None  # As time.monotonic() has it.
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
    ) -> Self:
        """
        Fetch and pin the public key of *key_id*; *alarm* is told when it does not sign.

        Raises:
            KeyUnusableError: Its address is not *expected_address*.
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
        return cls(backend, key_id, public_key, audit, alarm=alarm)

    def sign_digest(
        self, digest: bytes, purpose: Purpose, *, while_active: bool = False
    ) -> Signature:
        """
        Return the signature over the 32 bytes of *digest*, signed as given.

        With *while_active* the key must be the ring's active one, and in this place, at
        the moment at which the intent becomes durable.

        Raises:
            InvalidInputError: Not a digest; the device was not asked.
            KeyRotatedError: It is not; the device was not asked.
            EncodingError: The device answered with no strict DER signature.
            RecoveryError: The device signed something else, or with another key.
            BackendError: The device did not sign.
        """
        self.announce(digest, purpose, states=SERVING if while_active else None)
        signed = self.sign(digest, purpose)
        self._audit.write(signed.outcome())
        return signed.signature

    def announce(
        self,
        digest: bytes,
        purpose: Purpose,
        *,
        states: frozenset[KeyState] | None = None,
        pays: str | None = None,
    ) -> None:
        """
        Make the intent to sign *digest* durable.

        Raises:
            InvalidInputError: Not a digest.
            KeyRotatedError: With *states*: the key is in none of them in the ring, or
                in another place; or *pays* is not the active one's address.
            StoreError: The journal cannot be written.
        """
        checked_digest(digest)
        intent = self._audit.intent(purpose, self._subject, digest)
        standing = None
        if states is not None:
            standing = SigningCondition(self.address, self.key_id, states, pays)
        self._audit.write(intent, standing=standing)

    def tell(self, record: Record) -> None:
        """Tell the log of a record that somebody has committed."""
        self._audit.log(record)

    def intent(self, purpose: Purpose) -> Record:
        """
        Draft the intent to sign what is going to be decided in the same commit.

        Whoever commits it may then call ``sign``.
        """
        return self._audit.intent(purpose, self._subject)

    def sign(self, digest: bytes, purpose: Purpose) -> "Signed":
        """
        Return the signature for an intent that is durable already.

        The caller makes the outcome durable before the signature leaves the process.
        When the device does not sign, that is written here.

        Raises:
            InvalidInputError, SigningError: As ``sign_digest``.
        """
        checked_digest(digest)
        attempt = _Attempt()
        outcome = "internal-error"
        signature = None
        try:
            signature = self._signed(digest, attempt)
        except HotWalletError as e:
            outcome = e.code
            self._report(purpose, e)
            raise
        finally:
            if signature is None:
                self._audit.write(
                    self._outcome(purpose, digest, attempt, outcome, NOTHING)
                )
        self._report(purpose, None)
        self.last_signature_at = time.monotonic()

        def succeeded(**details: str | int) -> Record:
            return self._outcome(purpose, digest, attempt, SUCCESS, details)

        return Signed(signature, succeeded, self._audit)

    def prove(self, purpose: Purpose) -> None:
        """
        Prove that the device signs with the pinned key, now.

        Raises:
            SigningError: It does not.
        """
        self.sign_digest(self_test_digest(), purpose)

    def self_test(self, *, while_active: bool = False) -> None:
        """
        Prove it for the sake of health.

        Raises:
            SigningError: As ``prove``.
            KeyRotatedError: As ``sign_digest``.
        """
        self.sign_digest(self_test_digest(), SELF_TEST, while_active=while_active)

    def _report(self, purpose: Purpose, error: HotWalletError | None) -> None:
        """Let the alarm know how the key did; a self-test is its asker's to tell."""
        if self._alarm is None:
            return
        if error is None:
            self._alarm.signed(self.address)
        elif purpose.operation is not Operation.SELF_TEST:
            self._alarm.failed(self.address, error)

    def _signed(self, digest: bytes, attempt: "_Attempt") -> Signature:
        started = self._timer()
        try:
            return self._verified(digest, attempt)
        except UnrepresentableError:
            # The next signature has another R.  Twice in a row is no accident.
            return self._verified(digest, attempt)
        finally:
            attempt.seconds = self._timer() - started

    def _verified(self, digest: bytes, attempt: "_Attempt") -> Signature:
        try:
            answer: DeviceSignature = self._backend.sign_digest(self.key_id, digest)
        except BackendError as e:
            attempt.count(e.attempts, e.request_id)
            raise
        attempt.count(answer.attempts, answer.request_id)
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
            attempts=attempt.asked,
            device_request_ids=attempt.request_ids,
            details=details,
        )


def _require_address(public_key: PublicKey, expected: str | None) -> None:
    address = public_key.address
    if expected and not is_same_address(expected, address):
        raise KeyUnusableError(
            f"the key's address is {address}, not the expected {expected}"
        )


@dataclass(frozen=True, slots=True)
class Signed:
    """
    A verified signature that must not leave before its ``outcome`` is durable.

    ``outcome`` drafts the record, with more details where there are any, and ``audit``
    is where it belongs.
    """

    signature: Signature = field(repr=False)
    outcome: Callable[..., Record] = field(repr=False)
    audit: AuditLog = field(repr=False)


class _Attempt:
    """What is known of a signature while it is being made."""

    __slots__ = ("asked", "request_ids", "seconds")

    def __init__(self) -> None:
        self.asked = 0
        self.request_ids: list[str] = []
        self.seconds = 0.0

    def count(self, attempts: int, request_id: str | None) -> None:
        """Add what one question to the device took."""
        self.asked += attempts
        if request_id is not None:
            self.request_ids.append(request_id)
