"""
The seams: what the core asks of the outside world, and the values that cross.

Each capability is its own Protocol.  mypy proves that the backends fit where
``api/bootstrap.py`` assigns them; ``tests/contract`` proves it at run time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NewType, Protocol

from signer.refunds.refund import (
    Move,
    Page,
    Refund,
    SignedTransaction,
    Status,
)


KeyId = NewType("KeyId", str)
"""Names a key by what never moves: a KMS key ARN, or a CKA_ID in hex."""

Clock = Callable[[], datetime]
"""Answers with the present, in UTC."""


def utc_now() -> datetime:
    """Return the present; the one clock that is not a test's."""
    return datetime.now(UTC)


class KeyBackend(Protocol):
    """
    Where private keys live.  A backend signs digests and knows nothing else.

    Both answers are DER, whatever the device speaks, so that parsing, EIP-2 and
    recovery are written once and every backend runs the same lines.

    Both raise children of ``SigningError``, and ``InvalidInputError`` for what is not
    a digest; nothing else.
    """

    @property
    def name(self) -> str:
        """How audit records call this backend: ``aws-kms``, ``pkcs11``."""

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` (RFC 5480) of *key_id*."""

    def sign_digest(self, key_id: KeyId, digest: bytes) -> "DeviceSignature":
        """Return a DER ``ECDSA-Sig-Value`` (RFC 3279) over *digest*, as given."""


@dataclass(frozen=True, slots=True)
class DeviceSignature:
    """
    What a device answered, not yet believed.

    ``request_id`` is the device's own name for the call (KMS: the request id
    that CloudTrail records), so that the two logs can be matched.
    """

    der: bytes
    request_id: str | None = None

    def __repr__(self) -> str:
        """Signature bytes never reach a log."""
        return f"DeviceSignature(request_id={self.request_id!r})"


class KeyGenerator(KeyBackend, Protocol):
    """A backend that can make keys.  Only provisioning and rotation ask for it."""

    def generate(self, label: str) -> KeyId:
        """Make a new non-extractable secp256k1 key and return its id."""


@dataclass(frozen=True, slots=True)
class Call:
    """
    A contract call that is not signed yet.

    ``sender`` is None where it does not matter who asks; a node may then take any.
    """

    sender: str | None
    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Fees:
    """
    What the chain asks at the moment, in wei per gas.

    ``base_fee`` is None on a chain without EIP-1559, where ``priority_fee`` is the
    whole gas price.
    """

    base_fee: int | None
    priority_fee: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block's place and name."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Log:
    """An event that a contract emitted: topics of 32 bytes each, and data."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a mined transaction."""

    tx_hash: str
    block: Block
    succeeded: bool
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """
    A transaction in a canonical block, whoever signed it.

    ``to`` is None where it made a contract.
    """

    tx_hash: str
    sender: str
    nonce: int
    to: str | None
    data: bytes
    block: Block


class ChainClient(Protocol):
    """
    One network, as its nodes tell it.

    Addresses are EIP-55 strings, hashes are 0x-prefixed lower-case hex.  Every
    method raises ``ChainUnavailableError`` when too few nodes answered in time to
    tell, and when they contradict each other.
    """

    def chain_id(self) -> int:
        """Return the id that the node believes in (``eth_chainId``)."""

    def has_code(self, address: str) -> bool:
        """Say whether a contract lives at *address*."""

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its answer.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """

    def estimate_gas(self, call: Call) -> int:
        """
        Return the gas that *call* would use.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """
        Return the next nonce of *address* behind the block at height *block*.

        None means the latest block.  Only an archive node knows all heights.
        """

    def fees(self) -> Fees:
        """Return the fees of the moment."""

    def broadcast(self, raw: bytes) -> None:
        """
        Hand signed bytes to the network; "already known" is success.

        Raises:
            BroadcastRejectedError: The node said no, and ``reason`` says why.
        """

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of *tx_hash*.  None proves nothing."""

    def receipts(self, tx_hashes: Sequence[str]) -> Mapping[str, Receipt]:
        """Return the receipts that are known; a missing one proves nothing."""

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        """
        Return the canonical transaction that consumed this *nonce* of *sender*.

        None proves nothing: the nonce may not be consumed yet, or so long ago that
        the nodes do not keep the state of that height.
        """

    def latest_block(self) -> Block:
        """Return the head of the chain."""

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if the node has it."""


class Store(Protocol):
    """
    The ledger of refunds.  Every method is one transaction.

    Any number of processes may share it: the constraints of the schema, and the
    version that every change compares, decide who was first.
    All raise ``StoreUnavailableError`` when the database does not answer.
    """

    def find(self, client: str, idempotency_key: str) -> Refund | None:
        """Return the refund that this client's key made, if it made one."""

    def accept(self, refund: Refund) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or find the one that this client's key made.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            IdempotencyMismatchError: The key was used with another fingerprint.
            ConflictError: Another key already asked for the same reference.
        """

    def get(self, refund_id: str) -> Refund | None:
        """Return one refund."""

    def list(
        self,
        client: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return a client's refunds, newest first, from behind *cursor*."""

    def open_refunds(self, limit: int, after: str | None = None) -> Sequence[Refund]:
        """
        Return refunds that something must still happen to, oldest first.

        *after* is the id of the last one of the previous batch.
        """

    def reserve(
        self,
        refund: Refund,
        *,
        sender: str,
        key_id: str,
        gas_limit: int,
        floor: int,
        at: datetime,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, in one transaction.

        The nonce is one past the highest that any row holds for this chain and
        sender, or *floor* (what the chain counts) if that is higher.

        Raises:
            StaleStateError: The refund is not as *refund* says any more.
        """

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
    ) -> None:
        """
        Replace *before* by *after*, and record *transaction*, or do nothing.

        Raises:
            StaleStateError: The stored version is not that of *before*.
        """

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return everything that was ever signed for a refund, first one first."""

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the moves of a refund, first one first."""

    def check(self) -> None:
        """Do nothing, through the database: raises when it is not usable."""
