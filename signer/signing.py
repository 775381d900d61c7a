"""One pinned key: a digest goes in, a verified signature comes out."""

import secrets
import time
from collections.abc import Callable
from typing import Self

from eth_utils.address import is_same_address
from eth_utils.crypto import keccak

from signer.audit import AuditLog, Operation, Purpose, Subject
from signer.der import parse_public_key, parse_signature
from signer.errors import HotWalletError, KeyUnusableError
from signer.ports import DeviceSignature, KeyBackend, KeyId
from signer.secp256k1 import (
    PublicKey,
    Signature,
    UnrepresentableError,
    checked_digest,
    recoverable,
)


class Signer:
    """
    Signs with one key for life; rotation makes a new signer.

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
    ) -> None:
        self._backend = backend
        self._audit = audit
        self._timer = timer
        self.key_id = key_id
        self.public_key = public_key
        self.address = public_key.address
        self._subject = Subject(backend.name, key_id, self.address)

    @classmethod
    def open(
        cls,
        backend: KeyBackend,
        key_id: KeyId,
        audit: AuditLog,
        *,
        expected_address: str | None = None,
    ) -> Self:
        """
        Fetch and pin the public key of *key_id*.

        Raises:
            KeyUnusableError: Its address is not *expected_address*.
            EncodingError: The device's answer is not a secp256k1 key.
            BackendError: The device did not answer, or has no such key.
        """
        public_key = parse_public_key(backend.public_key(key_id))
        address = public_key.address
        if expected_address and not is_same_address(expected_address, address):
            raise KeyUnusableError(
                f"the key's address is {address}, not the expected {expected_address}"
            )
        return cls(backend, key_id, public_key, audit)

    def sign_digest(self, digest: bytes, purpose: Purpose) -> Signature:
        """
        Return the signature over the 32 bytes of *digest*, signed as given.

        Raises:
            InvalidInputError: Not a digest; the device was not asked.
            EncodingError: The device answered with no strict DER signature.
            RecoveryError: The device signed something else, or with another key.
            BackendError: The device did not sign.
        """
        checked_digest(digest)
        self._audit.intent(purpose, self._subject, digest)
        attempt = _Attempt()
        started = self._timer()
        try:
            signature = self._signed(digest, attempt)
        except HotWalletError as e:
            attempt.outcome = e.code
            raise
        else:
            attempt.outcome = "success"
        finally:
            self._audit.outcome(
                purpose,
                self._subject,
                digest=digest,
                outcome=attempt.outcome,
                seconds=self._timer() - started,
                device_request_id=attempt.device_request_id,
            )
        return signature

    def self_test(self) -> None:
        """
        Prove that the device signs with the pinned key, now.

        The digest is of bytes that no transaction or message begins with, and
        fresh each time, so that the signature is of no use to anybody.

        Raises:
            SigningError: It does not.
        """
        digest = keccak(b"\x19hotwallet self-test\n" + secrets.token_bytes(32))
        self.sign_digest(digest, Purpose(Operation.SELF_TEST, actor="self-test"))

    def _signed(self, digest: bytes, attempt: "_Attempt") -> Signature:
        try:
            return self._verified(digest, attempt)
        except UnrepresentableError:
            # The next signature has another R.  Twice in a row is no accident.
            return self._verified(digest, attempt)

    def _verified(self, digest: bytes, attempt: "_Attempt") -> Signature:
        answer: DeviceSignature = self._backend.sign_digest(self.key_id, digest)
        attempt.device_request_id = answer.request_id
        r, s = parse_signature(answer.der)
        return recoverable(r, s, digest, self.public_key)


class _Attempt:
    """What is known of a signature while it is being made."""

    __slots__ = ("device_request_id", "outcome")

    def __init__(self) -> None:
        self.device_request_id: str | None = None
        self.outcome = "internal-error"
