"""
The seams: what the core asks of the outside world, and the values that cross.

Each capability is its own Protocol.  mypy proves that the backends fit where
``api/bootstrap.py`` assigns them; ``tests/contract`` proves it at run time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NewType, Protocol

from signer.refunds.limits import NO_LIMITS, Limits
from signer.refunds.refund import (
    InFlight,
    Move,
    Page,
    Refund,
    SignedTransaction,
    Status,
)
from signer.refunds.wallet import Pause, Sighting, Wallet


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
    gas_limit: int
    block: Block


Whereabouts = Literal["mined", "pending", "unknown"]
"""Where one node has a transaction; ``unknown`` proves nothing."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """
    What a single node says at the moment, which nobody voted on.

    ``node`` is its place in the configuration (``node-1``), since URLs are secrets.
    ``counted`` and ``pending`` are the sender's next nonce in the node's newest block
    and behind its pool.  ``error`` is a code where it did not answer, and all else is
    then None or empty; ``trusted`` says whether its word counts at present.
    """

    node: str
    trusted: bool
    head: int | None = None
    counted: int | None = None
    pending: int | None = None
    transactions: Mapping[str, Whereabouts] = field(default_factory=dict)
    error: str | None = None


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

    def pending_count(self, address: str) -> int:
        """
        Return the next nonce of *address* behind all that is waiting to be mined.

        The highest that any node knows: whoever gives out nonces must not miss a
        transaction, and waits for nothing worse than for a node that is wrong.
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

    def views(self, sender: str, tx_hashes: Sequence[str]) -> Sequence[NodeView]:
        """
        Return what each node says of *sender* and of *tx_hashes*, in their order.

        For people who look for a reason; nothing is decided by it.  Never raises.
        """


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

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Take up refunds that are due, those first that wait longest.

        Until *until* nobody else does.  A claim is a change like any other: whoever
        had the refund before and wakes up late finds its version gone.  What is due
        much later than any claim or delay lasts was dated by a clock that was wrong,
        and counts as due.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return refunds that were sent and are not final, oldest first.

        *after* is the id of the last one of the previous batch.
        """

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return open refunds of a wallet with nonces below *nonce*, lowest first."""

    def reserve(
        self,
        refund: Refund,
        *,
        sender: str,
        key_id: str,
        gas_limit: int,
        counted: int,
        at: datetime,
        limits: Limits = NO_LIMITS,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, in one transaction.

        The nonce is one past the highest that any row holds for this chain and sender.
        *counted* is what the chain counts.  *limits* bound what all refunds of its
        token together may pay, whoever reserves at the same time.

        Raises:
            LimitReachedError: It would pay too much.
            StaleStateError: The refund is not as *refund* says any more, or a sighting
                has paid it; its wallet is paused or not opened; or *counted* is ahead
                of the ledger.
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

    def answer(self, refund_id: str) -> str | None:
        """Return what the request that made this refund was answered, if it was."""

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """Keep *body* as that answer, and return it; or the one that was first."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, if it was opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every wallet that was opened, by chain and address."""

    def open_wallet(self, wallet: Wallet) -> None:
        """Begin to keep the nonces of *wallet*, unless somebody did before."""

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        """
        Give out no more nonces of *wallet*.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def sight(self, wallet: Wallet, seen: Sequence[Sighting]) -> None:
        """
        Write down what the chain had and the ledger did not.

        What was sighted before stays as it was.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def foreign(self, chain_id: int, sender: str) -> Sequence[Sighting]:
        """Return the foreign sightings that nobody accepted yet, lowest nonce first."""

    def resume(self, wallet: Wallet, at: datetime) -> None:
        """
        Give out nonces of *wallet* again, and accept its foreign sightings.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def stop(self, chain_id: int, at: datetime) -> bool:
        """
        Give out no more nonces on a chain, whatever its wallets; say if it was going.

        Once this returns, no reservation is under way either.
        """

    def stopped(self, chain_id: int) -> datetime | None:
        """Return since when a chain is stopped."""

    def go_on(self, chain_id: int) -> bool:
        """Let a chain that was stopped go on; say whether it was."""

    def sighting(self, chain_id: int, sender: str, mark: bytes) -> Sighting | None:
        """Return the sighting that paid the refund with *mark*, if there is one."""

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by the mined one that a sighting made of it.

        Raises:
            StaleStateError: The stored version is not that of *before*, or the nonce
                is another refund's.
        """

    def check(self) -> None:
        """Do nothing, through the database: raises when it is not usable."""
